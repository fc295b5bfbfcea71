"""Readers of captions on disk, all returning the same thing: a list of `CaptionedImage`."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from captioner.config import DataConfig
from captioner.errors import DatasetError

log = logging.getLogger(__name__)

DATA_VARIABLE = "CAPTIONER_DATA"
# The official archive spells its folder "Flicker8k_Dataset".
_FLICKR_IMAGE_FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset")


@dataclass(frozen=True)
class CaptionedImage:
    """A photo and its untouched captions."""

    path: Path
    captions: tuple[str, ...]


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
    root = Path(config.root).expanduser()
    if not root.is_absolute():
        base = os.environ.get(DATA_VARIABLE)
        if not base:
            raise DatasetError(
                f"data root = {config.root!r} is relative; set the environment variable {DATA_VARIABLE} to the folder "
                "that holds it, or give an absolute path"
            )
        root = Path(base) / root
    return read_flickr8k(root, split)


def read_flickr8k(root: Path, split: str) -> list[CaptionedImage]:
    """Read the official Flickr8k files (Hodosh et al. 2013): `Flickr8k.token.txt` and the split lists."""
    names = _lines(root / f"Flickr_8k.{split}Images.txt")
    captions = defaultdict(list)
    token_file = root / "Flickr8k.token.txt"
    for number, line in enumerate(_lines(token_file), 1):
        name, separator, caption = line.partition("\t")
        image, hash_sign, index = name.rpartition("#")
        if not (separator and hash_sign and index.isdigit() and caption.strip()):
            raise DatasetError(f"{token_file}:{number}: expected NAME.jpg#INDEX, a tab and a caption, found {line!r}")
        captions[image].append(caption)
    folder = next((root / f for f in _FLICKR_IMAGE_FOLDERS if (root / f).is_dir()), None)
    if folder is None:
        raise DatasetError(
            f"{root}: none of the folders {', '.join(_FLICKR_IMAGE_FOLDERS)} is there to hold the photos"
        )
    uncaptioned = [name for name in names if name not in captions]
    if uncaptioned:
        raise DatasetError(f"{token_file}: no caption for {uncaptioned[0]} of the {split} split")
    return _present([CaptionedImage(folder / name, tuple(captions[name])) for name in names], split)


def _present(images: list[CaptionedImage], split: str) -> list[CaptionedImage]:
    absent = [image.path for image in images if not image.path.is_file()]
    if len(absent) == len(images):
        raise DatasetError(f"{split} split: none of its {len(images)} photos is there, {absent[:1]} for one")
    if absent:
        shown = ", ".join(path.name for path in absent[:5]) + (", ..." if len(absent) > 5 else "")
        log.warning("%s split: %d of %d photos absent, passed over: %s", split, len(absent), len(images), shown)
    gone = set(absent)
    return [image for image in images if image.path not in gone]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error}); is the data set there, and the split's name right?"
        ) from error
    return [line for line in text.splitlines() if line.strip()]
