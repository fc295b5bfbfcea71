"""How much sooner large depthwise kernels are trained than by torch itself: `python benchmarks/depthwise.py`.

A step forward and backward through what `fine_tune_from = 4` trains of efficientnet_lite2 at 384 pixels, on maps that
its first stages made of noise, in the precision that recipes train in.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from captioner.config import EncoderConfig
from captioner.ending import OK, run_to_end
from captioner.errors import CaptionerError
from captioner.models.encoder import ImageEncoder

STAGE = 4


def seconds(encoder: ImageEncoder, kept: Tensor, repeats: int) -> float:
    taken = []
    for _ in range(1 + repeats):
        encoder.zero_grad()
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = encoder.finish(kept.bfloat16()).float().square().mean()
        torch.autograd.backward(loss)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare training large depthwise kernels with torch's own way.")
    parser.add_argument("--photos", type=int, default=32, help="photos in a step (default: 32)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="steps measured, of which the median is told (default: 5)"
    )
    options = parser.parse_args(arguments)
    return run_to_end("depthwise.py", lambda: measure(options.photos, options.repeats))


def measure(photos: int, repeats: int) -> int:
    """Print the ratio."""
    if photos < 1 or repeats < 1:
        raise CaptionerError("--photos and --repeats must be at least 1")
    torch.manual_seed(0)
    encoder = ImageEncoder.pretrained(EncoderConfig("efficientnet_lite2", input_size=384, geometry="squash"))
    encoder.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        kept = encoder.cut(STAGE)(torch.randint(0, 256, (photos, 3, 384, 384), dtype=torch.uint8)).half()
    for parameter in encoder._from_stage(STAGE).values():
        parameter.requires_grad_(True)
    before = seconds(encoder, kept, repeats)
    encoder.fine_tune(STAGE)
    after = seconds(encoder, kept, repeats)
    print(f"a step of {photos} photos from stage {STAGE}: {before:.2f} s by torch, {after:.2f} s here")
    print(f"{before / after:.2f} times as fast")
    return OK


if __name__ == "__main__":
    sys.exit(main())
