from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from captioner.config import PreprocessingConfig
from captioner.data.annotations import CaptionedImage
from captioner.data.photos import Photos
from captioner.images import load_image, preprocess
from captioner.recipe import DataConfig
from tests.conftest import noise_photo

PREPROCESSING = PreprocessingConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def images(tmp_path: Path) -> list[CaptionedImage]:
    captions = ["A dog .", "A dog on the Left .", "A bright cat .", "A man ."]
    for index in range(4):
        noise_photo(index, 120, 90).save(tmp_path / f"{index}.png")
    return [CaptionedImage(tmp_path / f"{index}.png", (caption,)) for index, caption in enumerate(captions)]


def make(images: list[CaptionedImage], **settings: object) -> Photos:
    return Photos(images, PREPROCESSING, DataConfig("", **settings))  # type: ignore[arg-type]


def test_view_0_is_the_photo(images: list[CaptionedImage]) -> None:
    photos = make(images, mirror=True, crop=0.5)
    for row, image in enumerate(images):
        assert torch.equal(photos.pixels(row), preprocess(load_image(image.path), PREPROCESSING))


def test_odd_views_are_mirrored_unless_captions_name_a_side(images: list[CaptionedImage]) -> None:
    photos = make(images, mirror=True)
    for row, image in enumerate(images):
        upright = load_image(image.path)
        mirrored = preprocess(upright if row == 1 else ImageOps.mirror(upright), PREPROCESSING)
        assert torch.equal(photos.pixels(row, 3), mirrored)
        assert torch.equal(photos.pixels(row, 2), preprocess(upright, PREPROCESSING))
    assert photos.describe(1)["unmirrored"] == [1]
    assert photos.describe(2)["mirrored"] is False


def test_crops_differ_by_view_and_photo_and_are_always_the_same(images: list[CaptionedImage]) -> None:
    photos, again = make(images, crop=0.4), make(images[::-1], crop=0.4)
    seen = [photos.pixels(0, view) for view in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    # The last of them is the first of these, and is cropped alike.
    assert torch.equal(photos.pixels(0, 2), again.pixels(3, 2))


def test_a_photo_whose_name_is_no_text_can_be_cropped(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.png"
    noise_photo(0).save(path)
    photos = make([CaptionedImage(path, ("a dog",))], crop=0.4)
    assert not torch.equal(photos.pixels(0, 0), photos.pixels(0, 1))


def test_the_smallest_photo_can_be_cropped(tmp_path: Path) -> None:
    Image.new("RGB", (1, 300), "red").save(tmp_path / "line.png")
    photos = make([CaptionedImage(tmp_path / "line.png", ("a line",))], crop=0.9)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    # Nothing of what lies outside the photo, which would be black.
    assert all((photos.pixels(0, view) == red).all() for view in range(20))


def test_crops_are_parts_of_the_photo_as_large_as_promised(tmp_path: Path) -> None:
    # Red tells the column, green the row.
    ramp = Image.merge(
        "RGB", [Image.linear_gradient("L").rotate(90), Image.linear_gradient("L"), Image.new("L", (256, 256))]
    )
    ramp.save(tmp_path / "ramp.png")
    photos = make([CaptionedImage(tmp_path / "ramp.png", ("a ramp",))], crop=0.25)
    for view in range(1, 40):
        red, green, _ = photos.pixels(0, view).int()
        for channel, across in ((red, 1), (green, 0)):
            profile = channel.float().mean(1 - across)
            assert 255 * 0.72 < float(profile[-1] - profile[0]) < 256
    corners = [int(photos.pixels(0, view)[1, 0, 0]) for view in range(1, 40)]
    assert max(corners) > 30


def test_an_epoch_sees_each_photo_in_a_view_of_its_own(images: list[CaptionedImage]) -> None:
    photos = make(images, mirror=True, crop=0.2)
    pixels = photos.read([2, 0], epoch=3)
    assert pixels.shape == (2, 3, 64, 64)
    assert torch.equal(pixels[0], photos.pixels(2, 5))
    assert torch.equal(pixels[1], photos.pixels(0, 3))
