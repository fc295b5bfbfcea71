from __future__ import annotations

import gc
import io
import struct
import weakref
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import images
from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError
from captioner.images import load_image, load_pixels, preprocess, seen_region
from tests.conftest import EXAMPLES, noise_photo

HALF = (0.5, 0.5, 0.5)


def _bytes(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_applied(orientation: int, undo: Image.Transpose | None) -> None:
    upright = noise_photo(0)
    # The camera stored the pixels turned, and said so.
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(_bytes(stored, exif=exif))
    assert loaded.size == upright.size
    assert np.array_equal(np.asarray(loaded), np.asarray(upright))


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True)])
def test_a_large_jpeg_is_read_smaller_and_looks_the_same(
    orientation: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def noting(image: Image.Image, config: PreprocessingConfig) -> torch.Tensor:
        read.append(image.size)
        return preprocess(image, config)

    monkeypatch.setattr(images, "preprocess", noting)
    photo = Image.open(EXAMPLES / "astronaut.jpg").resize((1602, 1000))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(photo, "JPEG", exif=exif, quality=95)
    config = PreprocessingConfig(160, HALF, HALF)
    pixels, size = load_pixels(data, config)
    whole = load_image(data)
    assert size == whole.size == ((1000, 1602) if turned else (1602, 1000))
    assert read == [(250, 401) if turned else (401, 250)]  # a quarter; an eighth would be less than 1.5 times the input
    assert float((pixels.float() - preprocess(whole, config).float()).abs().mean()) < 2
    assert load_pixels(whole, config)[1] == size


def test_a_photo_for_a_small_picture_is_read_no_larger_than_it_needs() -> None:
    whole = Image.open(EXAMPLES / "astronaut.jpg").resize((1600, 1000))
    data = _bytes(whole, "JPEG", quality=95)
    small = load_image(data, enough=320)
    assert small.size == (800, 500)  # a half; a quarter would be 250 high
    assert np.abs(np.asarray(small, float) - np.asarray(whole.resize((800, 500)), float)).mean() < 2


def test_a_small_jpeg_is_read_as_it_is() -> None:
    config = PreprocessingConfig(384, HALF, HALF)
    path = EXAMPLES / "cat.jpg"
    pixels, size = load_pixels(path, config)
    assert size == Image.open(path).size
    assert torch.equal(pixels, preprocess(load_image(path), config))


@pytest.mark.parametrize("side", [96, 300, 384, 600])
def test_photos_are_resized_as_pillow_does(side: int) -> None:
    image = load_image(EXAMPLES / "astronaut.jpg")
    pixels = preprocess(image, PreprocessingConfig(side, HALF, HALF)).permute(1, 2, 0).numpy().astype(int)
    expected = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels - expected).mean() < 0.1


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    loaded = load_image(_bytes(image))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_transparent_palette_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    loaded = load_image(_bytes(image, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(load_image(_bytes(grey)))[0, :, 0].tolist() == [0, 100, 255]


def test_float_grey_uses_its_own_range() -> None:
    deep = Image.fromarray(np.array([[-1.0, 0.0, 3.0]], dtype=np.float32), mode="F")
    assert np.asarray(load_image(_bytes(deep, "TIFF")))[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "YCbCr", "RGBA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    photo = noise_photo(1).convert("L").convert(mode) if mode == "I;16" else noise_photo(1).convert(mode)
    loaded = load_image(_bytes(photo, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert loaded.mode == "RGB"
    assert loaded.size == photo.size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(format: str) -> None:
    loaded = load_image(_bytes(noise_photo(2), format))
    difference = np.abs(np.asarray(loaded, float) - np.asarray(noise_photo(2), float)).mean()
    assert difference < 12  # lossy and palette formats change pixels a little


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    assert load_image(_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (20000, 2)])
def test_extreme_shapes_become_model_input(size: tuple[int, int]) -> None:
    image = load_image(_bytes(Image.new("RGB", size, "red")))
    assert preprocess(image, PreprocessingConfig(64, HALF, HALF)).shape == (3, 64, 64)


def _huge_png(width: int, height: int) -> bytes:
    """A few bytes that claim a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"just some text, renamed", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (_bytes(noise_photo(3, 400, 300), "JPEG")[:3000], "damaged or cut short"),
        (_huge_png(20000, 10000), "million"),
        (_huge_png(15000, 8000), "15000 x 8000 pixels"),
    ],
    ids=["empty", "text", "svg", "heic", "truncated", "bomb", "large"],
)
def test_what_is_no_image_is_refused_with_the_cause(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=rf"bad\.jpg: .*{message}"):
        load_image(path)
    with pytest.raises(ImageReadError, match=message):
        load_image(data)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"none\.jpg: cannot be opened"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ImageReadError, match="is a folder"):
        load_image(tmp_path)


def test_preprocess_squashes_the_whole_photo() -> None:
    photo = Image.new("RGB", (100, 50), "red")
    photo.paste("blue", (50, 0, 100, 50))
    pixels = preprocess(photo, PreprocessingConfig(32, HALF, HALF))
    assert pixels.dtype.is_floating_point is False
    assert pixels[:, 16, 2].tolist() == [255, 0, 0]
    assert pixels[:, 16, 29].tolist() == [0, 0, 255]


def test_the_seen_region_is_what_a_centre_crop_keeps() -> None:
    config = PreprocessingConfig(32, HALF, HALF, "center_crop")
    photo = Image.new("RGB", (100, 40), "red")
    left, top, right, bottom = (int(edge) for edge in seen_region(100, 40, config))
    assert (left, top, right, bottom) == (30, 0, 70, 40)
    photo.paste("blue", (left, top, right, bottom))
    pixels = preprocess(photo, config)
    assert (pixels[2] > 240).all()  # the resampling kernel reaches a little past the edge
    assert (pixels[0] < 15).all()


def test_a_photo_leaves_memory_when_its_pixels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, whole or cut short, for a collection of cycles comes too late for a hundred million pixels."""
    opened: list[weakref.ref[Image.Image]] = []

    def watched(*arguments: Any, **options: Any) -> Image.Image:
        image = _open(*arguments, **options)
        opened.append(weakref.ref(image))
        return image

    _open = Image.open
    monkeypatch.setattr(Image, "open", watched)
    gc.disable()
    try:
        for format in ("JPEG", "PNG", "WEBP"):
            load_pixels(_bytes(noise_photo(0), format), PreprocessingConfig(64, HALF, HALF))
        with suppress(ImageReadError):
            load_pixels(_bytes(noise_photo(0), "JPEG")[:-50], PreprocessingConfig(64, HALF, HALF))
            pytest.fail("half a photo was read")
        assert [image() for image in opened] == [None] * 4
    finally:
        gc.enable()
