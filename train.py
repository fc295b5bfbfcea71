"""Train a captioner from a recipe: `python train.py recipes/flickr8k-soft.toml`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from captioner.checkpoint import is_checkpoint, load_checkpoint
from captioner.checkpoint_files import CONFIG, read_config
from captioner.config import ModelConfig
from captioner.data.annotations import CaptionedImage, for_scoring, read_split, with_words
from captioner.data.dataset import CaptionDataset, Source, digest
from captioner.data.features import FeatureStore, StoredViews, store_name
from captioner.data.photos import Photos
from captioner.devices import choose_device
from captioner.ending import exit_code, is_out_of_memory, stoppable, tell
from captioner.errors import CaptionerError, ImageReadError
from captioner.files import sole_use
from captioner.models.encoder import FrozenPart, ImageEncoder
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.recipe import DataConfig, Recipe, TrainConfig
from captioner.search import check_options
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.distributed import join, leave, own_device, processes, rank
from captioner.training.hard_attention import HardAttention
from captioner.training.resuming import refuse_other_data
from captioner.training.self_critical import SelfCritical
from captioner.training.trainer import RunStoppedError, Trainer, steps_in
from captioner.training.validation import Validation
from captioner.vocabulary import Vocabulary


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
    folder = options.output or Path("runs") / options.recipe.stem
    try:
        recipe = Recipe.read(options.recipe)
        if options.seed is not None:
            recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=options.seed))
        with stoppable(), sole_use(folder) if rank() == 0 else contextlib.nullcontext():
            train(recipe, options, folder)
    except RunStoppedError as stopped:
        tell(f"train.py: {stopped}")
        leave()
        return 128 + stopped.signal
    except ImageReadError as error:
        return failed(f"{error}; `captioner data check {options.recipe}` lists all such photos")
    except (CaptionerError, OSError) as error:
        return failed(str(error))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return failed(
            "out of memory; lower images_per_batch or raise accumulate under [train], "
            "in a new run with another --output"
        )
    except KeyboardInterrupt as stop:
        tell("train.py: interrupted; go on with --resume, if it had come to its first checkpoint")
        return exit_code(stop)
    leave()
    return 0


def failed(message: str) -> int:
    """Tell it, and part from the other processes."""
    tell(f"train.py: {message}")
    if processes() > 1:
        # Parting in good order would wait for the others, who wait for this one.
        sys.stderr.flush()
        os._exit(1)
    return 1


def train(recipe: Recipe, options: argparse.Namespace, folder: Path) -> None:
    """Build everything the recipe names, and fit."""
    device = own_device(choose_device(options.device))
    if rank() > 0:
        logging.getLogger().setLevel(logging.ERROR)  # one process tells
    refuse_wrong_folder(folder, options.resume)
    refuse_too_many_parts(recipe.train)
    train_images = with_words(read_split(recipe.data, "train"), "train")
    dev_images = for_scoring(read_split(recipe.data, "dev"), "dev")
    found = digest(train_images) + digest(dev_images)
    if options.resume:
        # Before features are stored, which takes long.
        refuse_other_data(folder / "last", found, recipe.data.root)
    model, vocabulary = resumed(folder / "last", recipe, options) if options.resume else begun(recipe, train_images)
    check_options(recipe.decoding, recipe.decoder.attention, vocabulary)  # now, not after an epoch
    model.to(device).encoder.to(memory_format=torch.channels_last)
    logging.info("%d photos to train on, %d for dev, %d words", len(train_images), len(dev_images), len(vocabulary))
    logging.info("%d parameters in the decoder", sum(p.numel() for p in model.decoder.parameters()))
    precision = getattr(torch, recipe.train.precision)
    frozen = frozen_part(model.encoder, recipe.train)

    def source(images: list[CaptionedImage], split: str, data: DataConfig) -> Source:
        photos = Photos(images, model.encoder.preprocessing, data)
        if recipe.train.features == "computed":
            return photos
        name = store_name(recipe.data.root, split, recipe.train.precision, frozen)
        return StoredViews(
            [
                FeatureStore.build(
                    options.cache / (f"{name}-view{view}" if view else name),
                    photos,
                    frozen,
                    device,
                    view=view,
                    precision=precision,
                    label=f"{split} features" + f", view {view}" * bool(view),
                )
                for view in range(data.views)
            ]
        )

    train_source = source(train_images, "train", recipe.data)
    # Photos to be judged by are seen as they are.
    dev_source = source(dev_images, "dev", dataclasses.replace(recipe.data, mirror=False, crop=0.0, views=1))
    data = CaptionDataset(train_images, train_source, vocabulary, recipe.data.max_length)
    counts = data.word_counts(len(vocabulary))
    words = counts.sum() - counts[vocabulary.eos]
    logging.info("%.1f %% of the words of the train captions are known", 100 * (1 - counts[vocabulary.unk] / words))
    if not options.resume and recipe.train.start is None:
        model.decoder.expect_words(counts)
    validation = Validation(dev_images, dev_source, vocabulary, recipe.decoding, precision)
    objective = build_objective(recipe, vocabulary, data, train_images).to(device)
    # Half a million captions as text are no longer needed.
    del train_images
    join(device)
    progress = Trainer(model, vocabulary, data, objective, validation, recipe, folder, options.resume, found).fit()
    logging.info(
        "best: %s %.2f on dev after epoch %d, in %s",
        recipe.train.select_by, progress.best_score, progress.best_epoch, folder / "best",
    )  # fmt: skip


def refuse_wrong_folder(folder: Path, resume: bool) -> None:
    """Refuse to begin where a run is, and to go on where none can be gone on with."""
    last, best = is_checkpoint(folder / "last"), is_checkpoint(folder / "best")
    if last and not resume:
        raise CaptionerError(
            f"{folder}: holds a run already; add --resume to go on with it, or choose another --output"
        )
    if best and not last:
        raise CaptionerError(
            f"{folder}: holds the best model of a run without last/, from which it would go on; choose another "
            "--output, and to train that model on, name it as start under [train]"
        )
    if resume and not last:
        raise CaptionerError(
            f"{folder}: no run to go on with, it ended before its first checkpoint; leave --resume out"
        )


def refuse_too_many_parts(config: TrainConfig) -> None:
    """Refuse to share a step's photos out over more parts than there are."""
    if config.accumulate * processes() > config.images_per_batch:
        raise CaptionerError(
            f"images_per_batch = {config.images_per_batch} is too small for accumulate = {config.accumulate} parts "
            f"in each of {processes()} processes; raise it, or lower accumulate"
        )


def frozen_part(encoder: ImageEncoder, config: TrainConfig) -> ImageEncoder | FrozenPart:
    """Find what of the encoder is kept on disk, if anything is: all of it, or what comes before the part trained."""
    if config.features == "computed" or config.fine_tune_from is None:
        return encoder
    return encoder.cut(config.fine_tune_from)


def begun(recipe: Recipe, images: list[CaptionedImage]) -> tuple[ShowAttendTell, Vocabulary]:
    """Model and words of a run that begins: those of the recipe's `start`, or fresh ones."""
    if recipe.train.start is None:
        torch.manual_seed(recipe.train.seed)
        vocabulary = Vocabulary.build((c for image in images for c in image.captions), recipe.data.min_count)
        if len(vocabulary) == len(Vocabulary([])):
            raise CaptionerError(
                f"data.min_count = {recipe.data.min_count}: no word of the train captions is there as often; lower it"
            )
        encoder = ImageEncoder.pretrained(recipe.encoder)
        return ShowAttendTell(ModelConfig(recipe.encoder, recipe.decoder, len(vocabulary)), encoder), vocabulary
    model, vocabulary = load_checkpoint(Path(recipe.train.start))
    wanted = {"encoder": recipe.encoder.to_dict(), "decoder": recipe.decoder.to_dict()}
    found = {"encoder": model.config.encoder.to_dict(), "decoder": model.config.decoder.to_dict()}
    # What a recipe leaves to the encoder, a checkpoint has filled in; and its weights are its own.
    wanted["encoder"] = {**found["encoder"], **{k: v for k, v in wanted["encoder"].items() if v is not None}}
    wanted["encoder"]["weights"] = found["encoder"]["weights"]
    # Dropout is no part of the weights, and soft and hard attention have the same ones.
    alike = ["dropout", "feature_dropout"]
    if {found["decoder"]["attention"], wanted["decoder"]["attention"]} == {"soft", "hard"}:
        alike.append("attention")
    for name in alike:
        found["decoder"][name] = wanted["decoder"][name]
    changes = differences(found, wanted)
    if changes:
        raise CaptionerError(f"start = {recipe.train.start!r} is another model than the recipe's: {'; '.join(changes)}")
    started = ShowAttendTell(dataclasses.replace(model.config, decoder=recipe.decoder), model.encoder)
    started.decoder.load_state_dict(model.decoder.state_dict())
    return started, vocabulary


def resumed(checkpoint: Path, recipe: Recipe, options: argparse.Namespace) -> tuple[ShowAttendTell, Vocabulary]:
    """Model and words of a run that goes on, which must be under the recipe it began with."""
    model, vocabulary = load_checkpoint(checkpoint)
    # Read as a recipe, so that a setting which is newer than the run has its default.
    notes = read_config(checkpoint).get("notes")
    try:
        before = Recipe.from_dict(notes.get("recipe") if isinstance(notes, dict) else notes)
    except CaptionerError as error:
        raise CaptionerError(
            f"{checkpoint / CONFIG}: no recipe to go on with in its notes ({error}); get a whole copy of it"
        ) from error
    changes = differences(before.to_dict(), recipe.to_dict())
    if changes:
        raise CaptionerError(
            f"{options.recipe}: not the recipe {checkpoint.parent} was started with: {'; '.join(changes)}"
        )
    return model, vocabulary


def build_objective(
    recipe: Recipe, vocabulary: Vocabulary, data: CaptionDataset, images: list[CaptionedImage]
) -> CrossEntropy | HardAttention | SelfCritical:
    """Build what the recipe trains by."""
    config = recipe.train
    if config.objective == "self_critical":
        references = [image.captions for image in images]
        length = recipe.decoding.max_length
        sampling = config.hard_attention.sampling if recipe.decoder.attention == "hard" else 0.0
        return SelfCritical(vocabulary, references, config.doubly_stochastic, config.self_critical, length, sampling)
    if recipe.decoder.attention == "hard":
        batches = steps_in(data, config) * config.accumulate
        return HardAttention(vocabulary.pad, len(vocabulary), config.doubly_stochastic, config.hard_attention, batches)
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
