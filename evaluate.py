"""Score a checkpoint on a split: `python evaluate.py [CHECKPOINT] [--data RECIPE] [--split dev]`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner.config import DecodingOptions
from captioner.data.annotations import read_split
from captioner.errors import CaptionerError
from captioner.metrics.attention import entropy, movement
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import cider_d
from captioner.pipeline import BUNDLED, Captioner
from captioner.recipe import Recipe
from captioner.vocabulary import tokenize

PROTOCOL = "tokenised, lower case, punctuation dropped; one caption per photo against all its references; percent"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Score a captioner. Relative data roots are under $CAPTIONER_DATA.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=BUNDLED, help="(default: the bundled model)")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parent / "recipes" / "flickr8k-soft.toml",
        metavar="RECIPE",
        help="recipe whose data to use (default: recipes/flickr8k-soft.toml)",
    )
    parser.add_argument("--split", default="dev", help="train, dev or test (default: dev)")
    parser.add_argument("--beam", type=int, default=3, metavar="N", help="captions kept in the search (default: 3)")
    parser.add_argument(
        "--context",
        choices=("expectation", "argmax", "sample"),
        default="expectation",
        help="what hard attention sees: all locations, the likeliest, or one at random (default: expectation)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --context sample (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        evaluate(options)
    except CaptionerError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def evaluate(options: argparse.Namespace) -> None:
    """Caption every photo of the split once, and print its scores."""
    decoding = DecodingOptions(beam_size=options.beam, context=options.context, seed=options.seed)
    images = read_split(Recipe.read(options.data).data, options.split)
    if len(images) < 2:
        raise CaptionerError(f"{options.split} split: one photo alone cannot be scored by CIDEr; it needs two or more")
    captioner = Captioner.load(options.checkpoint, options.device)
    stream = captioner.caption_many((image.path for image in images), decoding)
    hypotheses, bits, moved = [], [], []
    for caption in tqdm(stream, total=len(images), unit="photo", disable=None):
        hypotheses.append(caption.words)
        bits.append(entropy(caption.attention))
        moved.append(movement(caption.attention))
    references = [[tokenize(caption) for caption in image.captions] for image in images]
    print(f"{options.split} split of {options.data.stem}: {len(images)} photos")
    print(f"beam {decoding.beam_size}, context: {decoding.context}")
    print(f"protocol: {PROTOCOL}")
    for order, score in enumerate(bleu(references, hypotheses), 1):
        print(f"BLEU-{order}  {score.value:5.2f}")
    print(f"CIDEr   {cider_d(references, hypotheses).value:5.2f}")
    print(f"attention: {np.mean(bits):.2f} of {np.log2(captioner.model.encoder.grid**2):.2f} bits, ", end="")
    print(f"{np.mean(moved):.2f} of it elsewhere for another word")


if __name__ == "__main__":
    sys.exit(main())
