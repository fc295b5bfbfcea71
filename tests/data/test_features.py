from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioner.config import EncoderConfig
from captioner.data.annotations import CaptionedImage
from captioner.data.features import FeatureStore, StoredViews, fingerprint
from captioner.data.photos import Photos
from captioner.errors import DatasetError, ImageReadError
from captioner.images import load_image, preprocess
from captioner.models.encoder import ImageEncoder
from captioner.recipe import DataConfig
from tests.conftest import noise_photo

CPU = torch.device("cpu")


def make_encoder(**changes: object) -> ImageEncoder:
    torch.manual_seed(0)
    settings = {"name": "squeezenet1_1", "weights": "none", "input_size": 64, **changes}
    return ImageEncoder(EncoderConfig(**settings))  # type: ignore[arg-type]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.jpg" for index in range(70)]
    for index, path in enumerate(paths):
        noise_photo(index).save(path)
    return paths


MIRROR = DataConfig("", mirror=True)


def make_photos(paths: list[Path], encoder: ImageEncoder | None = None) -> Photos:
    images = [CaptionedImage(path, ("a dog",)) for path in paths]
    return Photos(images, (encoder or make_encoder()).preprocessing, MIRROR)


def test_rows_are_the_features_of_the_photos(tmp_path: Path, paths: list[Path]) -> None:
    encoder = make_encoder()
    store = FeatureStore.build(tmp_path / "store", make_photos(paths), encoder, CPU)
    assert store.shape == (70, encoder.grid**2, encoder.feature_dim)
    rows = [69, 0, 33]
    found = store.read(rows)
    assert found.dtype == torch.float16
    for row, features in zip(rows, found, strict=True):
        alone = encoder(preprocess(load_image(paths[row]), encoder.preprocessing).unsqueeze(0))[0]
        assert torch.allclose(features.float(), alone, rtol=2e-3, atol=2e-3)


def test_a_mirrored_store_holds_the_features_of_mirrored_photos(tmp_path: Path, paths: list[Path]) -> None:
    encoder = make_encoder()
    mirrored = FeatureStore.build(tmp_path / "mirrored", make_photos(paths[:2]), encoder, CPU, view=1)
    for path, features in zip(paths, mirrored.read([0, 1]), strict=False):
        pixels = preprocess(load_image(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT), encoder.preprocessing)
        assert torch.allclose(features.float(), encoder(pixels.unsqueeze(0))[0], rtol=2e-3, atol=2e-3)


def test_half_precision_features_are_the_same_but_for_rounding(tmp_path: Path, paths: list[Path]) -> None:
    exact = FeatureStore.build(tmp_path / "exact", make_photos(paths[:8]), make_encoder(), CPU).read(range(8)).float()
    rounded = FeatureStore.build(
        tmp_path / "rounded", make_photos(paths[:8]), make_encoder(), CPU, precision=torch.bfloat16
    )
    error = (rounded.read(range(8)).float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [({"view": 1}, "made of other views, by mirror"), ({"precision": torch.bfloat16}, "made with precision = float32")],
)
def test_a_store_made_in_another_way_is_refused(
    tmp_path: Path, paths: list[Path], change: dict[str, object], message: str
) -> None:
    FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), make_encoder(), CPU)
    with pytest.raises(DatasetError, match=message):
        FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), make_encoder(), CPU, **change)  # type: ignore[arg-type]


def test_building_again_computes_nothing(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureStore.build(tmp_path / "store", make_photos(paths), make_encoder(), CPU)
    encoder = make_encoder()
    monkeypatch.setattr(encoder, "forward", lambda pixels: pytest.fail("computed again"))
    assert len(FeatureStore.build(tmp_path / "store", make_photos(paths), encoder, CPU)) == 70


def test_an_interrupted_store_goes_on_where_it_stopped(tmp_path: Path, paths: list[Path]) -> None:
    whole = FeatureStore.build(tmp_path / "whole", make_photos(paths), make_encoder(), CPU)
    bad = paths[40]
    good = bad.read_bytes()
    bad.write_bytes(b"x" * len(good))
    with pytest.raises(ImageReadError, match=bad.name):
        FeatureStore.build(tmp_path / "store", make_photos(paths), make_encoder(), CPU)
    with pytest.raises(DatasetError, match="not finished"):
        FeatureStore(tmp_path / "store")
    with (tmp_path / "store" / "features.f16").open("ab") as file:
        file.write(b"half a row")
    bad.write_bytes(good)
    encoder = make_encoder()
    batches: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    store = FeatureStore.build(tmp_path / "store", make_photos(paths), encoder, CPU)
    assert sum(batches) == 70 - 32  # the first batch was there
    assert torch.equal(store.read(range(70)), whole.read(range(70)))


@pytest.mark.parametrize(
    "change", [{"grid": 4, "input_size": 80}, {"geometry": "center_crop"}, {"name": "squeezenet1_0"}]
)
def test_a_stale_store_is_refused(tmp_path: Path, paths: list[Path], change: dict[str, object]) -> None:
    FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), make_encoder(), CPU)
    with pytest.raises(DatasetError, match="another encoder or with other weights or preprocessing"):
        FeatureStore.build(
            tmp_path / "store", make_photos(paths[:2], make_encoder(**change)), make_encoder(**change), CPU
        )


def test_a_store_made_with_other_weights_is_refused(tmp_path: Path, paths: list[Path]) -> None:
    FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), make_encoder(), CPU)
    encoder = make_encoder()
    next(encoder.parameters()).data[0, 0, 0, 0] += 1e-3
    with pytest.raises(DatasetError, match="another encoder or with other weights or preprocessing"):
        FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), encoder, CPU)


def test_a_caption_that_tells_left_from_right_asks_for_other_features(tmp_path: Path, paths: list[Path]) -> None:
    photos = make_photos(paths[:2])
    told = Photos([CaptionedImage(path, ("a dog on the left",)) for path in paths[:2]], photos.preprocessing, MIRROR)
    for view in range(2):
        FeatureStore.build(tmp_path / str(view), photos, make_encoder(), CPU, view=view)
    FeatureStore.build(tmp_path / "0", told, make_encoder(), CPU, view=0)
    with pytest.raises(DatasetError, match="captions that tell left from right; delete it"):
        FeatureStore.build(tmp_path / "1", told, make_encoder(), CPU, view=1)
    others = Photos([CaptionedImage(path, ("to the right",)) for path in paths[1:3]], photos.preprocessing, MIRROR)
    with pytest.raises(DatasetError, match="made from other photos"):
        FeatureStore.build(tmp_path / "1", others, make_encoder(), CPU, view=1)


def test_a_store_of_other_photos_is_refused(tmp_path: Path, paths: list[Path]) -> None:
    FeatureStore.build(tmp_path / "store", make_photos(paths[:2]), make_encoder(), CPU)
    with pytest.raises(DatasetError, match="made from other photos"):
        FeatureStore.build(tmp_path / "store", make_photos(paths[1:3]), make_encoder(), CPU)


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"shape": [1, 2]})])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DatasetError, match="not a feature store"):
        FeatureStore(tmp_path)


def test_views_take_turns(tmp_path: Path, paths: list[Path]) -> None:
    stores = [
        FeatureStore.build(tmp_path / str(view), make_photos(paths[:5]), make_encoder(), CPU, view=view)
        for view in range(2)
    ]
    views = StoredViews(stores)
    assert len(views) == 5
    rows = [3, 2, 0]
    for epoch in range(4):
        for row, found in zip(rows, views.read(rows, epoch), strict=True):
            assert torch.equal(found, stores[(row + epoch) % 2].read([row])[0])
    assert not torch.equal(stores[0].read([0]), stores[1].read([0]))


def test_half_precision_checkpoints_share_their_store() -> None:
    encoder, other = make_encoder(), make_encoder()
    for parameter in other.parameters():
        if parameter.dim() >= 2:
            parameter.data = parameter.data.half().float()
    assert any(not torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))
    assert fingerprint(encoder) == fingerprint(other)


def build_in_a_process(folder: Path, paths: list[Path]) -> None:
    torch.set_num_threads(1)
    FeatureStore.build(folder, make_photos(paths), make_encoder(), CPU)


def test_two_processes_that_want_one_store_build_it_once(tmp_path: Path, paths: list[Path]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=build_in_a_process, args=(tmp_path / "store", paths)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    alone = FeatureStore.build(tmp_path / "alone", make_photos(paths), make_encoder(), CPU)
    # Other numbers of threads round differently.
    assert torch.allclose(FeatureStore(tmp_path / "store").read(range(70)), alone.read(range(70)), rtol=0.01, atol=0.01)
