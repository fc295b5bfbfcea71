"""Readers of captions on disk, one for each format; all return the same thing, in the order of the file.

Each takes the folder of the data set, the split (`train`, `dev` or `test`), and the settings `captions` and `images`
of `DataConfig`. Each raises `DatasetError` for what is absent, malformed, empty or there twice, naming the file, the
line and the cure, and its child `MissingSplitError` for a split that the data set does not have. Whether the photos
are there is not looked at.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.files import (
    SPLIT,
    choose,
    field,
    find_split,
    missing_split,
    names_of,
    photo_folder,
    read_json,
    read_lines,
    read_text,
)
from captioner.errors import DatasetError
from captioner.images import SUFFIXES
from captioner.paths import is_folder
from captioner.plain_json import parse_json

# Flickr8k's official archive spells its folder "Flicker8k_Dataset".
_FLICKR_FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
_IMAGE_FOLDERS = ("images", "Images", ".")
_COLUMNS = {"image", "caption", "split"}
_COCO_KEYS = {"images", "annotations", "id", "file_name", "image_id", "caption"}
_KARPATHY_KEYS = {"images", "filepath", "filename", "split", "sentences", "raw"}


@dataclass(frozen=True)
class CaptionedImage:
    """A photo and its untouched captions."""

    path: Path
    captions: tuple[str, ...]


def read_flickr8k(
    root: Path, split: str, captions: str | None = None, images: str | None = None
) -> list[CaptionedImage]:
    """Read the official Flickr8k files (Hodosh et al. 2013): `Flickr8k.token.txt` and the split lists.

    A line of the first is `NAME.jpg#0`, a tab and a caption; the lists `Flickr_8k.trainImages.txt`,
    `Flickr_8k.devImages.txt` and `Flickr_8k.testImages.txt` hold a name a line.
    """
    return _read_flickr(root, split, captions or "Flickr8k.token.txt", images, "Flickr_8k.{split}Images.txt")


def read_flickr30k(
    root: Path, split: str, captions: str | None = None, images: str | None = None
) -> list[CaptionedImage]:
    """Read the official Flickr30k file (Young et al. 2014), `results_20130124.token`, by lists of names.

    Flickr30k has no official split. Customary are the lists `train.txt`, `val.txt` and `test.txt` of Flickr30k
    Entities (Plummer et al. 2015), a name a line without `.jpg`, or with it, and Karpathy's split, for which see
    `read_karpathy`.
    """
    return _read_flickr(root, split, captions or "results_20130124.token", images, "{split}.txt")


def _read_flickr(root: Path, split: str, captions: str, images: str | None, name_lists: str) -> list[CaptionedImage]:
    name_list, token_file = find_split(root, name_lists, split), find_split(root, captions, split)
    folder = photo_folder(root, choose(root, "images", images, _FLICKR_FOLDERS), split)
    captions_of: dict[str, dict[str, str]] = {}
    for number, line in read_lines(token_file):
        name, separator, caption = line.partition("\t")
        image, hash_sign, index = name.rpartition("#")
        if not (separator and hash_sign and index.isdigit() and caption.strip()):
            raise DatasetError(
                f"{token_file}:{number}: expected NAME.jpg#INDEX, a tab and a caption, found {line[:80]!r}"
            )
        _add(captions_of.setdefault(image, {}), name, caption, f"{token_file}:{number}")
    listed: dict[str, CaptionedImage] = {}
    for number, line in read_lines(name_list):
        name = line.strip()
        if name not in captions_of:
            name = f"{name}.jpg"
        if name not in captions_of:
            raise DatasetError(
                f"{name_list}:{number}: no caption for {line.strip()[:80]} in {token_file}; add some, or delete it"
            )
        _add(listed, name, CaptionedImage(folder / name, tuple(captions_of[name].values())), f"{name_list}:{number}")
    return list(listed.values())


def read_coco(root: Path, split: str, captions: str | None = None, images: str | None = None) -> list[CaptionedImage]:
    """Read the official COCO captions (Chen et al. 2015), of 2017 if they are there, else of 2014.

    Those are `annotations/captions_train2017.json` and `annotations/captions_val2017.json`, which is the split `dev`,
    with the photos in `train2017/` and `val2017/`. The captions of COCO's test photos are not public.
    """
    pattern = _coco_captions(root, captions)
    path = find_split(root, pattern, split)
    folder = photo_folder(root, images or ("{split}2014" if "2014" in pattern else "{split}2017"), split)
    content = read_json(path, _COCO_KEYS)
    names: dict[int, str] = {}
    for number, record in enumerate(field(content, "images", list, str(path))):
        where = f"{path}: images[{number}]"
        _add(names, field(record, "id", int, where), field(record, "file_name", str, where), where)
    captions_of: dict[int, list[str]] = {image: [] for image in names}
    seen: dict[int, None] = {}
    for number, record in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        image = field(record, "image_id", int, where)
        if image not in names:
            raise DatasetError(f"{where}: a caption of image {image}, which images does not list; get a whole copy")
        _add(seen, field(record, "id", int, where), None, where)
        captions_of[image].append(field(record, "caption", str, where))
    for image, its_captions in captions_of.items():
        if not its_captions:
            raise DatasetError(f"{path}: no caption for image {image}, {names[image]}; add some, or delete the image")
    return [CaptionedImage(folder / names[image], tuple(c)) for image, c in captions_of.items()]


def coco_captions_file(root: Path, split: str, captions: str | None) -> Path:
    """Find the file that `read_coco` reads."""
    return find_split(root, _coco_captions(root, captions), split)


def _coco_captions(root: Path, captions: str | None) -> str:
    usual = ("annotations/captions_{split}2017.json", "annotations/captions_{split}2014.json")
    return choose(root, "captions", captions, usual)


def read_karpathy(
    root: Path, split: str, captions: str | None = None, images: str | None = None
) -> list[CaptionedImage]:
    """Read Karpathy's splits (Karpathy and Fei-Fei 2015) of COCO, Flickr30k or Flickr8k, `dataset_*.json`.

    `restval`, photos of COCO's val that are left over, belongs to `train`, as is customary. COCO's photos are in
    `train2014/` and `val2014/`.
    """
    usual = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json")
    path = find_split(root, choose(root, "captions", captions, usual), split)
    wanted = (*names_of(split), "restval") if split == "train" else names_of(split)
    found: set[str] = set()
    listed: dict[str, tuple[str, ...]] = {}
    in_folders = False
    for number, record in enumerate(field(read_json(path, _KARPATHY_KEYS), "images", list, str(path))):
        where = f"{path}: images[{number}]"
        its_split = field(record, "split", str, where)
        found.add(its_split)
        if its_split not in wanted:
            continue
        name = field(record, "filename", str, where)
        if "filepath" in record:
            in_folders = True
            name = f"{field(record, 'filepath', str, where)}/{name}"
        sentences = field(record, "sentences", list, where)
        if not sentences:
            raise DatasetError(f"{where}: no caption for {name}; add some, or delete the image")
        its_captions = tuple(field(s, "raw", str, f"{where}.sentences[{k}]") for k, s in enumerate(sentences))
        _add(listed, name, its_captions, where)
    if not listed:
        raise missing_split(path, split, found)
    folder = photo_folder(root, choose(root, "images", images, (".",) if in_folders else _FLICKR_FOLDERS), split)
    return [CaptionedImage(folder / name, its_captions) for name, its_captions in listed.items()]


def read_csv(root: Path, split: str, captions: str | None = None, images: str | None = None) -> list[CaptionedImage]:
    """Read a CSV file with the columns `image` and `caption`, and `split` unless every split has a file of its own.

    `captions.csv`, `captions.txt` (as Kaggle's copy of Flickr8k has it) or `{split}.csv`; a caption a row, those of a
    photo in any order, a caption with commas in quotation marks; further columns are passed over. The photos are in
    `images/`, `Images/` or beside the file.
    """
    return _read_records(root, split, captions, images, ("captions.csv", "captions.txt", "{split}.csv"), _csv_records)


def read_jsonl(root: Path, split: str, captions: str | None = None, images: str | None = None) -> list[CaptionedImage]:
    """Read a file of JSON objects, one a line: `image`, `caption` (text) or `captions` (a list), and `split` as in CSV.

    `captions.jsonl` or `{split}.jsonl`; photos as in CSV.
    """
    return _read_records(root, split, captions, images, ("captions.jsonl", "{split}.jsonl"), _jsonl_records)


def _read_records(
    root: Path,
    split: str,
    captions: str | None,
    images: str | None,
    usual: tuple[str, ...],
    records: Callable[[Path], Iterator[tuple[int, Any]]],
) -> list[CaptionedImage]:
    pattern = choose(root, "captions", captions, usual)
    path = find_split(root, pattern, split)
    found: set[str] = set()
    captions_of: dict[str, list[str]] = {}
    for number, record in records(path):
        where = f"{path}:{number}"
        if SPLIT not in pattern:
            if "split" not in record:
                raise DatasetError(
                    f"{where}: no split; give every entry one, or every split a file of its own, with {SPLIT} in "
                    "data.captions"
                )
            its_split = field(record, "split", str, where).strip()
            found.add(its_split)
            if its_split not in names_of(split):
                continue
        its_captions = captions_of.setdefault(field(record, "image", str, where).strip(), [])
        if "captions" not in record:
            its_captions.append(field(record, "caption", str, where))
            continue
        several = field(record, "captions", list, where)
        if not several or "caption" in record:
            raise DatasetError(f"{where}: expected either caption, a text, or captions, a list that is not empty")
        its_captions += [field({"captions": c}, "captions", str, where) for c in several]
    if SPLIT not in pattern and not captions_of:
        raise missing_split(path, split, found)
    folder = photo_folder(root, choose(root, "images", images, _IMAGE_FOLDERS), split)
    return [CaptionedImage(folder / image, tuple(c)) for image, c in captions_of.items()]


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and columns of every row."""
    # Strict, or a quotation mark that is never closed would swallow the rest of the file.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in rows:
            if row and not header:
                header = [name.strip() for name in row]
                if not {"image", "caption"} <= set(header):
                    raise DatasetError(
                        f"{path}:{line}: expected the columns image and caption, separated by commas, found "
                        f"{', '.join(header)[:80]}; put the names into the first line"
                    )
                twice = sorted(name for name in _COLUMNS if header.count(name) > 1)
                if twice:
                    raise DatasetError(f"{path}:{line}: the column {twice[0]} is there twice; delete or rename one")
            elif row:
                if len(row) != len(header):
                    raise DatasetError(
                        f"{path}:{line}: expected {len(header)} columns, found {len(row)}; a caption that holds commas "
                        "needs quotation marks around it"
                    )
                yield line, {name: value for name, value in zip(header, row, strict=True) if name in _COLUMNS}
            line = rows.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}:{line}: not CSV ({error}); are the quotation marks in pairs?") from error


def _jsonl_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and object of every line."""
    for number, line in read_lines(path):
        try:
            record = parse_json(line)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise DatasetError(f"{path}:{number}: not JSON ({reason}); every line must be an object") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{path}:{number}: expected a JSON object, found {line[:80]!r}")
        yield number, record


def read_folder(root: Path, split: str, captions: None = None, images: str | None = None) -> list[CaptionedImage]:
    """Read a folder of photos for each split, `train/` and so on, with captions beside the photos.

    Those of `NAME.jpg` are in `NAME.txt`, one a line. The photos come in the order of their names.
    """
    folder = find_split(root, images or SPLIT, split)
    if not is_folder(folder):
        raise DatasetError(f"{folder}: not a folder; put the photos of the split into one, captions beside them")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    sidecars: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() == ".txt" and sidecars.setdefault(path.stem, path) != path:
            raise DatasetError(f"{sidecars[path.stem]}: {path.name} is there, too; make one of the two")
    listed: dict[str, CaptionedImage] = {}
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            continue
        sidecar = sidecars.get(path.stem)
        if sidecar is None:
            raise DatasetError(f"{path}: no captions beside it; write {path.stem}.txt, a caption a line")
        its_captions = tuple(line for _, line in read_lines(sidecar))
        if not its_captions:
            raise DatasetError(f"{sidecar}: no caption in it; write one a line")
        _add(listed, path.stem, CaptionedImage(path, its_captions), str(folder))
    for stem, sidecar in sidecars.items():
        if stem not in listed:
            raise DatasetError(f"{sidecar}: captions of a photo that is not there; add it, or delete them")
    return list(listed.values())


READERS: dict[str, Callable[..., list[CaptionedImage]]] = {
    "flickr8k": read_flickr8k,
    "flickr30k": read_flickr30k,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "folder": read_folder,
}


def _add(items: dict[Any, Any], key: Any, value: Any, where: str) -> None:
    if key in items:
        raise DatasetError(f"{where}: {str(key)[:80]} is there twice; delete one, or rename it")
    items[key] = value
