"""Every reader, on small files in the official format and on what people get wrong in them."""

from __future__ import annotations

import csv
import io
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from captioner.data.annotations import read_split
from captioner.data.readers import READERS
from captioner.errors import DatasetError, MissingSplitError
from captioner.recipe import DataConfig

Captions = dict[str, tuple[str, ...]]
# An umlaut, a quotation mark, a comma, and a line separator that is no end of line.
TRAIN: Captions = {
    "b.jpg": ("A dog, wet, runs.", 'A "dog" runs\u2028on.'),
    "a.jpg": ("Ein Hund läuft.",),
}
DEV: Captions = {"c.jpg": ("A cat sits.", "A cat.")}


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def flickr_tokens(*splits: Captions) -> str:
    return "".join(
        f"{name}#{k}\t{text}\n" for split in splits for name, texts in split.items() for k, text in enumerate(texts)
    )


def make_flickr8k(root: Path) -> None:
    write(root / "Flickr8k.token.txt", flickr_tokens(DEV, TRAIN))
    write(root / "Flickr_8k.trainImages.txt", "".join(f"{name}\n" for name in TRAIN))
    write(root / "Flickr_8k.devImages.txt", "".join(f"{name}\n" for name in DEV))
    (root / "Flicker8k_Dataset").mkdir()


def make_flickr30k(root: Path) -> None:
    write(root / "results_20130124.token", flickr_tokens(DEV, TRAIN))
    # Flickr30k Entities' lists leave out the suffix.
    write(root / "train.txt", "b\r\na\r\n")
    write(root / "val.txt", "c\n")
    (root / "flickr30k-images").mkdir()


def coco_json(split: Captions, first: int = 7) -> dict[str, Any]:
    images = [{"id": first + k, "file_name": name, "height": 1, "license": 3} for k, name in enumerate(split)]
    rows = [(first + k, text) for k, texts in enumerate(split.values()) for text in texts]
    annotations = [{"image_id": image, "id": 100 + k, "caption": text} for k, (image, text) in enumerate(rows)]
    return {"info": {"id": 1}, "licenses": [], "images": images, "annotations": annotations}


def make_coco(root: Path, year: int = 2017) -> None:
    for name, split in (("train", TRAIN), ("val", DEV)):
        write(root / f"annotations/captions_{name}{year}.json", json.dumps(coco_json(split)))
        (root / f"{name}{year}").mkdir()


def karpathy_json(**splits: Captions) -> dict[str, Any]:
    return {
        "dataset": "coco",
        "images": [
            {
                "filename": name,
                "split": split,
                "sentences": [{"raw": text, "tokens": text.split(), "imgid": 0} for text in texts],
            }
            for split, photos in splits.items()
            for name, texts in photos.items()
        ],
    }


def make_karpathy(root: Path) -> None:
    first, second = TRAIN.items()
    content = karpathy_json(val=DEV, train=dict([first]), restval=dict([second]))
    write(root / "dataset_flickr8k.json", json.dumps(content))
    (root / "Flicker8k_Dataset").mkdir()


def csv_text(**splits: Captions) -> str:
    text = io.StringIO()
    rows = [(name, c, split) for split, photos in splits.items() for name, texts in photos.items() for c in texts]
    csv.writer(text).writerows([("image", "caption", "split"), *rows])
    return text.getvalue()


def make_csv(root: Path) -> None:
    write(root / "captions.csv", csv_text(valid=DEV, train=TRAIN))
    (root / "images").mkdir()


def make_jsonl(root: Path) -> None:
    lines = [{"image": name, "captions": texts, "split": "train"} for name, texts in TRAIN.items()]
    lines += [{"image": name, "caption": c, "split": "validation"} for name, texts in DEV.items() for c in texts]
    write(root / "captions.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    (root / "images").mkdir()


def make_folder(root: Path) -> None:
    for folder, split in (("train", TRAIN), ("val", DEV)):
        for name, texts in split.items():
            write(root / folder / name, b"")
            write(root / folder / name.replace(".jpg", ".txt"), "\n".join(texts) + "\n\n")


MAKERS = {
    "flickr8k": make_flickr8k,
    "flickr30k": make_flickr30k,
    "coco": make_coco,
    "karpathy": make_karpathy,
    "csv": make_csv,
    "jsonl": make_jsonl,
    "folder": make_folder,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(format: str, root: Path, split: str = "train", **settings: str) -> Captions:
    return {image.path.name: image.captions for image in READERS[format](root, split, **settings)}


def test_every_format_of_the_settings_has_a_reader() -> None:
    assert set(typing.get_args(typing.get_type_hints(DataConfig)["format"])) == set(READERS) == set(MAKERS)


@pytest.mark.parametrize("format", MAKERS)
def test_captions_come_untouched_in_the_order_of_the_file(root: Path, format: str) -> None:
    MAKERS[format](root)
    expected = dict(sorted(TRAIN.items())) if format == "folder" else TRAIN
    assert list(read(format, root).items()) == list(expected.items())
    assert read(format, root, "dev") == DEV


@pytest.mark.parametrize("format", MAKERS)
def test_a_missing_split_is_told_from_a_broken_one_and_those_there_are_named(root: Path, format: str) -> None:
    MAKERS[format](root)
    with pytest.raises(MissingSplitError, match=r"no test split.*there (is|are) .*train"):
        read(format, root, "test")


@pytest.mark.parametrize("format", MAKERS)
def test_an_empty_folder_is_an_error_that_names_it(root: Path, format: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(str(root))):
        read(format, root)


@pytest.mark.parametrize("format", [name for name in MAKERS if name != "folder"])
def test_text_that_is_not_utf8_is_named_by_its_line(root: Path, format: str) -> None:
    MAKERS[format](root)
    path = next(p for p in root.rglob("*") if p.is_file() and "Hund" in p.read_text())
    path.write_bytes(path.read_bytes() + "\n\nHäuser".encode("latin-1"))
    lines = path.read_bytes().count(b"\n") + 1
    with pytest.raises(DatasetError, match=rf"{path.name}:{lines}: not UTF-8 .*save the file as UTF-8"):
        read(format, root)


@pytest.mark.parametrize("format", ["coco", "karpathy", "csv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_text(root: Path, format: str) -> None:
    MAKERS[format](root)
    path = next(p for p in root.rglob("*") if p.is_file() and "Hund" in p.read_text())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(format, root) == TRAIN


# Flickr


@pytest.mark.parametrize("line", ["a.jpg A dog.", "a.jpg#x\tA dog.", "a.jpg#5\t ", "a.jpg\tA dog", "a.jpg#0\tAgain."])
def test_a_wrong_line_of_flickr_is_named(root: Path, line: str) -> None:
    make_flickr30k(root)
    write(root / "results_20130124.token", "\n" + flickr_tokens(DEV, TRAIN) + line + "\n")
    with pytest.raises(DatasetError, match=r"results_20130124\.token:7: "):
        read("flickr30k", root)


@pytest.mark.parametrize(("name", "message"), [("b", "b.jpg is there twice"), ("z.jpg", "no caption for z.jpg")])
def test_a_wrong_name_in_a_list_is_named(root: Path, name: str, message: str) -> None:
    make_flickr30k(root)
    write(root / "train.txt", f"b\n\na\n{name}\n")
    with pytest.raises(DatasetError, match=rf"train\.txt:4: {message}"):
        read("flickr30k", root)


# COCO


def test_coco_of_2017_comes_before_that_of_2014(root: Path) -> None:
    make_coco(root, 2014)
    assert READERS["coco"](root, "dev")[0].path == root / "val2014" / "c.jpg"
    make_coco(root, 2017)
    assert READERS["coco"](root, "dev")[0].path == root / "val2017" / "c.jpg"
    given = READERS["coco"](root, "dev", captions="annotations/captions_{split}2014.json")
    assert given[0].path == root / "val2014" / "c.jpg"


def _broken(content: dict[str, Any], *path: str | int, value: Any) -> str:
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"json:1: not JSON"),
        ("{\n\n'a': 1}", r"json:3: not JSON"),
        ("[]", r"json: expected images to be a list, found nothing"),
        (_broken(coco_json(TRAIN), "annotations", value=None), r"json: expected annotations to be a list"),
        (_broken(coco_json(TRAIN), "images", 1, "id", value=7), r"images\[1\]: 7 is there twice"),
        (_broken(coco_json(TRAIN), "images", 1, "file_name", value=3), r"images\[1\]: expected file_name to be a text"),
        (_broken(coco_json(TRAIN), "annotations", 2, "id", value=100), r"annotations\[2\]: 100 is there twice"),
        (_broken(coco_json(TRAIN), "annotations", 2, "image_id", value=9), r"annotations\[2\]: a caption of image 9"),
        (_broken(coco_json(TRAIN), "annotations", 2, "image_id", value=7), r"no caption for image 8, a\.jpg"),
        (_broken(coco_json(TRAIN), "annotations", 1, "caption", value=" \n"), r"annotations\[1\]: caption is empty"),
        (_broken(coco_json(TRAIN), "annotations", 1, value={}), r"annotations\[1\]: expected image_id"),
    ],
)
def test_what_is_wrong_in_coco_is_named(root: Path, text: str, message: str) -> None:
    make_coco(root)
    write(root / "annotations/captions_train2017.json", text)
    with pytest.raises(DatasetError, match=rf"captions_train2017\.{message}|captions_train2017\.json: {message}"):
        read("coco", root)


# Karpathy


def test_photos_of_karpathys_coco_are_in_two_folders(root: Path) -> None:
    content = karpathy_json(train=TRAIN, test=DEV)
    for image, folder in zip(content["images"], ("train2014", "val2014", "val2014"), strict=True):
        image["filepath"] = folder
    write(root / "dataset_coco.json", json.dumps(content))
    paths = [image.path for image in READERS["karpathy"](root, "train")]
    assert paths == [root / "train2014" / "b.jpg", root / "val2014" / "a.jpg"]
    (root / "photos").mkdir()
    moved = READERS["karpathy"](root, "test", images="photos")
    assert [image.path for image in moved] == [root / "photos" / "val2014" / "c.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", r"json:1: not JSON"),
        (json.dumps({"photos": []}), r"json: expected images to be a list"),
        (_broken(karpathy_json(train=TRAIN), "images", 1, "filename", value="b.jpg"), r"\[1\]: b\.jpg is there twice"),
        (_broken(karpathy_json(train=TRAIN), "images", 1, "split", value=None), r"\[1\]: expected split to be a text"),
        (_broken(karpathy_json(train=TRAIN), "images", 1, "sentences", value=[]), r"\[1\]: no caption for a\.jpg"),
        (
            _broken(karpathy_json(train=TRAIN), "images", 0, "sentences", 1, "raw", value=""),
            r"\[0\]\.sentences\[1\]: raw is empty",
        ),
    ],
)
def test_what_is_wrong_in_karpathys_file_is_named(root: Path, text: str, message: str) -> None:
    make_karpathy(root)
    write(root / "dataset_flickr8k.json", text)
    with pytest.raises(DatasetError, match=rf"dataset_flickr8k\.(json: images)?{message}"):
        read("karpathy", root)


# CSV


def test_kaggles_file_needs_a_split(root: Path) -> None:
    kaggle = 'image,caption\nb.jpg,"A dog, wet, runs ."\nb.jpg,"A ""dog"" runs ."\na.jpg,A dog .\n'
    write(root / "captions.txt", kaggle)
    (root / "Images").mkdir()
    with pytest.raises(DatasetError, match=r"captions\.txt:2: no split; .*\{split\} in data\.captions"):
        read("csv", root)
    write(root / "train.csv", kaggle)
    found = READERS["csv"](root, "train", captions="{split}.csv")
    assert found[0].captions == ("A dog, wet, runs .", 'A "dog" runs .')
    assert [image.path for image in found] == [root / "Images" / "b.jpg", root / "Images" / "a.jpg"]


def test_files_and_folders_of_splits_are_found_under_the_name_they_have(root: Path) -> None:
    write(root / "texts/captions_valid.csv", "image,caption\nc.jpg,A cat .\n")
    (root / "photos" / "val").mkdir(parents=True)
    found = READERS["csv"](root, "dev", captions="texts/captions_{split}.csv", images="photos/{split}")
    assert found[0].path == root / "photos" / "val" / "c.jpg"
    with pytest.raises(MissingSplitError, match=r"no train split.*texts/captions_valid\.csv"):
        READERS["csv"](root, "train", captions="texts/captions_{split}.csv", images="photos/{split}")


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_split_that_is_not_there_needs_no_folder(root: Path, format: str) -> None:
    MAKERS[format](root)
    for split in ("train", "val"):
        (root / "photos" / split).mkdir(parents=True)
    assert READERS[format](root, "dev", images="photos/{split}")[0].path.parent == root / "photos" / "val"
    with pytest.raises(MissingSplitError, match="no test split"):
        READERS[format](root, "test", images="photos/{split}")


def test_rows_of_a_photo_may_be_apart_and_columns_in_any_order(root: Path) -> None:
    write(
        root / "captions.csv", "split, id, caption, image\ntrain,1,One.,b.jpg\ndev,2,Two.,a.jpg\ntrain,3,Three.,b.jpg\n"
    )
    assert read("csv", root) == {"b.jpg": ("One.", "Three.")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,caption\na.jpg,A dog.\n", r"csv:1: expected the columns image and caption.*found name, caption"),
        ("\nimage;caption;split\n", r"csv:2: expected the columns image and caption.*found image;caption;split"),
        ("image,caption,split\na.jpg,A dog, wet.,train\n", r"csv:2: expected 3 columns, found 4; .*quotation marks"),
        ('image,caption,split\na.jpg,"A\ndog",train\nb.jpg,A dog\n', r"csv:4: expected 3 columns, found 2"),
        ("image,caption,split\na.jpg, ,train\n", r"csv:2: caption is empty"),
        ("image,caption,split\n,A dog.,train\n", r"csv:2: image is empty"),
        ("image,caption,split\na.jpg,A dog.,\n", r"csv:2: split is empty"),
        ('image,caption,split\na.jpg,A.,train\nb.jpg,"A dog.,train\n', r"csv:3: not CSV"),
    ],
)
def test_what_is_wrong_in_csv_is_named(root: Path, text: str, message: str) -> None:
    make_csv(root)
    write(root / "captions.csv", text)
    with pytest.raises(DatasetError, match=rf"captions\.{message}"):
        read("csv", root)


# JSON lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'image': 1}", "not JSON"),
        ('["a.jpg", "A dog."]', "expected a JSON object"),
        ('{"caption": "A dog.", "split": "train"}', "expected image to be a text"),
        ('{"image": "a.jpg", "caption": ["A dog."], "split": "train"}', "expected caption to be a text"),
        ('{"image": "a.jpg", "captions": "A dog.", "split": "train"}', "expected captions to be a list"),
        ('{"image": "a.jpg", "captions": [], "split": "train"}', "expected either caption"),
        ('{"image": "a.jpg", "captions": ["A."], "caption": "A.", "split": "train"}', "expected either caption"),
        ('{"image": "a.jpg", "captions": ["A dog.", ""], "split": "train"}', "captions is empty"),
        ('{"image": "a.jpg", "split": "train"}', "expected caption to be a text, found nothing"),
        ('{"image": "a.jpg", "caption": "A dog."}', "no split"),
    ],
)
def test_what_is_wrong_in_json_lines_is_named(root: Path, line: str, message: str) -> None:
    write(root / "captions.jsonl", f'{{"image": "a.jpg", "caption": "A dog.", "split": "train"}}\n\n{line}\n')
    with pytest.raises(DatasetError, match=rf"captions\.jsonl:3: {message}"):
        read("jsonl", root)


# Folders


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("z.png", r"z\.png: no captions beside it; write z\.txt"),
        ("z.txt", r"z\.txt: captions of a photo that is not there"),
        ("b.txt", r"b\.txt: no caption in it"),
        ("a.PNG", r"train: a is there twice"),
        ("b.TXT", r"b\.TXT: b\.txt is there, too"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(root: Path, name: str, message: str) -> None:
    make_folder(root)
    write(root / "train" / name, "\n")
    with pytest.raises(DatasetError, match=message):
        read("folder", root)


def test_hidden_files_and_other_files_are_no_photos(root: Path) -> None:
    make_folder(root)
    for name in (".hidden.jpg", "._b.txt", "notes.md"):
        write(root / "train" / name, "x")
    assert set(read("folder", root)) == set(TRAIN)


def test_a_recipe_reads_any_format(root: Path) -> None:
    make_folder(root / "deep")
    images = read_split(DataConfig(str(root), "folder", images="deep/{split}"), "dev")
    assert [(image.path, image.captions) for image in images] == [(root / "deep" / "val" / "c.jpg", DEV["c.jpg"])]
