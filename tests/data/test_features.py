from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioner.config import EncoderConfig
from captioner.data.features import FeatureStore
from captioner.errors import DatasetError, ImageReadError
from captioner.images import load_image, preprocess
from captioner.models.encoder import ImageEncoder
from tests.conftest import noise_photo

CPU = torch.device("cpu")


def make_encoder(**changes: object) -> ImageEncoder:
    torch.manual_seed(0)
    settings = {"name": "squeezenet1_1", "weights": "none", "input_size": 64, **changes}
    return ImageEncoder(EncoderConfig(**settings))  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.jpg" for index in range(70)]
    for index, path in enumerate(paths):
        noise_photo(index).save(path)
    return paths


def test_rows_are_the_features_of_the_photos(tmp_path: Path, photos: list[Path]) -> None:
    encoder = make_encoder()
    store = FeatureStore.build(tmp_path / "store", photos, encoder, CPU)
    assert store.shape == (70, encoder.grid**2, encoder.feature_dim)
    rows = [69, 0, 33]
    found = store.read(rows)
    assert found.dtype == torch.float16
    for row, features in zip(rows, found, strict=True):
        alone = encoder(preprocess(load_image(photos[row]), encoder.preprocessing).unsqueeze(0))[0]
        assert torch.allclose(features.float(), alone, rtol=2e-3, atol=2e-3)


def test_a_mirrored_store_holds_the_features_of_mirrored_photos(tmp_path: Path, photos: list[Path]) -> None:
    encoder = make_encoder()
    mirrored = FeatureStore.build(tmp_path / "mirrored", photos[:2], encoder, CPU, mirrored=True)
    for path, features in zip(photos, mirrored.read([0, 1]), strict=False):
        pixels = preprocess(load_image(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT), encoder.preprocessing)
        assert torch.allclose(features.float(), encoder(pixels.unsqueeze(0))[0], rtol=2e-3, atol=2e-3)


def test_half_precision_features_are_the_same_but_for_rounding(tmp_path: Path, photos: list[Path]) -> None:
    exact = FeatureStore.build(tmp_path / "exact", photos[:8], make_encoder(), CPU).read(range(8)).float()
    rounded = FeatureStore.build(tmp_path / "rounded", photos[:8], make_encoder(), CPU, precision=torch.bfloat16)
    error = (rounded.read(range(8)).float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < error < 0.02


@pytest.mark.parametrize("change", [{"mirrored": True}, {"precision": torch.bfloat16}])
def test_a_store_made_in_another_way_is_refused(tmp_path: Path, photos: list[Path], change: dict[str, object]) -> None:
    FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(), CPU)
    with pytest.raises(DatasetError, match=f"made with {next(iter(change))} = "):
        FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(), CPU, **change)  # type: ignore[arg-type]


def test_building_again_computes_nothing(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureStore.build(tmp_path / "store", photos, make_encoder(), CPU)
    encoder = make_encoder()
    monkeypatch.setattr(encoder, "forward", lambda pixels: pytest.fail("computed again"))
    assert len(FeatureStore.build(tmp_path / "store", photos, encoder, CPU)) == 70


def test_an_interrupted_store_goes_on_where_it_stopped(tmp_path: Path, photos: list[Path]) -> None:
    whole = FeatureStore.build(tmp_path / "whole", photos, make_encoder(), CPU)
    bad = photos[40]
    good = bad.read_bytes()
    bad.write_bytes(b"x" * len(good))
    with pytest.raises(ImageReadError, match=bad.name):
        FeatureStore.build(tmp_path / "store", photos, make_encoder(), CPU)
    with pytest.raises(DatasetError, match="not finished"):
        FeatureStore(tmp_path / "store")
    with (tmp_path / "store" / "features.f16").open("ab") as file:
        file.write(b"half a row")
    bad.write_bytes(good)
    encoder = make_encoder()
    batches: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    store = FeatureStore.build(tmp_path / "store", photos, encoder, CPU)
    assert sum(batches) == 70 - 32  # the first batch was there
    assert torch.equal(store.read(range(70)), whole.read(range(70)))


@pytest.mark.parametrize(
    "change", [{"grid": 4, "input_size": 80}, {"geometry": "center_crop"}, {"name": "squeezenet1_0"}]
)
def test_a_stale_store_is_refused(tmp_path: Path, photos: list[Path], change: dict[str, object]) -> None:
    FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(), CPU)
    with pytest.raises(DatasetError, match="another encoder or with other weights or preprocessing"):
        FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(**change), CPU)


def test_a_store_made_with_other_weights_is_refused(tmp_path: Path, photos: list[Path]) -> None:
    FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(), CPU)
    encoder = make_encoder()
    next(encoder.parameters()).data[0, 0, 0, 0] += 1e-3
    with pytest.raises(DatasetError, match="another encoder or with other weights or preprocessing"):
        FeatureStore.build(tmp_path / "store", photos[:2], encoder, CPU)


def test_a_store_of_other_photos_is_refused(tmp_path: Path, photos: list[Path]) -> None:
    FeatureStore.build(tmp_path / "store", photos[:2], make_encoder(), CPU)
    with pytest.raises(DatasetError, match="made from other photos"):
        FeatureStore.build(tmp_path / "store", photos[1:3], make_encoder(), CPU)


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"shape": [1, 2]})])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DatasetError, match="not a feature store"):
        FeatureStore(tmp_path)
