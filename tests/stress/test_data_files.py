"""Captions, recipes, outlines, metrics and results as no one should write them: read right, or refused in one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evaluate
import train
from captioner.batch.journal import Index
from captioner.cli import main
from captioner.curves import draw_curves
from captioner.data.annotations import read_split
from captioner.data.features import FeatureStore
from captioner.data.instances import read_instances
from captioner.data.readers import READERS
from captioner.evaluation.results import Evaluation
from captioner.history import read_runs
from captioner.recipe import DataConfig, Recipe
from captioner.vocabulary import Vocabulary, tokenize
from tests.batch.conftest import Caption, save_tiny
from tests.conftest import noise_photo
from tests.data.test_readers import MAKERS, TRAIN, Captions, csv_text, flickr_tokens, write
from tests.evaluation.test_results import made
from tests.stress.hostile import mutant, said

Effort = Callable[[int, int], int]
Tally = Callable[[str], None]
tiny = pytest.fixture(scope="module")(lambda tmp_path_factory: save_tiny(tmp_path_factory.mktemp("m") / "tiny", 0))

# Captions that must come out as they went in: line ends that are none, directions, joiners, combining marks, emoji.
UNICODE = (
    "Ein Hund läuft über die Straße",
    "کتاب‌ها روی میز",
    "הכלב רץ על הדשא",
    "犬が芝生の上を走る",
    "ถนนสายหนึ่ง",
    "한국어 문장",
    "नमस्ते दुनिया",
    "e\u0301te\u0301 un chien",
    "👩‍👩‍👧‍👦 a family 🏳️‍🌈 flag",
    "a\u2028dog\u2029runs\x85on\x0bthe\x0cgrass\x1c\x1d\x1e",
    "zero\u200bwidth\u200djoin\ufeff mark",
    "\u202eright to left\u202c",
    "=cmd|' /C calc'!A0",
    "\U0001f469\U0001f3fd 𝒎𝒂𝒕𝒉 ﷽ \U0010fffd",
    "tab\tinside",
)
NAMES = [
    "a b.jpg",
    "it's.jpg",
    'q"uote.jpg',
    "-rf.jpg",
    "$(x).jpg",
    "=1+1.jpg",
    "犬.jpg",
    "👩‍👧.jpg",
    "\u202egpj.exe.jpg",
    "é.jpg",
]


def test_unicode_comes_untouched_from_every_reader_to_the_vocabulary(tmp_path: Path, tally: Tally) -> None:
    photos: Captions = {name: (text, text + " .") for name, text in zip(NAMES, UNICODE, strict=False)}
    photos["rest.jpg"] = UNICODE
    for folder in ("images", "Flicker8k_Dataset", "flickr30k-images", "train2017"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "Flickr8k.token.txt", flickr_tokens(photos))
    write(tmp_path / "Flickr_8k.trainImages.txt", "".join(f"{name}\r\n" for name in photos))
    write(tmp_path / "results_20130124.token", flickr_tokens(photos))
    write(tmp_path / "train.txt", "".join(f"{name}\n" for name in photos))
    write(tmp_path / "captions.csv", csv_text(train=photos))
    lines = [{"image": name, "captions": texts, "split": "train"} for name, texts in photos.items()]
    write(
        tmp_path / "captions.jsonl",
        "".join(json.dumps(line, ensure_ascii=n % 2 > 0) + "\n" for n, line in enumerate(lines)),
    )
    images = [{"id": -n if n % 2 else n * 10**15, "file_name": name} for n, name in enumerate(photos)]
    rows = [(image["id"], text) for image, texts in zip(images, photos.values(), strict=True) for text in texts]
    notes = [{"image_id": image, "id": n, "caption": text} for n, (image, text) in enumerate(rows)]
    write(tmp_path / "annotations/captions_train2017.json", json.dumps({"images": images, "annotations": notes}))
    records = [
        {"filename": name, "split": "train", "sentences": [{"raw": text} for text in texts]}
        for name, texts in photos.items()
    ]
    write(tmp_path / "dataset_coco.json", json.dumps({"images": records}, ensure_ascii=False))
    for name, texts in photos.items():
        write(tmp_path / "folder" / "train" / name, b"")
        write(tmp_path / "folder" / "train" / (name.removesuffix(".jpg") + ".txt"), "\n".join(texts))
    for format, reader in READERS.items():
        if format == "karpathy":
            found = reader(tmp_path, "train", images="images")
        else:
            found = reader(tmp_path / "folder" if format == "folder" else tmp_path, "train")
        expected = dict(sorted(photos.items())) if format == "folder" else photos
        read = {image.path.name: image.captions for image in found}
        if format == "folder":
            read = dict(sorted(read.items()))
        assert read == expected, format
    vocabulary = Vocabulary.build((text for texts in photos.values() for text in texts), 1)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json").words == vocabulary.words
    for text in UNICODE:
        words = tokenize(text)
        assert vocabulary.decode(vocabulary.encode(words)) == words
        assert all(word.split() == [word] and word in text.lower() for word in words), text
    tally(f"captions in Unicode: {sum(map(len, photos.values()))} through {len(READERS)} readers, all untouched")


@pytest.mark.parametrize("format", MAKERS)
def test_mutants_of_a_data_set_are_read_or_refused_by_name(
    tmp_path: Path, format: str, effort: Effort, tally: Tally
) -> None:
    draw, outcomes = random.Random(format), Counter[str]()
    MAKERS[format](tmp_path)
    paths = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.stat().st_size]
    for _ in range(effort(40, 1500)):
        path = draw.choice(paths)
        before = path.read_bytes()
        path.write_bytes(mutant(before, draw))
        line = said(lambda: READERS[format](tmp_path, "train"))
        assert not line or str(tmp_path) in line
        outcomes["refused" if line else "read"] += 1
        path.write_bytes(before)
    assert outcomes["refused"]
    tally(f"{format}: mutants {outcomes.total()}, {dict(outcomes)}, no other error")


DEEP, DIGITS = "[" * 100_000, "9" * 10_000
LINES = {
    "deep": DEEP,
    "digits": f'{{"image": {DIGITS}}}',
    "nan": '{"image": NaN, "caption": "a", "split": "train"}',
    "bool": '{"image": true, "caption": "a", "split": "train"}',
    "float": '{"image": 1.5, "caption": "a", "split": "train"}',
    "surrogate": '{"image": "a.jpg", "caption": "half \\ud83d of it", "split": "train"}',
    "surrogate name": '{"image": "\\udc80.jpg", "caption": "a", "split": "train"}',
    "twice": '{"image": "a.jpg", "caption": "one", "caption": "two", "split": "train"}',
    "utf-16": '{"image": "a.jpg"}'.encode("utf-16-le").decode("latin-1"),
    "zero": '{"image": "a.jpg", "caption": "a\0b", "split": "train"}',
    "carriage return": '{"image": "a.jpg",\r"caption": "a", "split": "train"}',
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_json_that_is_wrong_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "images").mkdir()
    good = '{"image": "b.jpg", "caption": "fine", "split": "train"}\n'
    write(tmp_path / "captions.jsonl", good + LINES[kind] + "\n")
    assert "captions.jsonl:2: " in said(lambda: READERS["jsonl"](tmp_path, "train"))


@pytest.mark.parametrize("format", [name for name in MAKERS if name != "folder"])
@pytest.mark.parametrize(
    "damage", ["utf-16", "utf-16-le", "latin-1", "empty", "blank", "returns", "zeros", "pipe", "folder"]
)
def test_another_encoding_is_refused_by_the_files_name(tmp_path: Path, format: str, damage: str) -> None:
    MAKERS[format](tmp_path)
    path = next(p for p in sorted(tmp_path.rglob("*")) if p.is_file() and "Hund" in p.read_text())
    text = path.read_bytes().decode()
    path.unlink()
    contents = {
        "empty": b"",
        "blank": b"\n \n\t\r\n",
        "zeros": bytes(1000),
        "latin-1": "äöü".encode("latin-1") + text.encode(),
    }
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "returns":
        path.write_bytes(text.replace("\r\n", "\n").replace("\n", "\r").encode())
    else:
        path.write_bytes(contents[damage] if damage in contents else text.encode(damage))
    line = said(lambda: READERS[format](tmp_path, "train"))
    # JSON knows a carriage return for a blank, and CSV for the end of a row.
    if damage == "returns" and format in ("csv", "coco", "karpathy"):
        assert not line
        assert dict(sorted((i.path.name, i.captions) for i in READERS[format](tmp_path, "train"))) == dict(
            sorted(TRAIN.items())
        )
    else:
        assert path.name in line or "no caption for" in line or "no train split" in line


def test_a_line_of_100_mb_is_read_in_bounded_time(tmp_path: Path, effort: Effort, tally: Tally) -> None:
    (tmp_path / "images").mkdir()
    size = effort(1, 100) * 1_000_000
    start = time.monotonic()
    text = "word " * (size // 5)
    write(tmp_path / "captions.jsonl", json.dumps({"image": "a.jpg", "caption": text, "split": "train"}))
    assert READERS["jsonl"](tmp_path, "train")[0].captions == (text,)
    write(tmp_path / "captions.csv", f"image,caption,split\na.jpg,{text},train\n")
    assert "captions.csv:2: not CSV" in said(lambda: READERS["csv"](tmp_path, "train"))
    write(tmp_path / "captions.jsonl", "x" * size)
    assert "captions.jsonl:1: not JSON" in said(lambda: READERS["jsonl"](tmp_path, "train"))
    tally(f"lines of {size:,} bytes: 3, read or refused in {time.monotonic() - start:.1f} s")


def test_names_that_lead_elsewhere_are_absent_photos(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "images").mkdir()
    noise_photo(0).save(tmp_path / "images" / "good.jpg")
    names = [
        "../x",
        "/dev/zero",
        "/dev/stdin",
        "x" * 9999,
        "a/" * 3000,
        "\n.jpg",
        "~root/x",
        "$HOME",
        "-",
        "\u202e",
    ]
    lines = [{"image": name, "caption": "a dog", "split": "train"} for name in ["good.jpg", *names]]
    write(tmp_path / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = read_split(DataConfig(str(tmp_path), "jsonl"), "train")
    assert [image.path.name for image in found] == ["good.jpg"]
    for root in ("~nobody-of-this-name/x", "/" + "x" * 1500, "/a\0b", "/dev/null"):
        assert said(lambda root=root: read_split(DataConfig(root, "jsonl"), "train")), root  # type: ignore[misc]
    tally(f"names of photos that lead nowhere or to devices: {len(names)}, all passed over")


RECIPE = '[data]\nroot = "flickr8k"\n[encoder]\nname = "resnet18"\n[decoder]\nhidden_dim = 16\n[train]\nepochs = 3\n'
RECIPES = {
    "empty": b"",
    "deep": b"a = " + DEEP.encode(),
    "digits": f"a = {DIGITS}".encode(),
    "zero": RECIPE.encode() + b"\0",
    "utf-16": RECIPE.encode("utf-16"),
    "latin-1": RECIPE.replace("flickr8k", "\xe4").encode("latin-1"),
    "twice": (RECIPE + "epochs = 4\n").encode(),
    "huge": RECIPE.replace("= 16", "= 1000000000").encode(),
    "larger": RECIPE.replace("= 3", f"= {10**400}").encode(),
    "infinite": (RECIPE + "learning_rate = inf\n").encode(),
    "nan": (RECIPE + "warmup = nan\n").encode(),
    "long rate": (RECIPE + f"learning_rate = {10**400}\n").encode(),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_wrong_recipe_is_one_line_and_exit_code_1(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(RECIPES[kind])
    monkeypatch.chdir(tmp_path)
    assert "recipe.toml" in said(lambda: Recipe.read(path))
    if kind != "digits":
        return  # the commands take seconds, most of all to load a model
    codes = [train.main([str(path)]), main(["data", "check", str(path)]), evaluate.main(["--data", str(path)])]
    assert codes == [1, 1, 1]
    lines = [line for line in capsys.readouterr().err.splitlines() if "recipe.toml" in line]
    assert [line.split(":")[0] for line in lines] == ["train.py", "captioner", "evaluate.py"]


def test_mutants_of_other_files_are_read_or_refused(tmp_path: Path, effort: Effort, tally: Tally) -> None:
    draw, outcomes = random.Random(3), Counter[str]()
    made().save(tmp_path / "result.json")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows: list[dict[str, Any]] = [{"step": n, "train/cider": 1.5 / (n + 1), "learning_rate": 1e-3} for n in range(4)]
    rows += [{"step": 4, "epoch": 1, "dev/bleu4": 12.5, "dev/$\\frac$": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outlines: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 7}],
        "categories": [{"id": 5, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 5, "segmentation": [[0, 0, 5, 0, 5, 5]]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(outlines))
    index = {
        "fingerprint": "f",
        "encoder": {},
        "view": [],
        "precision": "float32",
        "shape": [4, 2],
        "images": [["a", 1]],
    }
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "index.json").write_text(json.dumps(index))
    (tmp_path / "store" / "features.f16").write_bytes(bytes(16))
    record = {"image": "a.jpg", "caption": "a dog", "log_prob": -1.5, "width": 1, "height": 1, "size": 1, "mtime_ns": 1}
    record |= {"model": "m", "decoding": {"beam_size": 3}}
    (tmp_path / "records.jsonl").write_text(2 * (json.dumps(record) + "\n"))

    def load_records(path: Path) -> None:
        with path.open("rb") as file:
            Index(file, str(path))

    readers: dict[str, Callable[[Path], object]] = {
        "result.json": lambda path: Evaluation.load(path).words,
        "recipe.toml": Recipe.read,
        "metrics.jsonl": lambda path: draw_curves(read_runs([path])),
        "instances.json": lambda path: [found.mask("dog") for found in read_instances(path).values()],
        "store/index.json": lambda path: FeatureStore(path.parent),
        "records.jsonl": load_records,
    }
    for name, reader in readers.items():
        path = tmp_path / name
        before = path.read_bytes()
        assert not said(lambda: reader(path)), name  # noqa: B023
        for number in range(effort(10, 600)):
            if name == "metrics.jsonl" and number % 4:
                continue  # drawing takes its time
            path.write_bytes(mutant(before, draw))
            outcomes["refused" if said(lambda: reader(path)) else "read"] += 1  # noqa: B023
        path.write_bytes(before)
    tally(f"results, recipes, metrics, outlines, stores, records: mutants {outcomes.total()}, {dict(outcomes)}")


@pytest.fixture
def caption(tiny: Path) -> Caption:
    """Run the command with the tiny model, in this process."""
    return lambda *arguments: main(["caption", *map(str, arguments), "--device", "cpu", "--checkpoint", str(tiny)])


def test_any_name_of_a_photo_goes_through_every_format(tmp_path: Path, caption: Caption, tally: Tally) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise_photo(0).save(tmp_path / "0.jpg")
    names = [os.fsencode(name) for name in (*NAMES, "new\nline.jpg", "return\r.jpg", "@SUM(A1).jpg", "\x1b[31mred.jpg")]
    names += [b"latin-\xe4.jpg", b"\xff\xfe.jpg", b"x" * 251 + b".jpg"]
    names = [name for name in names if name[:1] != b"."]
    for name in names:
        shutil.copy(tmp_path / "0.jpg", folder / os.fsdecode(name))
    for format in ("jsonl", "csv", "coco", "hf", "txt"):
        place = folder / "metadata.jsonl" if format == "hf" else tmp_path / f"out.{format}"
        assert caption(folder, "--format", format, *([] if format == "txt" else ["--output", place])) in (0, 3)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().split(b"\n") if line]
    assert {os.fsencode(os.path.basename(line["image"])) for line in lines} == set(names)  # noqa: PTH119
    assert all(len(row["caption"]) for row in json.loads((tmp_path / "out.coco").read_bytes()))
    assert len(list(folder.glob("*.txt"))) == len(names)
    tally(f"names of photos: {len(names)} through 5 formats, all told apart and read back")


def test_a_data_set_with_names_that_are_no_text_is_checked(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / split).mkdir()
        for name in (b"\xff-" + split.encode(), b"b-" + split.encode()):
            stem = os.fsencode(tmp_path / split) + b"/" + name
            with open(stem + b".jpg", "wb") as photo, open(stem + b".txt", "w") as text:  # noqa: PTH123
                photo.write(b"no photo")
                text.write("a dog")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[data]\nroot = "{tmp_path}"\nformat = "folder"\n[encoder]\nname = "resnet18"\n')
    assert main(["data", "check", str(recipe)]) == 3
