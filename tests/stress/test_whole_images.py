"""Whole photos of every kind that is read: each is seen as its standard means it."""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from captioner.config import PreprocessingConfig
from captioner.images import load_image, load_pixels
from tests.stress.mutants import exif_block

CONFIG = PreprocessingConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Case(NamedTuple):
    """A whole file, and the picture it means."""

    what: str
    data: bytes
    upright: np.ndarray  # (H, W, 3)
    tolerance: int  # levels by which a pixel may differ


# How the stored rows and columns become the upright picture, as the EXIF standard has it.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
SIZES = ((1, 1), (1, 9), (9, 1), (2, 3), (17, 16), (40, 31), (20_000, 2), (2, 5_000), (801, 808))
# Entries that promise data which is not there, or of a type that the tag does not have, beside a good orientation.
BROKEN_ENTRIES = (
    struct.pack("<HHII", 0x010F, 2, 1000, 99_999),
    struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFFF),
    struct.pack("<HHII", 0x8825, 7, 4, 0x41424344),
    struct.pack("<HHII", 0x011A, 5, 1, 4),
    struct.pack("<HHII", 0x9C9C, 99, 7, 7),
    struct.pack("<HHII", 0x0132, 3, 2, 0xFFFF0001),
    struct.pack("<HHII", 0x0103, 12, 1, 0),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a picture, a mode, a format that holds it, and the odd things that format may have."""
    width, height = draw(st.sampled_from(SIZES))
    kind = draw(st.sampled_from(sorted(STORED)))
    mode, formats = STORED[kind]
    format = draw(st.sampled_from(formats))
    if format.startswith("WEBP"):
        width = min(width, 16_383)  # all that it can hold
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lossy = format in ("JPEG", "MPO", "AVIF", "WEBP lossy")
    stored, seen, options = make(kind, numbers, (height, width), lossy)
    image = Image.fromarray(stored) if mode != "CMYK" else Image.fromarray(stored, mode="CMYK")
    if mode == "P":
        image = Image.fromarray(stored, mode="P")
        image.putpalette(options.pop("palette"))
    if mode == "1":
        image = Image.fromarray(stored).convert("1", dither=Image.Dither.NONE)
    format, _, lossless = format.partition(" ")
    if format == "WEBP":
        options |= {"quality": 95} if lossless == "lossy" else {"lossless": True, "exact": True}
    if format in ("JPEG", "MPO"):
        options |= {"quality": 95, "progressive": draw(st.booleans())}
    if format == "TIFF" and kind not in ("float", "int", "cmyk"):
        options |= {"compression": draw(st.sampled_from((None, "tiff_lzw", "tiff_adobe_deflate", "packbits")))}
    what = f"{kind} {format} {lossless} {width} x {height}"
    if format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF") and draw(st.booleans()):
        options["icc_profile"] = draw(st.sampled_from((SRGB, b"no profile" * 9)))
        what += " profile"
    if format in ("GIF", "PNG", "WEBP", "MPO") and kind in ("rgb", "palette") and width < 5000 and draw(st.booleans()):
        # More frames follow, of another colour.
        options |= {"save_all": True, "append_images": [Image.new("RGB", image.size, "lime").convert(mode)]}
        what += " animated"
    orientation = draw(st.sampled_from((None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535)))
    if orientation is not None and format in ("JPEG", "PNG", "WEBP", "MPO"):
        broken = tuple(draw(st.lists(st.sampled_from(BROKEN_ENTRIES), max_size=3)))
        options["exif"] = exif_block(orientation, broken)
        seen = UPRIGHT[orientation](seen) if orientation in UPRIGHT else seen
        what += f" orientation {orientation} and {len(broken)} broken entries"
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return Case(what, buffer.getvalue(), seen, 12 if lossy else 2 if kind in ("cmyk", "rgba", "la") else 1)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # type: ignore[no-untyped-call]
# Kind of picture -> its mode, and formats that hold it
STORED = {
    "rgb": ("RGB", ("PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG", "MPO", "AVIF", "WEBP lossy")),
    "rgb keyed": ("RGB", ("PNG",)),
    "rgba": ("RGBA", ("PNG", "TIFF", "WEBP")),
    "grey": ("L", ("PNG", "TIFF", "BMP", "PPM", "JPEG")),
    "grey keyed": ("L", ("PNG",)),
    "la": ("LA", ("PNG", "TIFF")),
    "bits": ("1", ("PNG", "TIFF", "BMP", "PPM")),
    "palette": ("P", ("PNG", "TIFF", "BMP", "GIF")),
    "palette keyed": ("P", ("PNG", "GIF")),
    "palette clear": ("P", ("PNG",)),
    "deep": ("I;16", ("PNG", "TIFF")),
    "int": ("I", ("TIFF",)),
    "float": ("F", ("TIFF",)),
    "cmyk": ("CMYK", ("TIFF", "JPEG")),
}


def make(
    kind: str, numbers: np.random.Generator, shape: tuple[int, int], lossy: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draw what is stored, and work out what is to be seen and what the format has to be told."""

    def levels(*channels: int) -> np.ndarray:
        # Of one colour where the format may change it from pixel to pixel.
        if lossy or kind == "cmyk":
            return np.broadcast_to(numbers.integers(0, 256, channels, np.uint8), (*shape, *channels)).copy()
        return numbers.integers(0, 256, (*shape, *channels), np.uint8)

    def over_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        share = opacity[..., None] / 255
        return np.broadcast_to(colour * share + 255 * (1 - share), (*shape, 3)).round()

    def grey(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[..., None], 3, -1)

    if kind.startswith("rgb") and kind != "rgba":
        stored = levels(3)
        if kind == "rgb":
            return stored, stored, {}
        key = stored[0, 0]
        clear = (stored == key).all(-1, keepdims=True)
        return stored, np.where(clear, 255, stored), {"transparency": tuple(map(int, key))}
    if kind in ("rgba", "la"):
        stored = levels(4 if kind == "rgba" else 2)
        return stored, over_white(stored[..., :-1], stored[..., -1]), {}
    if kind == "grey":
        stored = levels()
        return stored, grey(stored), {}
    if kind == "grey keyed":
        stored = levels()
        return stored, grey(np.where(stored == stored[0, 0], 255, stored)), {"transparency": int(stored[0, 0])}
    if kind == "bits":
        stored = 255 * numbers.integers(0, 2, shape, np.uint8)
        return stored, grey(stored), {}
    if kind.startswith("palette"):
        stored, palette = numbers.integers(0, 16, shape, np.uint8), numbers.integers(0, 256, (16, 3), np.uint8)
        options: dict[str, Any] = {"palette": palette.tobytes()}
        seen = palette[stored].astype(float)
        if kind == "palette keyed":
            options["transparency"] = int(stored[0, 0])
            seen[stored == stored[0, 0]] = 255
        if kind == "palette clear":
            opacity = numbers.integers(0, 256, 16, np.uint8)
            options["transparency"] = opacity.tobytes()
            seen = over_white(seen, opacity[stored])
        return stored, seen, options
    if kind == "cmyk":
        stored = levels(4)
        return stored, (255.0 - stored[..., :3]) * (255 - stored[..., 3:]) / 255, {}
    if kind == "deep":
        stored = numbers.integers(0, 65536, shape, np.uint16)
        return stored, grey(stored / 257), {}
    if kind == "int":
        stored = numbers.integers(-(2**31), 2**31, shape, np.int32)
    else:
        stored = (10.0 ** numbers.integers(-30, 30) * numbers.normal(size=shape)).astype(np.float32)
    low, high = float(stored.min()), float(stored.max())
    if kind == "int" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    values = (stored.astype(float) - low) / max(high - low, 1e-12)
    if kind == "float":
        odd = numbers.random(shape) < 0.2
        places = {np.nan: 0.0, np.inf: 1.0, -np.inf: 0.0}
        # Such are no part of the range; they are put beside the extremes, which therefore stay.
        odd.flat[[stored.argmin(), stored.argmax()]] = False
        for index, (number, level) in enumerate(places.items()):
            chosen = odd & (np.arange(stored.size).reshape(shape) % 3 == index)
            stored[chosen], values[chosen] = number, level
    return stored, grey(255 * values), {}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_whole_photos_of_every_kind_are_seen_as_they_are_meant(
    effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    kinds: Counter[str] = Counter()

    @settings(max_examples=effort(120, 1_500), deadline=None, derandomize=True, database=None)
    @given(case=cases())
    def check(case: Case) -> None:
        image = load_image(case.data)
        assert image.mode == "RGB", case.what
        assert (image.height, image.width) == case.upright.shape[:2], case.what
        off = np.abs(np.asarray(image, float) - case.upright)
        # An average for what loses detail, for a pixel may lie on a block's edge.
        assert off.max() <= case.tolerance, (case.what, off.max())
        _, size = load_pixels(case.data, CONFIG)
        assert size == image.size, case.what
        assert load_image(image).tobytes() == image.tobytes(), case.what  # it is not turned again
        kinds[" ".join(case.what.split()[:2])] += 1

    check()
    tally(
        f"images, whole: {kinds.total():,} photos of {len(kinds)} kinds and formats, all of the right size and colours"
    )
