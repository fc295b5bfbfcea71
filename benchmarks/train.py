"""How fast training is: `python benchmarks/train.py [--quick] [--recipe RECIPE]`; the last line is a JSON object.

Captions per second of `Trainer` on stored features, with the recipe's model on made-up photos and captions of
Flickr8k's lengths, measured against four yardsticks in the same process:

- `times_encoder_in_loop`: the same with `features = "computed"`: the frozen encoder in every step, on pixels that are
  in memory already;
- `times_plain_loop`: a decoder of the same sizes written the plain way, below: float32, word by word, 64 captions a
  step, each with stored features of its own; `float32_times_plain_loop` compares it with ours in float32;
- `times_float32`: the same as ours with `precision = "float32"`;
- `share_of_gemm`: floating-point operations per second of its matrix products, over those of one large product in the
  recipe's precision.

They take turns, and of each the best round counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, too, it is part of the package of benchmarks

from benchmarks.made_up import captioned, vocabulary, write_store
from captioner.config import DecoderConfig, ModelConfig
from captioner.data.dataset import CaptionDataset, bucketed_batches
from captioner.data.features import FeatureStore, StoredViews
from captioner.devices import choose_device
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.recipe import Recipe
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
PLAIN_BATCH, GEMM = 64, 4096
WORDS = vocabulary()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Speed of training on stored features, against common ways to do it.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "flickr8k-soft.toml")
    parser.add_argument("--quick", action="store_true", help="one short round instead of three")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)

    def work() -> int:
        measure(options.recipe, choose_device(options.device), options.quick)
        return OK

    return run_to_end("train.py", work)


def measure(path: Path, device: torch.device, quick: bool) -> None:
    """Print the figures."""
    recipe = Recipe.read(path)
    if recipe.train.fine_tune_from is not None or recipe.train.objective != "cross_entropy":
        raise CaptionerError(f"{path}: a recipe of cross-entropy with a frozen encoder is what is measured here")
    # What the encoder's weights are does not matter for speed.
    encoder = dataclasses.replace(recipe.encoder, weights="none")
    torch.manual_seed(0)
    model = ShowAttendTell(ModelConfig(encoder, recipe.decoder, len(WORDS))).to(device)
    model.encoder.to(memory_format=torch.channels_last)
    photos = (4 if quick else 20) * recipe.train.images_per_batch
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(f"photo{number}.jpg") for number in range(photos)]
        write_store(Path(folder) / "store", paths, model.encoder, recipe.train.precision, noise=True)
        store = StoredViews([FeatureStore(Path(folder) / "store")])
        data = CaptionDataset(captioned(paths), store, WORDS, recipe.data.max_length)
        pixels = Pixels(photos, model.encoder.preprocessing.input_size)
        computed = CaptionDataset(captioned(paths), pixels, WORDS, recipe.data.max_length)
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(recipe, recipe.train.precision, model, data, Path(folder)),
            "float32": lambda: ours(recipe, "float32", model, data, Path(folder)),
            "encoder_in_loop": lambda: ours(recipe, recipe.train.precision, model, computed, Path(folder)),
            "plain_loop": lambda: plain_loop(recipe.decoder, model, data, device),
            "gemm": lambda: gemm(getattr(torch, recipe.train.precision), device),
        }
        best = dict.fromkeys(ways, 0.0)
        # The round before the first warms caches and allocators up.
        for number in range(1 if quick else 0, 2 if quick else 4):
            for name, way in ways.items():
                rate = way()
                if number:
                    best[name] = max(best[name], rate)
                    print(
                        f"round {number}: {name} {rate:.4g} {'FLOP/s' if name == 'gemm' else 'captions/s'}", flush=True
                    )
        operations = operations_per_caption(recipe, model, data, device)
    figures = {
        "captions_per_second": round(best["ours"], 1),
        "times_encoder_in_loop": round(best["ours"] / best["encoder_in_loop"], 2),
        "times_plain_loop": round(best["ours"] / best["plain_loop"], 2),
        "float32_times_plain_loop": round(best["float32"] / best["plain_loop"], 2),
        "times_float32": round(best["ours"] / best["float32"], 2),
        "share_of_gemm": round(best["ours"] * operations / best["gemm"], 3),
        "recipe": path.stem,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


def ours(recipe: Recipe, precision: str, model: ShowAttendTell, data: CaptionDataset, folder: Path) -> float:
    """Run an epoch of the trainer itself: batches read from disk, logs, clipping and all."""
    train = dataclasses.replace(recipe.train, epochs=1, checkpoint_steps=10**9, precision=precision)  # type: ignore[arg-type]
    once = dataclasses.replace(recipe, train=train)
    objective = CrossEntropy(WORDS.pad, recipe.train.doubly_stochastic)
    run = Path(tempfile.mkdtemp(dir=folder))
    Trainer(model, WORDS, data, objective, lambda _: {recipe.train.select_by: 0.0}, once, run, resume=False).fit()
    *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return data.totals(range(len(data))).captions / float(last["seconds"])


class Pixels:
    """Photos as `features = "computed"` has them, in memory already: that reading them takes time is left out."""

    def __init__(self, photos: int, size: int) -> None:
        self.photos = photos
        self.pool = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), np.uint8)

    def __len__(self) -> int:
        return self.photos

    def read(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Give model input (B, 3, S, S) of the given photos."""
        return torch.from_numpy(self.pool[[row % len(self.pool) for row in rows]])


class PlainDecoder(nn.Module):
    """The decoder of the paper as most people write it: a loop over the words, each with its own output layer."""

    def __init__(self, config: DecoderConfig, feature_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), config.embedding_dim)
        self.init_hidden = nn.Linear(feature_dim, config.hidden_dim)
        self.init_cell = nn.Linear(feature_dim, config.hidden_dim)
        self.key = nn.Linear(feature_dim, config.attention_dim)
        self.query = nn.Linear(config.hidden_dim, config.attention_dim)
        self.energy = nn.Linear(config.attention_dim, 1)
        self.gate = nn.Linear(config.hidden_dim, 1)
        self.lstm = nn.LSTMCell(config.embedding_dim + feature_dim, config.hidden_dim)
        self.output_hidden = nn.Linear(config.hidden_dim, config.embedding_dim)
        self.output_context = nn.Linear(feature_dim, config.embedding_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.output_word = nn.Linear(config.embedding_dim, len(WORDS))

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Score (B, T, V) of the words after tokens (B, T), given features (B, L, D)."""
        mean = features.mean(1)
        hidden, cell = torch.tanh(self.init_hidden(mean)), torch.tanh(self.init_cell(mean))
        keys = self.key(features)
        scores = []
        for t in range(tokens.shape[1]):
            word = self.embedding(tokens[:, t])
            energies = self.energy(torch.tanh(keys + self.query(hidden).unsqueeze(1))).squeeze(-1)
            alpha = torch.softmax(energies, -1)
            context = torch.sigmoid(self.gate(hidden)) * (alpha.unsqueeze(-1) * features).sum(1)
            hidden, cell = self.lstm(torch.cat([word, context], 1), (hidden, cell))
            deep = word + self.output_hidden(hidden) + self.output_context(context)
            scores.append(self.output_word(self.dropout(deep)))
        return torch.stack(scores, 1)


def plain_loop(config: DecoderConfig, model: ShowAttendTell, data: CaptionDataset, device: torch.device) -> float:
    """Train `PlainDecoder` on captions of about one length, as it would be after sorting."""
    decoder = PlainDecoder(config, model.encoder.feature_dim).to(device)
    optimizer = torch.optim.Adam(decoder.parameters())
    by_length = sorted(range(len(data)), key=data.lengths.__getitem__)
    rows = by_length[len(data) // 2 - PLAIN_BATCH // 2 :][:PLAIN_BATCH]
    batch = data.batch(rows, 0)
    # Of every photo the longest caption, so that as little as possible is padding.
    longest = (batch.tokens != WORDS.pad).sum(2).argmax(1)
    tokens = batch.tokens[torch.arange(len(rows)), longest].to(device)

    def step() -> None:
        features = data.source.read(rows, 0).to(device).float()
        scores = decoder(features, tokens[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=WORDS.pad)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()

    # The captions of a photo's whole row are longer than average, which ours meets just as they come.
    mean_length = data.totals(range(len(data))).words / data.totals(range(len(data))).captions
    longer = float((tokens[:, 1:] != WORDS.pad).sum(1).float().mean()) / mean_length
    return len(rows) * longer / seconds(step, device)


def gemm(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product."""
    matrix = torch.randn(GEMM, GEMM, device=device).to(dtype)
    return 2 * GEMM**3 / seconds(lambda: matrix @ matrix, device)


def operations_per_caption(recipe: Recipe, model: ShowAttendTell, data: CaptionDataset, device: torch.device) -> float:
    """Floating-point operations of the matrix products of an epoch's steps, forward and backward, per caption."""
    with FlopCounterMode(display=False) as counter:
        for rows in bucketed_batches(data.lengths, recipe.train.images_per_batch, recipe.train.seed, 0):
            batch = data.batch(rows, 0)
            batch = batch._replace(features=batch.features.to(device).float(), tokens=batch.tokens.to(device))
            CrossEntropy(WORDS.pad, 1.0)(model.decoder, batch).loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / data.totals(range(len(data))).captions


def seconds(step: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """Time of one step, after one that does not count."""
    step()
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
