from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captioner.config import EncoderConfig
from captioner.data.annotations import CaptionedImage, read_split
from captioner.data.dataset import CaptionDataset, bucketed_batches
from captioner.data.features import FeatureStore, StoredViews
from captioner.data.photos import Photos
from captioner.models.encoder import ImageEncoder
from captioner.recipe import DataConfig
from captioner.vocabulary import Vocabulary


@pytest.fixture
def dataset(flickr_folder: Path, tmp_path: Path) -> CaptionDataset:
    images = read_split(DataConfig(root=str(flickr_folder)), "dev")
    images[0] = CaptionedImage(images[0].path, ("A dog .", "A big unheard-of dog runs on grass ."))
    encoder = ImageEncoder(EncoderConfig("squeezenet1_1", weights="none", input_size=64))
    photos = Photos(images, encoder.preprocessing, DataConfig(""))
    store = FeatureStore.build(tmp_path / "store", photos, encoder, torch.device("cpu"))
    vocabulary = Vocabulary(["a", "dog", "big", "runs", "on", "grass"])
    return CaptionDataset(images, StoredViews([store]), vocabulary, max_length=5)


def test_a_batch_holds_photos_with_all_their_captions(dataset: CaptionDataset) -> None:
    batch = dataset.batch([0, 3], epoch=0)
    assert torch.equal(batch.features, dataset.source.read([0, 3], 0))
    pad, bos, eos, unk, a, dog, big, runs = range(8)
    first = batch.tokens[0].tolist()
    # The longest comes first. Cut after five words, it did not end there.
    assert first[0][:6] == [bos, a, big, unk, dog, runs]
    assert eos not in first[0]
    assert first[1][:4] == [bos, a, dog, eos]
    # This photo has two captions, the other five.
    assert batch.tokens.shape[1] == 5
    assert (batch.tokens[0, 2:] == pad).all()


def test_captions_come_back_as_they_went_in(dataset: CaptionDataset) -> None:
    _pad, bos, eos, unk, a, dog, big, *_ = range(10)
    assert dataset.captions(0) == [[bos, a, dog, eos], [bos, a, big, unk, dog, 7]]
    assert len(dataset.captions(5)) == 5
    assert all(caption[0] == bos for caption in dataset.captions(5))


def test_shares_of_a_step_add_up_to_its_totals(dataset: CaptionDataset) -> None:
    rows = [0, 3, 5, 1, 2]
    whole = dataset.totals(rows)
    batch = dataset.batch(rows, 0)
    real = batch.tokens[:, :, 1:] != dataset.pad
    assert batch.totals == whole == (5, int(real.any(2).sum()), int(real.sum()))
    parts = [dataset.totals(rows[:2]), dataset.totals(rows[2:])]
    assert tuple(map(sum, zip(*parts, strict=True))) == whole
    assert dataset.totals(rows, processes=2) == tuple(total / 2 for total in whole)
    assert dataset.batch(rows[:2], 0, whole).totals == whole


def test_words_are_counted_as_targets(dataset: CaptionDataset) -> None:
    counts = dataset.word_counts(10)
    _pad, bos, eos, _unk, a, _dog, big, *_ = range(10)
    assert counts[bos] == 0
    assert counts[a] == 2 + 5 * 5  # two captions of the first photo, five of each other
    assert counts[big] == 1 + 5
    # Of each photo all captions but the shortest are cut, and end nowhere.
    assert counts[eos] == 1 + 5
    assert counts.sum() == sum(len(caption) - 1 for row in range(6) for caption in dataset.captions(row))


def test_every_row_comes_once_and_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [5 + index % 17 for index in range(1003)]
    batches = bucketed_batches(lengths, 32, seed=1, epoch=2)
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert batches == bucketed_batches(lengths, 32, seed=1, epoch=2)
    assert batches != bucketed_batches(lengths, 32, seed=1, epoch=3)
    assert batches != bucketed_batches(lengths, 32, seed=2, epoch=2)


def test_batches_are_of_similar_length() -> None:
    lengths = torch.randint(5, 25, (2000,), generator=torch.Generator().manual_seed(0)).tolist()

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[row] for row in batch) - lengths[row] for batch in batches for row in batch)

    in_order = [list(range(start, start + 32)) for start in range(0, 2000 - 32, 32)]
    assert padding(bucketed_batches(lengths, 32, 0, 0)) < padding(in_order) / 4
