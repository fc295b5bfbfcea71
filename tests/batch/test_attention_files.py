from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.config import DecodingOptions
from captioner.images import load_image
from captioner.pipeline import Captioner
from captioner.visualization import filmstrip
from tests.batch.conftest import Caption, rows, save_tiny


@pytest.mark.parametrize("context", ["expectation", "argmax"])
def test_numbers_are_those_of_the_caption(photos: Path, tmp_path: Path, caption: Caption, context: str) -> None:
    model = save_tiny(tmp_path / "hard", 0, "hard")
    output = tmp_path / "out.csv"
    options = ["--format", "csv", "--attention", "npz", "--checkpoint", model, "--context", context]
    assert caption(photos, "--output", output, *options) == 0
    captioner = Captioner.load(model, "cpu")
    found = rows(tmp_path / "out.csv.jsonl")
    assert len({row["attention"] for row in found}) == 4
    for row in found:
        assert row["attention"].startswith(f"out.csv.attention/{Path(row['image']).stem}-")
        expected = captioner.caption(row["image"], DecodingOptions(context=context))  # type: ignore[arg-type]
        with np.load(tmp_path / row["attention"], allow_pickle=False) as file:
            assert tuple(file["words"]) == expected.words
            assert file["attention"].dtype == np.float32
            np.testing.assert_allclose(file["attention"], expected.attention, atol=1e-4)
            assert tuple(file["region"]) == expected.region
            assert (file["width"], file["height"]) == (expected.width, expected.height)
            if expected.locations is None:
                assert "locations" not in file
            else:
                assert tuple(map(tuple, file["locations"])) == expected.locations


def test_pictures_show_the_photo_under_every_look_and_are_not_captioned(
    photos: Path, tmp_path: Path, caption: Caption
) -> None:
    model = save_tiny(tmp_path / "hard", 0, "hard")
    output = photos / "out.jsonl"
    options = ["--attention", "png", "--checkpoint", model, "--context", "argmax", "--precision", "float32"]
    for _ in range(2):
        assert caption(photos, "--recursive", "--output", output, *options) == 0
    assert len(rows(output)) == 4
    captioner = Captioner.load(model, "cpu", "float32")
    for row in rows(output):
        said = captioner.caption(row["image"], DecodingOptions(context="argmax"))
        expected = io.BytesIO()
        filmstrip(load_image(row["image"]), said.words, said.attention, said.region, said.locations).savefig(expected)
        with Image.open(photos / row["attention"]) as picture, Image.open(expected) as other:
            assert picture.format == "PNG"
            assert picture.size == other.size
            assert np.abs(np.asarray(picture, dtype=int) - np.asarray(other)).mean() < 0.5


def test_photos_of_one_name_in_two_folders_keep_theirs(photos: Path, tmp_path: Path, caption: Caption) -> None:
    (photos / "deep").mkdir()
    long = "é" * 120 + ".jpg"
    (photos / "photo1.jpg").rename(photos / long)
    (photos / "photo2.jpg").rename(photos / "deep" / "photo0.jpg")
    output = tmp_path / "out"
    assert caption(photos, "--recursive", "--output", output, "--attention", "npz") == 0
    assert len(list((tmp_path / "out.attention").iterdir())) == 4
