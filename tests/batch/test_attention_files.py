from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.config import DecodingOptions
from captioner.pipeline import Captioner
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


def test_pictures_can_be_opened_and_are_not_captioned(photos: Path, caption: Caption) -> None:
    output = photos / "out.jsonl"
    for _ in range(2):
        assert caption(photos, "--recursive", "--output", output, "--attention", "png") == 0
    assert len(rows(output)) == 4
    for row in rows(output):
        with Image.open(photos / row["attention"]) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.width > 300


def test_photos_of_one_name_in_two_folders_keep_theirs(photos: Path, tmp_path: Path, caption: Caption) -> None:
    (photos / "deep").mkdir()
    long = "é" * 120 + ".jpg"
    (photos / "photo1.jpg").rename(photos / long)
    (photos / "photo2.jpg").rename(photos / "deep" / "photo0.jpg")
    output = tmp_path / "out"
    assert caption(photos, "--recursive", "--output", output, "--attention", "npz") == 0
    assert len(list((tmp_path / "out.attention").iterdir())) == 4
