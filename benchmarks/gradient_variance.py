"""How noisy hard attention's gradient is: `python benchmarks/gradient_variance.py [CHECKPOINT] [--data RECIPE]`.

The gradient of one batch of train photos is drawn again and again, nothing changing but the sampled locations, at
lambda_r = 1 and every image sampled. Variances are summed over parameters and divided by that without a baseline.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from captioner.checkpoint import load_checkpoint
from captioner.config import HardAttentionConfig, Recipe
from captioner.data.annotations import read_split
from captioner.data.dataset import Batch, CaptionDataset
from captioner.data.features import FeatureStore
from captioner.errors import CaptionerError
from captioner.models.decoder import AttentionDecoder
from captioner.pipeline import BUNDLED, choose_device
from captioner.training.hard_attention import HardAttention

ROOT = Path(__file__).parent.parent
SETTLING = 50  # forward passes that bring the moving average to rest


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Variance of the REINFORCE gradient, with and without a baseline.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=BUNDLED.with_name("flickr8k-hard"))
    parser.add_argument("--data", type=Path, default=ROOT / "recipes" / "flickr8k-hard.toml", metavar="RECIPE")
    parser.add_argument("--photos", type=int, default=32, metavar="N", help="in the batch (default: 32)")
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="gradients per row (default: 100)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        measure(options)
    except CaptionerError as error:
        print(f"gradient_variance.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    device = choose_device(options.device)
    recipe = Recipe.read(options.data)
    model, vocabulary = load_checkpoint(options.checkpoint)
    model.to(device)
    images = read_split(recipe.data, "train")[: options.photos]
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.build(Path(folder), [image.path for image in images], model.encoder, device)
        data = CaptionDataset(images, [store], vocabulary, recipe.data.max_length)
        features, tokens = data.batch(range(len(images)), epoch=0)
    batch = Batch(features.to(device).float(), tokens.to(device))
    torch.manual_seed(0)
    untrained = AttentionDecoder(model.decoder.config, model.encoder.feature_dim, len(vocabulary)).eval()
    untrained.expect_words(data.word_counts(len(vocabulary)))
    untrained.to(device)
    print(f"{len(images)} photos, {options.draws} gradients a row")
    print("| decoder | baseline b | variance | against none | squared length of the mean gradient |")
    print("|---|---|---|---|---|")
    for name, decoder in (("untrained", untrained), ("trained", model.decoder)):
        objective = HardAttention(vocabulary.pad, 0.0, HardAttentionConfig(1.0, 0.0, sampling=1.0)).to(device)
        with torch.no_grad():
            for _ in range(SETTLING):
                objective(decoder, batch)
        settled = objective.baseline.item()
        reference = None
        for label, baseline in (("none", 0.0), (f"moving average, {settled:.2f}", settled)):
            variance, length = spread(decoder, objective, batch, baseline, options.draws)
            reference = reference or variance
            print(f"| {name} | {label} | {variance:.3g} | {variance / reference:.3f} | {length:.3g} |", flush=True)


def spread(
    decoder: AttentionDecoder, objective: HardAttention, batch: Batch, baseline: float, draws: int
) -> tuple[float, float]:
    """Variance summed over parameters, and the squared length of the mean gradient without what noise adds to it."""
    torch.manual_seed(0)
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    mean = [torch.zeros_like(p, dtype=torch.double) for p in parameters]
    squares = torch.zeros((), dtype=torch.double)
    for count in tqdm(range(1, draws + 1), disable=None, leave=False):
        objective.baseline.fill_(baseline)
        gradients = torch.autograd.grad(objective(decoder, batch).loss, parameters)
        for total, gradient in zip(mean, gradients, strict=True):
            step = gradient - total
            total += step / count
            squares += _dot(step, gradient - total)  # Welford's
    variance = float(squares) / (draws - 1)
    return variance, float(sum(_dot(total, total) for total in mean)) - variance / draws


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum().cpu()


if __name__ == "__main__":
    sys.exit(main())
