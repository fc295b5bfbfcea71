"""Photos that visitors bring: their names, their bytes, and what is shown of them."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import streamlit as st
from PIL import Image

from captioner.errors import ImageReadError
from captioner.images import SUFFIXES, load_image
from captioner.regions import Region, scaled

TYPES = [suffix[1:] for suffix in SUFFIXES]
MAX_MEGABYTES = 20  # of one photo; the server refuses more while it is being sent, by app/.streamlit/config.toml
_SHOWN_SIDE = 1280  # pixels
# Held while photos are decoded and captioned: many at once would take no less time, and memory for each.
TURN = threading.Lock()


@dataclass(frozen=True)
class Upload:
    """A photo as it came.

    Attributes
    ----------
    name : str
        As its owner calls it. To be shown, never to be written to.
    data : bytes
        The file.
    """

    name: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Shown:
    """A photo for the page.

    Attributes
    ----------
    jpeg : bytes
        Upright, no side longer than 1,280 pixels.
    width, height : int
        Of the whole upright photo, pixels.
    """

    jpeg: bytes
    width: int
    height: int

    @cached_property
    def image(self) -> Image.Image:
        """The photo as it is shown, RGB."""
        return load_image(self.jpeg)

    def scaled(self, region: Region) -> Region:
        """Turn a rectangle of the whole photo into one of `image`."""
        return scaled(region, self.image.width / self.width, self.image.height / self.height)


def shown(upload: Upload) -> Shown:
    """Turn a photo into what the page shows of it.

    Raises
    ------
    ImageReadError
        Naming the photo, if it cannot be read.
    """
    return _shown(upload.digest, upload)


@st.cache_data(max_entries=64, show_spinner=False)
def _shown(digest: str, _upload: Upload) -> Shown:
    with TURN:
        image = open_photo(_upload)
        return Shown(to_jpeg(image, _SHOWN_SIDE), *image.size)


def open_photo(upload: Upload, enough: int | None = None) -> Image.Image:
    """Read a photo, upright RGB; `enough` as of `load_image`.

    Raises
    ------
    ImageReadError
        Naming the photo, if it cannot be read or is larger than allowed.
    """
    if len(upload.data) > MAX_MEGABYTES * 2**20:
        raise ImageReadError(f"{upload.name}: is larger than {MAX_MEGABYTES} MB; shrink it")
    try:
        return load_image(upload.data, enough)
    except ImageReadError as error:
        raise ImageReadError(f"{upload.name}: {str(error).removeprefix('image: ')}") from error


def to_jpeg(image: Image.Image, side: int) -> bytes:
    """Encode an RGB photo, shrunk until no side is longer than `side` pixels."""
    scale = min(1.0, side / max(image.size))
    if scale < 1:
        size = tuple(max(1, round(length * scale)) for length in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def stem(name: str) -> str:
    """Make a name for a download of an uploaded one: letters, digits and dashes only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-")[:48] or "photo"
