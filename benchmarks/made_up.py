"""Data sets and feature stores that never were, for measuring what training costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from captioner.data.annotations import CaptionedImage
from captioner.data.features import fingerprint
from captioner.data.photos import Photos
from captioner.models.encoder import ImageEncoder
from captioner.recipe import DataConfig
from captioner.vocabulary import Vocabulary

CAPTIONS = 5  # of a photo
WORDS = 2536  # of the vocabulary, as Flickr8k's
MEAN_LENGTH, DEVIATION = 10.8, 3.8  # of a caption in words, as Flickr8k's


def vocabulary() -> Vocabulary:
    """As many words as Flickr8k's."""
    return Vocabulary([f"word{number}" for number in range(WORDS)])


def captioned(paths: list[Path]) -> list[CaptionedImage]:
    """Photos with captions of Flickr8k's lengths, their words as frequent as Zipf has it."""
    generator = np.random.default_rng(0)
    rank = np.arange(1, WORDS + 1)
    lengths = generator.normal(MEAN_LENGTH, DEVIATION, (len(paths), CAPTIONS)).round().clip(3, 35).astype(int)
    words = iter(generator.choice(WORDS, int(lengths.sum()), p=1 / rank / (1 / rank).sum()).tolist())
    return [
        CaptionedImage(path, tuple(" ".join(f"word{next(words)}" for _ in range(n)) for n in row))
        for path, row in zip(paths, lengths.tolist(), strict=True)
    ]


def write_store(folder: Path, paths: list[Path], encoder: ImageEncoder, precision: str, *, noise: bool) -> None:
    """Write a store that passes for these photos' features: noise, or zeros, which take no room on disk."""
    photos = Photos([CaptionedImage(path, ()) for path in paths], encoder.preprocessing, DataConfig(""))
    index = {
        "fingerprint": fingerprint(encoder),
        "encoder": encoder.config.to_dict(),
        "view": photos.describe(0),
        "precision": precision,
        "shape": [encoder.grid**2, encoder.feature_dim],
        "images": [[path.name, path.stat().st_size if path.exists() else 0] for path in paths],
    }
    folder.mkdir(parents=True)
    (folder / "index.json").write_text(json.dumps(index))
    row = 2 * encoder.grid**2 * encoder.feature_dim
    with (folder / "features.f16").open("wb") as file:
        if noise:
            for _ in paths:
                file.write(torch.randn(row // 2).half().numpy().tobytes())
        else:
            file.truncate(row * len(paths))
