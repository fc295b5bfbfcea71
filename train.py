"""Train a captioner from a recipe: `python train.py recipes/flickr8k-soft.toml`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from captioner.checkpoint import load_checkpoint, read_config
from captioner.config import ModelConfig, Recipe
from captioner.data.annotations import CaptionedImage, read_split
from captioner.data.dataset import CaptionDataset
from captioner.data.features import FeatureStore, fingerprint
from captioner.errors import CaptionerError
from captioner.metrics.bleu import bleu
from captioner.models.encoder import ImageEncoder
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import choose_device, search
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.hard_attention import HardAttention
from captioner.training.trainer import fit, steps_in
from captioner.vocabulary import Vocabulary, tokenize

_VALIDATION_BATCH = 64


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Train a captioner. Relative data roots are under $CAPTIONER_DATA.")
    parser.add_argument("recipe", type=Path, help="TOML file, such as recipes/flickr8k-soft.toml")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/NAME-OF-RECIPE)")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of feature stores (default: cache)")
    parser.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's, to see how much is chance")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output where it stopped")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        recipe = Recipe.read(options.recipe)
        if options.seed is not None:
            recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=options.seed))
        train(recipe, options)
    except CaptionerError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train.py: interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def train(recipe: Recipe, options: argparse.Namespace) -> None:
    """Build everything the recipe names, and fit."""
    folder = options.output or Path("runs") / options.recipe.stem
    device = choose_device(options.device)
    if (folder / "last").exists() and not options.resume:
        raise CaptionerError(
            f"{folder}: holds a run already; add --resume to go on with it, or choose another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    train_images, dev_images = read_split(recipe.data, "train"), read_split(recipe.data, "dev")
    if options.resume:
        model, vocabulary = load_checkpoint(folder / "last")
        # Read as a recipe, so that a setting which is newer than the run has its default.
        before = Recipe.from_dict(read_config(folder / "last")["notes"]["recipe"])
        changes = differences(before.to_dict(), recipe.to_dict())
        if changes:
            raise CaptionerError(f"{options.recipe}: not the recipe {folder} was started with: {'; '.join(changes)}")
    else:
        torch.manual_seed(recipe.train.seed)
        encoder = ImageEncoder.pretrained(recipe.encoder)
        vocabulary = Vocabulary.build((c for image in train_images for c in image.captions), recipe.data.min_count)
        model = ShowAttendTell(ModelConfig(recipe.encoder, recipe.decoder, len(vocabulary)), encoder)
    model.to(device).encoder.to(memory_format=torch.channels_last)
    logging.info("%d photos to train on, %d for dev, %d words", len(train_images), len(dev_images), len(vocabulary))
    logging.info("%d parameters in the decoder", sum(p.numel() for p in model.decoder.parameters()))

    def store(images: list[CaptionedImage], split: str, mirrored: bool = False) -> FeatureStore:
        parts = [Path(recipe.data.root).name, split, *(["mirrored"] if mirrored else []), recipe.train.precision]
        return FeatureStore.build(
            options.cache / "-".join([*parts, fingerprint(model.encoder)[:12]]),
            [image.path for image in images],
            model.encoder,
            device,
            mirrored=mirrored,
            precision=getattr(torch, recipe.train.precision),
            label=f"{split} features" + ", mirrored" * mirrored,
        )

    views = [store(train_images, "train", mirrored) for mirrored in ([False, True] if recipe.data.mirror else [False])]
    data = CaptionDataset(train_images, views, vocabulary, recipe.data.max_length)
    if not options.resume:
        model.decoder.expect_words(data.word_counts(len(vocabulary)))
    dev_store = store(dev_images, "dev")
    references = [[tokenize(caption) for caption in image.captions] for image in dev_images]

    def validate() -> dict[str, float]:
        hypotheses = []
        for start in range(0, len(dev_store), _VALIDATION_BATCH):
            rows = range(start, min(start + _VALIDATION_BATCH, len(dev_store)))
            features = dev_store.read(rows).to(device).float()
            hypotheses += [beam[0] for beam in search(model.decoder, features, vocabulary, recipe.decoding)]
        words = [vocabulary.decode(hypothesis.tokens) for hypothesis in hypotheses]
        return {f"bleu{n}": score for n, score in enumerate(bleu(references, words), 1)}

    objective = build_objective(recipe, vocabulary, steps=steps_in(data, recipe.train)).to(device)
    progress = fit(model, vocabulary, data, objective, validate, "bleu4", recipe, folder, options.resume)
    logging.info(
        "best: BLEU-4 %.2f on dev after epoch %d, in %s", progress.best_score, progress.best_epoch, folder / "best"
    )


def build_objective(recipe: Recipe, vocabulary: Vocabulary, steps: int) -> CrossEntropy | HardAttention:
    """Build what trains the recipe's kind of attention in a run of so many steps."""
    config = recipe.train
    if recipe.decoder.attention == "hard":
        return HardAttention(vocabulary.pad, len(vocabulary), config.doubly_stochastic, config.hard_attention, steps)
    return CrossEntropy(vocabulary.pad, config.doubly_stochastic)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Name every setting in which two recipes differ."""
    found = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            found += differences(old, value, f"{prefix}{name}.")
        elif old != value:
            found.append(f"{prefix}{name} was {old}, is {value}")
    return found


if __name__ == "__main__":
    sys.exit(main())
