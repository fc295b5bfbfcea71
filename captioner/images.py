"""Bytes to pixels, pixels to model input, and the way back from a grid cell to the photo.

The web page, the command line and training all read photos through `load_image`, so what a person is
shown and what the model sees are the same upright RGB picture.
"""

from __future__ import annotations

import io
import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
MAX_PIXELS = 100_000_000
_ENOUGH = 1.5  # times the side of the model's input: less would be seen in the pixels

ImageSource = str | Path | bytes | BinaryIO | Image.Image


def load_image(source: ImageSource, enough: int | None = None) -> Image.Image:
    """Read a photo as it is meant to be seen: upright, 8-bit RGB, transparency over white.

    Parameters
    ----------
    source : path, bytes, binary file or PIL image
        Of an animation, the first frame is taken.
    enough : int, optional
        Pixels that do for either side: a large JPEG is then given smaller, for less work.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, EXIF orientation applied.

    Raises
    ------
    ImageReadError
        If the source is not a whole image of a known format of at most `MAX_PIXELS` pixels.
    """
    return _load(source, enough)[0]


def load_pixels(source: ImageSource, config: PreprocessingConfig) -> tuple[Tensor, tuple[int, int]]:
    """Read a photo as model input, a JPEG no larger than that needs.

    A decoder of JPEG gives a photo at a half, a quarter or an eighth for less work than the whole.

    Returns
    -------
    pixels : Tensor
        (3, S, S) uint8, as of `preprocess`.
    size : tuple of int
        Width and height of the whole upright photo, pixels.

    Raises
    ------
    ImageReadError
        As `load_image` does.
    """
    image, size = _load(source, math.ceil(_ENOUGH * config.input_size))
    return preprocess(image, config), size


def _load(source: ImageSource, enough: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Read a photo, of which sides of `enough` pixels would do, and its full size."""
    name = _name(source)
    if isinstance(source, Image.Image):
        image = _upright_rgb(source, name)
        return image, image.size
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            # This, too, fails where nothing may be looked at, or on a name that is too long.
            kind = path.stat().st_mode
            if not stat.S_ISREG(kind):
                # Whoever opened a pipe would wait for its writer.
                what = "a folder" if stat.S_ISDIR(kind) else "a pipe, socket or device"
                raise ImageReadError(f"{name}: is {what}, not an image")
            with path.open("rb") as file:
                return _decode(file, name, enough)
        except OSError as error:
            raise ImageReadError(f"{name}: cannot be opened ({error.strerror or error})") from error
    return _decode(io.BytesIO(source) if isinstance(source, bytes) else source, name, enough)


def _name(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name", None) or "image")


def _decode(file: BinaryIO, name: str, enough: int | None) -> tuple[Image.Image, tuple[int, int]]:
    try:
        # JPEG stands for the phones' multi-picture MPO too.
        image = Image.open(file, formats=FORMATS)
    # Decoders meet hostile bytes with errors of every type; each means the same to the caller.
    except Exception as error:
        file.seek(0)
        raise ImageReadError(f"{name}: {_explain(file.read(512), error)}") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageReadError(
                f"{name}: {width} x {height} pixels is more than the {MAX_PIXELS // 10**6} million allowed; shrink it"
            )
        try:
            if enough is not None:
                image.draft(None, (enough, enough))  # type: ignore[arg-type]
            image.load()
        except Exception as error:
            raise ImageReadError(f"{name}: damaged or cut short ({error}); get a whole copy") from error
        upright = _upright_rgb(image, name)
        if image.size == (width, height):
            return upright, upright.size
        # Its shape says whether it was turned; of a square that was none before, a pixel of the sides is exchanged.
        return upright, (width, height) if upright.size == image.size else (height, width)


def _explain(head: bytes, error: Exception) -> str:
    """Say what a file that is no readable image seems to be, from its first bytes."""
    if not head:
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {MAX_PIXELS // 10**6} million pixels allowed; shrink it"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"msf1"):
        return "HEIC photos cannot be read; save it as JPEG"
    if b"<svg" in head.lower():
        return "SVG drawings cannot be read; export it as PNG"
    return "not an image in a format that can be read (" + ", ".join(FORMATS) + ")"


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(image)
    # A broken EXIF block says nothing about which way is up; the pixels are still good.
    except Exception:
        image = image.copy()
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _to_8_bit(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise ImageReadError(f"{name}: its colours (mode {image.mode}) cannot be turned into RGB ({error})") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Bring deep grey (16-bit, 32-bit, float) to 8 bits; Pillow alone would clip it to white."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    # Other depths have no nominal white, so the picture's own range stands in for it.
    values = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8), mode="L")


def seen_region(width: int, height: int, config: PreprocessingConfig) -> tuple[float, float, float, float]:
    """Rectangle of a photo that the model sees; the feature grid divides it evenly.

    Returns
    -------
    left, top, right, bottom : float
        In pixels of the upright photo.
    """
    if config.geometry == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return float(left), float(top), float(left + side), float(top + side)


def preprocess(image: Image.Image, config: PreprocessingConfig) -> Tensor:
    """Turn an upright RGB photo into model input.

    Returns
    -------
    Tensor
        (3, S, S) uint8, S = `config.input_size`. The encoder scales and normalises, so that a photo
        already divided by 255 cannot slip through.
    """
    # Takes seconds to import, which listing images should not cost.
    import torch
    from torch.nn import functional

    left, top, right, bottom = (int(edge) for edge in seen_region(*image.size, config))
    size = (config.input_size, config.input_size)
    pixels = np.array(image)[top:bottom, left:right].transpose(2, 0, 1)
    if pixels.shape[1:] == size:
        # Copied by NumPy: this runs in readers' threads, where a parallel operation of torch would keep cores spinning
        # that the model needs. The one below is not parallel for bytes.
        return torch.from_numpy(pixels.copy())
    # Within rounding what Pillow's resize gives for photos that shrink or grow both ways, in a quarter of its time
    # (docs/decisions.md).
    return functional.interpolate(torch.from_numpy(pixels)[None], size, mode="bicubic", antialias=True)[0]
