"""How noisy hard attention's gradient is: `python benchmarks/gradient_variance.py [CHECKPOINT] [--data RECIPE]`.

The gradient of one batch of train photos is drawn again and again, nothing changing but the sampled locations, at
lambda_r = 1 and every image sampled. Variances are summed over parameters and divided by that without a baseline.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import BUNDLED
from captioner.data.annotations import read_split
from captioner.data.dataset import Batch, CaptionDataset
from captioner.data.photos import Photos
from captioner.devices import choose_device
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.models.decoder import AttentionDecoder
from captioner.recipe import DataConfig, HardAttentionConfig, Recipe
from captioner.training.hard_attention import HardAttention

ROOT = Path(__file__).parent.parent
OTHERS, SETTLING = 16, 2  # batches that bring the moving averages to rest, and how often they are gone through


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Variance of the REINFORCE gradient, with and without a baseline.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=BUNDLED.with_name("flickr8k-hard"))
    parser.add_argument("--data", type=Path, default=ROOT / "recipes" / "flickr8k-hard.toml", metavar="RECIPE")
    parser.add_argument("--photos", type=int, default=16, metavar="N", help="in the batch (default: 16)")
    parser.add_argument("--draws", type=int, default=50, metavar="N", help="gradients per row (default: 50)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def work() -> int:
        measure(options)
        return OK

    return run_to_end("gradient_variance.py", work)


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    device = choose_device(options.device)
    recipe = Recipe.read(options.data)
    model, vocabulary = load_checkpoint(options.checkpoint)
    model.to(device)
    if options.photos < 1 or options.draws < 2:
        raise CaptionerError(f"--photos {options.photos} --draws {options.draws}: at least 1 and 2 are needed")
    images = read_split(recipe.data, "train")[: (1 + OTHERS) * options.photos]
    if len(images) <= options.photos:
        raise CaptionerError(f"{options.data}: {len(images)} train photos leave none besides --photos {options.photos}")
    photos = Photos(images, model.encoder.preprocessing, DataConfig(recipe.data.root))
    data = CaptionDataset(images, photos, vocabulary, recipe.data.max_length)

    def load(rows: range) -> Batch:
        batch = data.batch(rows, epoch=0)
        with torch.no_grad():
            features = model.features(batch.features.to(device))
        return batch._replace(features=features, tokens=batch.tokens.to(device))

    rows = range(len(images))
    batch, *others = (load(rows[start : start + options.photos]) for start in rows[:: options.photos])
    torch.manual_seed(0)
    untrained = AttentionDecoder(model.decoder.config, model.encoder.feature_dim, len(vocabulary)).eval()
    untrained.expect_words(data.word_counts(len(vocabulary)))
    untrained.to(device)
    print(f"{options.photos} photos, {options.draws} gradients a row")
    print("| decoder | estimator | baseline b | variance | against none |")
    print("|---|---|---|---|---|")
    for name, decoder in (("untrained", untrained), ("trained", model.decoder)):
        reference = None
        for estimator, settled in (("paper", False), ("paper", True), ("per_word", True)):
            config = HardAttentionConfig(estimator, reinforce=1.0, entropy=0.0, sampling=1.0)  # type: ignore[arg-type]
            objective = HardAttention(vocabulary.pad, len(vocabulary), 0.0, config, steps=0).to(device)
            if settled:
                # On other photos: in training, too, a baseline knows nothing of the batch it serves.
                with torch.no_grad():
                    for other in others * SETTLING:
                        objective(decoder, other)
            else:
                objective.baseline.zero_()
            variance = gradient_variance(decoder, objective, batch, options.draws)
            reference = reference or variance
            label = "none" if not settled else "average" if estimator == "paper" else "average of each word"
            print(f"| {name} | {estimator} | {label} | {variance:.3g} | {variance / reference:.4f} |", flush=True)


def gradient_variance(decoder: AttentionDecoder, objective: HardAttention, batch: Batch, draws: int) -> float:
    """Variance of the gradient over draws of locations, summed over parameters."""
    torch.manual_seed(0)
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    mean = [torch.zeros_like(p, dtype=torch.double) for p in parameters]
    squares = torch.zeros((), dtype=torch.double)
    baseline = objective.baseline.clone()
    for count in tqdm(range(1, draws + 1), disable=None, leave=False):
        objective.baseline.copy_(baseline)
        gradients = torch.autograd.grad(objective(decoder, batch).loss, parameters)
        for total, gradient in zip(mean, gradients, strict=True):
            step = gradient - total
            total += step / count
            squares += _dot(step, gradient - total)  # Welford's
    return float(squares) / (draws - 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum().cpu()


if __name__ == "__main__":
    sys.exit(main())
