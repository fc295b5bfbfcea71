"""What the reward costs: `python benchmarks/self_critical.py [--recipe RECIPE]`; the last line is a JSON object.

Steps of self-critical training of the recipe's decoder on made-up features and captions of Flickr8k's lengths, and the
share of their time that rating captions takes. An encoder that is trained along makes a step longer than it is here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, too, it is part of the package of benchmarks

from benchmarks.made_up import CAPTIONS, captioned, vocabulary
from captioner.config import ModelConfig
from captioner.data.dataset import Batch, Totals
from captioner.devices import choose_device
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.recipe import Recipe
from captioner.training.self_critical import SelfCritical

ROOT = Path(__file__).parent.parent
PHOTOS = 1000


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Share of a self-critical step that its reward takes.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "flickr8k-soft-scst.toml")
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="measured, after one that is not (default: 10)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)

    def work() -> int:
        measure(Recipe.read(options.recipe), choose_device(options.device), options.steps)
        return OK

    return run_to_end("self_critical.py", work)


def measure(recipe: Recipe, device: torch.device, steps: int) -> None:
    """Print the figures."""
    if steps < 1:
        raise CaptionerError(f"--steps {steps}: at least one has to be measured")
    words = vocabulary()
    torch.manual_seed(0)
    encoder = dataclasses.replace(recipe.encoder, weights="none")
    model = ShowAttendTell(ModelConfig(encoder, recipe.decoder, len(words))).to(device).train()
    images = captioned([Path(f"photo{number}.jpg") for number in range(PHOTOS)])
    # Captions of one photo have much in common; here, all but a word.
    references = [
        [" ".join([*image.captions[0].split()[:-1], f"word{number}"]) for number in range(CAPTIONS)] for image in images
    ]
    config = recipe.train
    longest = recipe.decoding.max_length
    sampling = config.hard_attention.sampling if recipe.decoder.attention == "hard" else 0.0
    objective = SelfCritical(words, references, config.doubly_stochastic, config.self_critical, longest, sampling)
    optimizer = torch.optim.AdamW(model.decoder.parameters())
    count = config.images_per_batch
    features = torch.randn(count, model.encoder.grid**2, model.encoder.feature_dim, device=device)
    batch = Batch(features, torch.empty(0), Totals(count, count, count), tuple(range(count)))
    spent = {"reward": 0.0}
    score = objective._scores

    def timed(*arguments):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        found = score(*arguments)
        spent["reward"] += time.perf_counter() - start
        return found

    objective._scores = timed  # type: ignore[method-assign]
    dtype = getattr(torch, config.precision)
    start = 0.0
    for number in range(steps + 1):
        if number == 1:
            spent["reward"], start = 0.0, time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = objective(model.decoder, batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    whole = time.perf_counter() - start
    figures = {
        "reward_share": round(spent["reward"] / whole, 4),
        "reward_milliseconds": round(1000 * spent["reward"] / steps, 2),
        "step_milliseconds": round(1000 * whole / steps, 1),
        "captions_per_step": count * config.self_critical.samples,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
