from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import evaluate
from captioner.checkpoint_files import BUNDLED
from captioner.evaluation.results import Evaluation
from tests.conftest import needs_data

HARD = BUNDLED.with_name("flickr8k-hard")
no_java = pytest.mark.usefixtures("no_java")


@pytest.fixture
def recipe(flickr_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\nroot = "{flickr_folder}"\n[encoder]\nname = "resnet18"\n')
    return path


def values(output: str, name: str) -> list[float]:
    """Values of a row of the table."""
    row = next(line for line in output.splitlines() if re.match(rf"{re.escape(name)}  ", line))
    return [float(number) for number in re.findall(r"(-?[\d.]+) ±", row.removeprefix(name))]


@no_java
def test_systems_stand_side_by_side(recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--protocol", "coco", "raw", "--leave-one-out"]
    output = tmp_path / "found"
    assert evaluate.main([str(BUNDLED), str(HARD), *options, "--beam", "1", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "dev split of recipe: 6 photos\nprotocol coco: coco-caption's: words in lower case" in printed
    header = "flickr8k-soft, beam 1  flickr8k-soft, beam 2  flickr8k-hard, beam 1  flickr8k-hard, beam 2"
    assert [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if "soft, beam 1" in line] == [
        header.split("  "),
        ["people", *header.split("  ")],
        header.split("  "),
        ["people", *header.split("  ")],
    ]
    assert "METEOR: not computed: needs Java" in printed
    kept = {path.name: Evaluation.load(path) for path in output.glob("*.json")}
    assert len(kept) == 8
    coco, raw = (kept[f"flickr8k-soft-beam-2-recipe-dev-{protocol}.json"] for protocol in ("coco", "raw"))
    # By the raw protocol "A" and "." of the references are words that no caption has.
    assert raw.scores["BLEU-1"].value < coco.scores["BLEU-1"].value
    assert values(printed, "BLEU-1")[1] == pytest.approx(coco.scores["BLEU-1"].value, abs=0.005)
    assert [photo.name for photo in coco.photos] == [f"photo{number}.jpg" for number in range(24, 30)]
    assert coco.settings["beam_size"] == 2
    assert re.fullmatch("[0-9a-f]{64}", coco.settings["checkpoint_sha256"])
    page = (output / "report-coco.html").read_text()
    assert coco.photos[0].caption in page


@no_java
def test_an_earlier_result_is_compared_with(recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--beam", "1"]
    assert evaluate.main([*options, "--output", str(tmp_path / "found")]) == 0
    first = capsys.readouterr().out
    earlier = tmp_path / "found" / "flickr8k-soft-beam-1-recipe-dev-coco.json"
    assert evaluate.main([str(earlier), str(HARD), *options]) == 0
    both = capsys.readouterr().out
    for name in ("BLEU-1", "CIDEr-D", "perplexity of the references", "attention: entropy, bits"):
        assert values(both, name)[0] == values(first, name)[0]
    # Alone, it needs neither the data nor a model; beside its own system, neither is lost.
    assert evaluate.main([str(earlier), "--data", "no such recipe"]) == 0
    assert values(capsys.readouterr().out, "BLEU-1") == values(first, "BLEU-1")
    assert evaluate.main([str(earlier), str(BUNDLED), *options]) == 0
    again = capsys.readouterr().out
    assert "flickr8k-soft, beam 1  flickr8k-soft, beam 1, now" in again
    assert values(again, "CIDEr-D") == values(first, "CIDEr-D") * 2
    # In the order of the arguments; measured again, the earlier result stays what it is, under a like name, too.
    earlier.write_text(json.dumps(json.loads(earlier.read_text()) | {"system": "flickr8k soft, beam 1"}))
    kept = earlier.read_bytes()
    assert evaluate.main([str(HARD), str(earlier), str(BUNDLED), *options, "--output", str(tmp_path / "found")]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "soft, beam 1" in line)
    systems = ["flickr8k-hard, beam 1", "flickr8k soft, beam 1", "flickr8k-soft, beam 1, now"]
    assert re.split(r"\s{2,}", header.strip()) == systems
    assert earlier.read_bytes() == kept
    assert Evaluation.load(tmp_path / "found" / "flickr8k-soft-beam-1-now-recipe-dev-coco.json").system == systems[2]
    assert "<title>" in (tmp_path / "found" / "report-coco.html").read_text()
    assert evaluate.main([str(earlier), str(BUNDLED), *options, "--protocol", "raw"]) == 1
    assert "scored by protocol coco; ask for it with --protocol coco" in capsys.readouterr().err
    content = json.loads(earlier.read_text())
    content["photos"][2]["references"][0] = "Something else ."
    earlier.write_text(json.dumps(content))
    assert evaluate.main([str(earlier), str(HARD), *options]) == 1
    said = capsys.readouterr()
    assert (
        "evaluated on different data (photo26.jpg is not among the others, or has other references there)" in said.err
    )
    assert said.out == ""


@no_java
def test_what_would_fail_after_the_work_fails_before(
    recipe: Path,
    flickr_folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "measure", lambda *_, **__: pytest.fail("measured"))
    options = ["--data", str(recipe), "--device", "cpu"]
    (tmp_path / "file").touch()
    assert evaluate.main([*options, "--output", str(tmp_path / "file")]) == 1
    assert "choose another --output" in capsys.readouterr().err
    tokens = flickr_folder / "Flickr8k.token.txt"
    tokens.write_text("".join(line for line in tokens.open() if not re.match(r"photo25.jpg#[1-4]", line)))
    assert evaluate.main([*options, "--leave-one-out"]) == 1
    assert "needs two or more references of every photo" in capsys.readouterr().err


@no_java
def test_systems_of_one_name_are_told_apart(recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--beam", "1", "--output", str(tmp_path / "found")]
    # Two have other names, but their files would have the same; two have paths like that, too.
    runs = ["a/run/best", "a/other/best", "b/run/best", "b/some/last", "some-last", "c d/best", "c-d/best"]
    names = [tmp_path / run for run in runs]
    for name in names:
        shutil.copytree(BUNDLED, name)
    assert evaluate.main([*map(str, names), *options]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "beam 1" in line)
    systems = [names[0], "other", *names[2:-1], f"{names[-1]}, another"]
    assert re.split(r"\s{2,}", header.strip()) == [f"{name}, beam 1" for name in systems]
    assert len(list((tmp_path / "found").glob("*.json"))) == 7


@no_java
def test_the_same_thing_twice_is_measured_once(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--protocol", "coco", "coco", "--split", "dev", "dev"]
    assert evaluate.main([str(BUNDLED), str(BUNDLED), *options, "--beam", "1", "1"]) == 0
    printed = capsys.readouterr().out
    assert "dev split of recipe: 6 photos" in printed
    assert len(values(printed, "BLEU-1")) == 1


@no_java
def test_several_splits_are_one_and_copies_of_train_captions_are_counted(
    recipe: Path, flickr_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--beam", "1"]
    assert evaluate.main([*options, "--output", str(tmp_path / "dev")]) == 0
    dev = tmp_path / "dev" / "flickr8k-soft-beam-1-recipe-dev-coco.json"
    said = Evaluation.load(dev).photos[0].caption
    tokens = flickr_folder / "Flickr8k.token.txt"
    tokens.write_text(re.sub(r"(?m)^(photo7.jpg#2\t).*$", rf"\1{said.capitalize()} .", tokens.read_text()))
    assert evaluate.main([*options, "--split", "train", "dev", "--output", str(tmp_path / "both")]) == 0
    both = Evaluation.load(tmp_path / "both" / "flickr8k-soft-beam-1-recipe-train-dev-coco.json")
    assert both.settings["split"] == "train+dev"
    assert [photo.name for photo in both.photos] == [f"photo{number}.jpg" for number in range(30)]
    captions = [photo.caption.split() for photo in both.photos]
    lengths, words = [len(caption) for caption in captions], [word for caption in captions for word in caption]
    assert both.style["captions: copied from train"] == pytest.approx(100 * captions.count(said.split()) / 30)
    assert both.style["captions: copied from train"] > 0
    assert both.style["captions: words"] == pytest.approx(sum(lengths) / 30)
    assert both.style["captions: distinct words"] == pytest.approx(100 * len(set(words)) / len(words))
    assert both.style["captions: different ones"] == pytest.approx(100 * len(set(map(tuple, captions))) / 30)
    # A page shows where the first one looks, whose model must be at hand.
    (tmp_path / "dev" / "report-coco.html").unlink()
    tokens.write_text(re.sub(r"(?m)^(photo7.jpg#2\t).*$", r"\1A dog .", tokens.read_text()))
    assert evaluate.main([str(dev), str(HARD), *options, "--output", str(tmp_path / "dev")]) == 0
    assert "no page: it shows where flickr8k-soft, beam 1 looks, whose model is not among those named" in caplog.text
    assert not (tmp_path / "dev" / "report-coco.html").exists()


@no_java
def test_attention_is_measured_on_request(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--beam", "1"]
    assert evaluate.main([*options, "--attention"]) == 0
    printed = capsys.readouterr().out
    # 12 x 12 cells.
    assert 0 < values(printed, "attention: entropy, bits")[0] < 7.17
    assert 0 < values(printed, "attention: moved between words")[0] < 100
    assert values(printed, "deletion: fall without attended cells")
    assert "objects: " not in printed  # Flickr8k has no outlines
    assert values(printed, "perplexity of the references")[0] > 1
    assert evaluate.main(options) == 0
    assert "deletion" not in capsys.readouterr().out


@no_java
def test_hard_attention_is_scored_by_any_context(recipe: Path, tmp_path: Path) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--seed", "1", "--output", str(tmp_path / "found")]
    assert evaluate.main([str(HARD), *options, "--context", "expectation", "argmax", "sample"]) == 0
    found = [
        Evaluation.load(tmp_path / "found" / f"flickr8k-hard-beam-3{context}-recipe-dev-coco.json")
        for context in ("", "-argmax", "-sample-seed-1")
    ]
    assert [(one.decoding.context, one.decoding.seed) for one in found] == [
        ("expectation", 1),
        ("argmax", 1),
        ("sample", 1),
    ]
    perplexities = {one.scores["perplexity of the references"].value for one in found}
    assert len(perplexities) == 3


def test_a_wrong_split_is_one_clear_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--split", "val"]) == 1
    assert "Flickr_8k.valImages.txt" in capsys.readouterr().err


def test_soft_attention_cannot_look_at_one_cell(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--device", "cpu", "--context", "argmax"]) == 1
    assert "evaluate.py: context = 'argmax' needs a model with hard attention" in capsys.readouterr().err


@no_java
def test_what_is_wrong_with_the_data_is_said(
    recipe: Path, flickr_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--data", str(recipe), "--device", "cpu", "--beam", "1"]
    (flickr_folder / "images" / "photo24.jpg").unlink()
    assert evaluate.main(options) == 0
    assert "1 of 6 photos absent, passed over: photo24.jpg" in caplog.text
    assert "dev split of recipe: 5 photos" in capsys.readouterr().out
    tokens = flickr_folder / "Flickr8k.token.txt"
    written = tokens.read_text()
    tokens.write_text(re.sub(r"(?m)^(photo27.jpg#[01]\t).*$", r"\1...", written))
    assert evaluate.main(options) == 0
    assert "photo27.jpg: 2 of 5 captions have no word, passed over" in caplog.text
    tokens.write_text(re.sub(r"(?m)^(photo27.jpg#.\t).*$", r"\1...", written))
    assert evaluate.main(options) == 1
    assert "photo27.jpg: no caption with a word (1 such photos)" in capsys.readouterr().err
    tokens.write_text(written)
    broken = flickr_folder / "images" / "photo25.jpg"
    broken.write_bytes(b"no photo")
    assert evaluate.main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"evaluate.py: {broken}: ")
    assert f"`captioner data check {recipe}` lists all such photos" in error
    assert len(error.splitlines()) == 1


@needs_data("flickr8k")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "at_least"), [("soft", 25.5), ("hard", 25.3)])
def test_the_bundled_models_score_what_the_readme_says(
    name: str, at_least: float, capsys: pytest.CaptureFixture[str], no_java: None
) -> None:
    assert evaluate.main([str(BUNDLED.with_name(f"flickr8k-{name}")), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    scores = [values(printed, metric)[0] for metric in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D")]
    readme = (Path(evaluate.__file__).parent / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith(f"| {name} attention"))
    stated = [float(cell) for cell in row.split("|")[2:7]]
    assert scores == pytest.approx(stated, abs=0.1)
    assert scores[3] >= at_least


@no_java
def test_photos_to_train_on_are_not_needed(
    recipe: Path,
    flickr_folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    shutil.copytree(flickr_folder / "images", tmp_path / "coco" / "val2017")
    for split, count in (("train", 0), ("val", 2)):
        content = {
            "images": [{"id": n, "file_name": f"photo{n}.jpg"} for n in range(count)],
            "annotations": [{"id": n, "image_id": n, "caption": "A dog runs ."} for n in range(count)],
        }
        (tmp_path / "coco" / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(content))
    recipe.write_text(f'[data]\nformat = "coco"\nroot = "{tmp_path}/coco"\n[encoder]\nname = "resnet18"\n')
    assert evaluate.main(["--data", str(recipe), "--device", "cpu", "--beam", "1"]) == 0
    assert f"{tmp_path}/coco: no folder of the train photos: looked for train2017; put it there" in caplog.text
    printed = capsys.readouterr().out
    assert "captions: distinct words" in printed
    assert "copied from train" not in printed  # which would be of nothing, and not 0 %


@needs_data("coco-mini")
@no_java
def test_attention_lies_on_the_objects_of_coco(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mini.toml"
    recipe.write_text('[data]\nformat = "coco"\nroot = "coco-mini"\n[encoder]\nname = "resnet18"\n')
    assert evaluate.main(["--data", str(recipe), "--device", "cpu", "--attention"]) == 0
    printed = capsys.readouterr().out
    assert (
        values(printed, "objects: attention over area")[0]
        > values(printed, "objects: attention over area of a central map")[0]
    )
    fall = [values(printed, f"deletion: fall without {which} cells")[0] for which in ("attended", "random", "central")]
    assert fall[0] > 2 * max(fall[1:])
