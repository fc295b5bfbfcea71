"""Bytes to pixels, pixels to model input, and the way back from a grid cell to the photo.

The web page, the command line and training all read photos through `load_image`, so what a person is
shown and what the model sees are the same upright RGB picture.
"""

from __future__ import annotations

import io
import logging
import math
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
# Photos, too, but of formats that are not read: HEIC, JPEG XL and cameras' raw files.
UNREAD_SUFFIXES = (".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
MAX_PIXELS = 100_000_000
MAX_SCANS = 100  # of a JPEG, each of which may cost the time of a whole photo; a progressive one has about ten
_ENOUGH = 1.5  # times the side of the model's input: less would be seen in the pixels
_TILE = 2048  # pixels, side of the parts in which deep grey is brought to 8 bits
_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = [_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)]

# What is wrong with a photo its error tells, and names the photo. Here once: changing it for each would not be safe
# in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

ImageSource = str | Path | bytes | BinaryIO | Image.Image


def load_image(source: ImageSource, enough: int | None = None) -> Image.Image:
    """Read a photo as it is meant to be seen: upright, 8-bit RGB, transparency over white.

    Parameters
    ----------
    source : path, bytes, binary file or PIL image
        Of an animation, the first frame is taken.
    enough : int, optional
        Pixels that do for either side: a large photo is then given smaller, for less work.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, EXIF orientation applied.

    Raises
    ------
    ImageReadError
        If the source is not a whole image of a known format of at most `MAX_PIXELS` pixels; half as many of WebP and
        progressive JPEG.
    """
    return _load(source, enough)[0]


def load_pixels(source: ImageSource, config: PreprocessingConfig) -> tuple[Tensor, tuple[int, int]]:
    """Read a photo as model input, no larger than that needs.

    A decoder of JPEG gives a photo at a half, a quarter or an eighth for less work than the whole; others are shrunk at
    once, for their copies would take memory.

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
        try:
            # A copy, for it is given up, or would be the source itself.
            image = source.copy()
        except Exception as error:
            raise ImageReadError(f"{name}: {_damaged(error)}") from error
        image = _upright_rgb(image, _turn(image), name)
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
        # Decoders of WebP and of progressive JPEG hold a picture several times.
        most = MAX_PIXELS // 2 if image.format == "WEBP" or "progressive" in image.info else MAX_PIXELS
        if width * height > most:
            raise ImageReadError(
                f"{name}: {width} x {height} pixels is more than the {most // 10**6} million allowed; shrink it"
            )
        try:
            if enough is not None:
                image.draft(None, (enough, enough))  # type: ignore[arg-type]
            with _limited_scans(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else nullcontext():
                image.load()
        except Exception as error:
            raise ImageReadError(f"{name}: {_damaged(error)}") from error
        turn = _turn(image)
        upright = _upright_rgb(image, turn, name)
        # As a JPEG's decoder does, which has done it by now.
        if enough is not None and (factor := min(upright.size) // enough) > 1:
            upright = upright.reduce(factor)
        return upright, (height, width) if turn in _SIDEWAYS else (width, height)


@contextmanager
def _limited_scans(image: JpegImagePlugin.JpegImageFile) -> Iterator[None]:
    """Have the reading of a JPEG stop at too many scans: a small file can ask for hours of work."""
    read, scans, last = image.load_read, 0, b""

    def load_read(size: int) -> bytes:
        nonlocal scans, last
        data = read(size)
        scans += (last + data).count(b"\xff\xda")  # in a scan's data nothing else looks like this
        last = data[-1:]
        if scans > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
        return data

    image.load_read = load_read  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del image.load_read  # which holds the image: it would stay in memory until a collection of cycles


def _explain(head: bytes, error: Exception) -> str:
    """Say what a file that is no readable image seems to be, from its first bytes."""
    if not head:
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {MAX_PIXELS // 10**6} million pixels allowed; shrink it"
    if not isinstance(error, UnidentifiedImageError):
        return _damaged(error)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"msf1"):
        return "HEIC photos cannot be read; save it as JPEG"
    if b"<svg" in head.lower():
        return "SVG drawings cannot be read; export it as PNG"
    return "not an image in a format that can be read (" + ", ".join(FORMATS) + ")"


def _damaged(error: Exception) -> str:
    return f"damaged or cut short ({str(error) or type(error).__name__}); get a whole copy"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a loaded picture is to be turned, as its EXIF block says.

    Not by `ImageOps.exif_transpose`, which writes the whole block anew and fails if any other part of it is broken.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    # A broken EXIF block says nothing about which way is up; the pixels are still good.
    except Exception:
        return None


def _upright_rgb(image: Image.Image, turn: Image.Transpose | None, name: str) -> Image.Image:
    """Bring a loaded picture to RGB and turn it; it is given up, so that no more than two are in memory at once."""
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _in_place_of(image, _to_8_bit(image))
        if image.has_transparency_data:
            if image.mode != "RGBA":
                image = _in_place_of(image, image.convert("RGBA"))
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image)
            image = _in_place_of(image, white)
        elif image.mode != "RGB":
            image = _in_place_of(image, image.convert("RGB"))
        if turn is not None:
            image = _in_place_of(image, image.transpose(turn))
            image.info = {}  # or it would be turned again by who reads it next
        return image
    except (ValueError, OSError) as error:
        raise ImageReadError(f"{name}: its colours (mode {image.mode}) cannot be turned into RGB ({error})") from error


def _in_place_of(image: Image.Image, other: Image.Image) -> Image.Image:
    image.close()  # lets its pixels go, whoever still holds the picture
    return other


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Bring deep grey (16-bit, 32-bit, float) to 8 bits; Pillow alone would clip it to white."""
    width, height = image.size
    boxes = [
        (left, top, min(left + _TILE, width), min(top + _TILE, height))
        for top in range(0, height, _TILE)
        for left in range(0, width, _TILE)
    ]
    low, high = np.inf, -np.inf
    # Of floats that are no numbers, those beyond all numbers become white and black, the others black.
    with np.errstate(invalid="ignore"):
        for box in boxes:
            values = np.asarray(image.crop(box)).astype(np.float64)
            values = values[np.isfinite(values)]
            low, high = float(values.min(initial=low)), float(values.max(initial=high))
        if image.mode.startswith("I") and low >= 0 and high <= 65535:
            low, high = 0.0, 65535.0
        # Other depths have no nominal white, so the picture's own range stands in for it.
        if low > high:
            low = high = 0.0
        grey = Image.new("L", image.size)
        for box in boxes:
            values = (np.asarray(image.crop(box)).astype(np.float64) - low) / max(high - low, 1e-12)
            values = np.nan_to_num(values.clip(0, 1), nan=0.0)
            grey.paste(Image.fromarray((values * 255).round().astype(np.uint8)), box)
    return grey


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
