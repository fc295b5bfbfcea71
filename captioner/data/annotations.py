"""The splits of a data set, as its settings describe it: photos with their captions."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.data.readers import READERS, CaptionedImage
from captioner.errors import DatasetError
from captioner.paths import is_file, is_folder
from captioner.recipe import DataConfig

__all__ = ["DATA_VARIABLE", "CaptionedImage", "data_root", "for_scoring", "list_split", "read_split", "with_words"]

log = logging.getLogger(__name__)

DATA_VARIABLE = "CAPTIONER_DATA"


def read_split(config: DataConfig, split: str) -> list[CaptionedImage]:
    """Read one split of a data set.

    Photos the split lists but the disk lacks are reported by a warning and passed over.

    Parameters
    ----------
    config : DataConfig
        Where it is, and in which format.
    split : str
        `train`, `dev` or `test`.

    Raises
    ------
    DatasetError
        If a file is absent or malformed, or none of the photos is there.
    """
    return _present(list_split(config, split), split)


def with_words(images: Iterable[CaptionedImage], split: str) -> list[CaptionedImage]:
    """Leave out captions without a word, of which nothing is learnt but to end at once, and photos that have no other.

    To rewards and scores, their length of nothing would be the closest reference length to a short caption's.

    Raises
    ------
    DatasetError
        If there is no other at all.
    """
    kept = []
    for image in images:
        captions = _worded(image)
        if captions:
            kept.append(dataclasses.replace(image, captions=captions))
        if len(captions) < len(image.captions):
            gone, total = len(image.captions) - len(captions), len(image.captions)
            too = "" if captions else ", as is the photo"
            log.warning("%s: %d of %d captions have no word, passed over%s", image.path.name, gone, total, too)
    if not kept:
        raise DatasetError(f"{split} split: no caption has a word; are they captions?")
    return kept


def _worded(image: CaptionedImage) -> tuple[str, ...]:
    # What `tokenize` counts as a word holds such a sign. It would take a minute for half a million captions.
    return tuple(caption for caption in image.captions if any(map(str.isalnum, caption)))


def for_scoring(images: Sequence[CaptionedImage], split: str) -> list[CaptionedImage]:
    """Leave out captions without a word, but no photo, of what captions are going to be scored on.

    Raises
    ------
    DatasetError
        If nothing is left of a photo's, or there is one photo alone.
    """
    if len(images) < 2:
        raise DatasetError(f"{split} split: one photo alone cannot be scored by CIDEr; it needs two or more")
    empty = [image.path.name for image in images if not _worded(image)]
    if empty:
        raise DatasetError(
            f"{split} split: {empty[0]}: no caption with a word ({len(empty)} such photos); take them off the split"
        )
    return with_words(images, split)


def list_split(config: DataConfig, split: str) -> list[CaptionedImage]:
    """List the photos of a split with their captions, as `read_split` does, whether they are on disk or not.

    Raises
    ------
    DatasetError
        If a file is absent or malformed; `MissingSplitError` if the data set has no such split.
    """
    root = data_root(config)
    if not is_folder(root):
        raise DatasetError(f"{root}: no such folder; put the data set there, or name its folder with data.root")
    return READERS[config.format](root, split, config.captions, config.images)


def data_root(config: DataConfig) -> Path:
    """Folder of the data set.

    Raises
    ------
    DatasetError
        If it is relative and `CAPTIONER_DATA` is not set.
    """
    root = Path(os.path.expanduser(config.root))  # noqa: PTH111 - unlike Path's, no error for users there are not
    if not root.is_absolute():
        base = os.environ.get(DATA_VARIABLE)
        if not base:
            raise DatasetError(
                f"data root = {config.root!r} is relative; set the environment variable {DATA_VARIABLE} to the folder "
                "that holds it, or give an absolute path"
            )
        root = Path(base) / root
    return root


def _present(images: list[CaptionedImage], split: str) -> list[CaptionedImage]:
    if not images:
        raise DatasetError(f"{split} split: holds no photo; is its list or folder empty?")
    absent = [image.path for image in images if not is_file(image.path)]
    if len(absent) == len(images):
        raise DatasetError(f"{split} split: none of its {len(images)} photos is there, {absent[0]} for one")
    if absent:
        shown = ", ".join(path.name for path in absent[:5]) + (", ..." if len(absent) > 5 else "")
        log.warning("%s split: %d of %d photos absent, passed over: %s", split, len(absent), len(images), shown)
    gone = set(absent)
    return [image for image in images if image.path not in gone]
