"""Where the objects of COCO's photos are, and which words of a caption name them.

What a word's attention should lie on is known for the words that name one of COCO's 80 categories, on photos whose
objects of that category have been outlined (Lin et al. 2014).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from captioner.data.annotations import data_root
from captioner.data.files import field, read_json
from captioner.data.readers import coco_captions_file
from captioner.errors import DatasetError
from captioner.recipe import DataConfig

_WORDS = Path(__file__).with_name("coco_words.toml")
_NO_CATEGORY = "none"
_KEYS = {
    *("images", "annotations", "categories", "id", "file_name", "width", "height", "name"),
    *("image_id", "category_id", "segmentation", "counts", "size"),
}


@cache
def category_words() -> Mapping[str, str | None]:
    """Words and phrases of captions, blanks between their words, and the category of COCO that each surely names.

    It is None for phrases that hold the word of a category but name none, such as "bus stop".
    """
    listed = tomllib.loads(_WORDS.read_text(encoding="utf-8"))
    return MappingProxyType(
        {
            phrase: None if category == _NO_CATEGORY else category
            for category, phrases in listed.items()
            for phrase in phrases
        }
    )


@cache
def _longest() -> int:
    return max(len(phrase.split()) for phrase in category_words())


def named_categories(words: Sequence[str]) -> list[tuple[int, str]]:
    """Find the words of a caption that name a category.

    Of phrases that begin at the same word the longest counts, so that a hot dog is no dog.

    Parameters
    ----------
    words : sequence of str
        Tokenised, lower case.

    Returns
    -------
    list of (int, str)
        Index of the word, of a phrase the last, for by then the model knows what it is to name; and the category.
    """
    phrases = category_words()
    found = []
    start = 0
    while start < len(words):
        ends = range(min(start + _longest(), len(words)), start, -1)
        end = next((end for end in ends if " ".join(words[start:end]) in phrases), None)
        if end is None:
            start += 1
            continue
        category = phrases[" ".join(words[start:end])]
        if category is not None:
            found.append((end - 1, category))
        start = end
    return found


@dataclass(frozen=True)
class Instances:
    """The outlined objects of one photo.

    Attributes
    ----------
    width, height : int
        Of the photo, pixels.
    segmentations : mapping of str to tuple
        Of each category that is in the photo its objects, as COCO writes them: polygons, or run lengths for crowds.
    """

    width: int
    height: int
    segmentations: Mapping[str, tuple[Any, ...]]

    def fits(self, width: int, height: int) -> bool:
        """Whether a photo of so many pixels is the one outlined or a smaller copy, not one turned or cropped since."""
        return abs(width * self.height / (height * self.width) - 1) < 0.02  # sides of a smaller copy are rounded

    def mask(self, category: str) -> np.ndarray:
        """Pixels (height, width) bool of all objects of the category together; none if it is not in the photo."""
        segmentations = self.segmentations.get(category, ())
        if not segmentations:
            return np.zeros((self.height, self.width), bool)
        runs = [run for segmentation in segmentations for run in _runs(segmentation, self.width, self.height)]
        pixels: np.ndarray = coco_mask.decode(coco_mask.merge(runs))
        return pixels.astype(bool)


def read_instances(path: Path) -> dict[str, Instances]:
    """Read the objects of COCO's photos, `instances_*.json` (Lin et al. 2014), by the photos' file names.

    Raises
    ------
    DatasetError
        If the file is absent or malformed.
    """
    content = read_json(path, _KEYS)
    categories: dict[int, str] = {}
    for number, record in enumerate(field(content, "categories", list, str(path))):
        where = f"{path}: categories[{number}]"
        categories[field(record, "id", int, where)] = field(record, "name", str, where)
    sizes: dict[int, tuple[str, int, int]] = {}
    for number, record in enumerate(field(content, "images", list, str(path))):
        where = f"{path}: images[{number}]"
        width, height = (field(record, side, int, where) for side in ("width", "height"))
        if min(width, height) < 1:
            raise DatasetError(f"{where}: {width} x {height} pixels; get a whole copy")
        sizes[field(record, "id", int, where)] = field(record, "file_name", str, where), width, height
    segmentations: dict[int, dict[str, tuple[Any, ...]]] = {image: {} for image in sizes}
    for number, record in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        image, category = field(record, "image_id", int, where), field(record, "category_id", int, where)
        if image not in sizes or category not in categories:
            raise DatasetError(
                f"{where}: image {image} or category {category} is not among those the file lists; get a whole copy"
            )
        segmentation = record.get("segmentation")
        if not _is_segmentation(segmentation, *sizes[image][1:]):
            raise DatasetError(
                f"{where}: expected segmentation to be polygons of three points or more, or uncompressed run lengths "
                f"of the whole photo, found {str(segmentation)[:80]}; get a whole copy"
            )
        name = categories[category]
        segmentations[image][name] = (*segmentations[image].get(name, ()), segmentation)
    return {
        Path(name).name: Instances(width, height, segmentations[image])
        for image, (name, width, height) in sizes.items()
    }


def _runs(segmentation: Any, width: int, height: int) -> list[Any]:
    """Run lengths of one object as `pycocotools` has them, of polygons each its own."""
    runs = coco_mask.frPyObjects(segmentation, height, width)
    return runs if isinstance(runs, list) else [runs]


def _is_segmentation(value: Any, width: int, height: int) -> bool:
    """Whether COCO's own code, which checks little, can be trusted with it."""
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and _are_numbers(polygon)
            for polygon in value
        )
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return False
    # Compressed run lengths, which COCO's own files do not have, cannot be checked; bad ones crash its code.
    counts = value.get("counts")
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        return False
    return sum(counts) == width * height


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and abs(value) < 1e6 for value in values)


def instances_beside(config: DataConfig, split: str) -> Path | None:
    """Find the file of the objects of a split's photos, where a data set has one.

    For `format = "coco"`, `instances_*.json` beside the split's `captions_*.json`; for Karpathy's split of COCO, whose
    `dev` and `test` are of the val photos of 2014, `annotations/instances_val2014.json`, and that of train for `train`,
    which lacks the photos of `restval`.

    Raises
    ------
    DatasetError
        If the captions are not there.
    """
    root = data_root(config)
    if config.format == "coco":
        captions = coco_captions_file(root, split, config.captions)
        path = captions.with_name(captions.name.replace("captions", "instances"))
        return path if path != captions and path.is_file() else None
    if config.format == "karpathy":
        path = root / "annotations" / f"instances_{'train' if split == 'train' else 'val'}2014.json"
        return path if path.is_file() else None
    return None
