"""Score captioners on a split: `python evaluate.py [CHECKPOINT ...] [--data RECIPE] [--split dev]`."""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner.config import DecodingOptions
from captioner.data.annotations import list_split, read_split
from captioner.data.instances import Instances, instances_beside, read_instances
from captioner.errors import CaptionerError, MissingSplitError
from captioner.evaluation.evaluator import (
    PROTOCOLS,
    against_all_but_one,
    build_evaluation,
    require_same_photos,
    system_settings,
)
from captioner.evaluation.measure import measure
from captioner.evaluation.report import write_report
from captioner.evaluation.results import Evaluation
from captioner.evaluation.table import evaluation_table, score_table
from captioner.pipeline import BUNDLED, Captioner
from captioner.recipe import DataConfig, Recipe
from captioner.vocabulary import tokenize

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Score captioners. Relative data roots are under $CAPTIONER_DATA.")
    parser.add_argument(
        "checkpoints",
        nargs="*",
        type=Path,
        default=[BUNDLED],
        metavar="CHECKPOINT",
        help="checkpoint folder, or the JSON file of an earlier evaluation (default: the bundled model)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parent / "recipes" / "flickr8k-soft.toml",
        metavar="RECIPE",
        help="recipe whose data to use (default: recipes/flickr8k-soft.toml)",
    )
    parser.add_argument(
        "--split", nargs="+", default=["dev"], help="train, dev or test, or several together (default: dev)"
    )
    parser.add_argument(
        "--beam", type=int, nargs="+", default=[3], metavar="N", help="captions kept in the search (default: 3)"
    )
    parser.add_argument(
        "--context",
        nargs="+",
        choices=("expectation", "argmax", "sample"),
        default=["expectation"],
        help="what hard attention sees: all locations, the likeliest, or one at random (default: expectation)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --context sample (default: 0)")
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=tuple(PROTOCOLS),
        default=["coco"],
        help="coco: words in lower case without punctuation; raw: references as they stand (default: coco)",
    )
    parser.add_argument("--attention", action="store_true", help="measure attention too, by deletion and by objects")
    parser.add_argument(
        "--leave-one-out",
        action="store_true",
        help="score against all references but one, each in turn, and the one left out likewise, as people's captions",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to keep JSON files and an HTML report")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(options)
    except CaptionerError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Measure every system, and print, keep and draw what was found."""
    recipe = Recipe.read(options.data)
    images = [image for split in options.split for image in read_split(recipe.data, split)]
    splits = "+".join(options.split)
    if len(images) < 2:
        raise CaptionerError(f"{splits} split: one photo alone cannot be scored by CIDEr; it needs two or more")
    decodings = [
        DecodingOptions(beam_size=beam, context=context, seed=options.seed)
        for beam, context in itertools.product(options.beam, options.context)
    ]
    found: dict[str, list[Evaluation]] = {protocol: [] for protocol in options.protocol}
    captioners: dict[str, Captioner] = {}
    for path in options.checkpoints:
        if path.suffix == ".json":
            evaluation = Evaluation.load(path)
            found.setdefault(evaluation.settings["protocol"], []).append(evaluation)
            continue
        captioner = captioners[str(path)] = Captioner.load(path, options.device)
        for decoding in decodings:
            captioner.check(decoding)
    train_captions = known_captions(recipe.data)
    instances = objects_of(recipe.data, options.split) if options.attention else None
    for path, captioner in captioners.items():
        seen = measure(captioner, images, decodings, deletion=options.attention, instances=instances)
        for decoding, measured in zip(decodings, seen, strict=True):
            system, settings = name_of(path, decoding), system_settings(path, options.data, splits, decoding)
            for protocol in options.protocol:
                evaluation = build_evaluation(
                    system, settings, images, measured, protocol, captioner.vocabulary, train_captions
                )
                found[protocol].append(evaluation)
    for protocol, evaluations in found.items():
        require_same_photos(evaluations)
        print(f"\n{splits} split of {options.data.stem}: {len(evaluations[0].photos):,} photos")
        print(f"protocol {protocol}: {PROTOCOLS[protocol].description}; percent; ± half the 95 % interval over photos")
        print(f"\n{evaluation_table(evaluations)}")
        if options.leave_one_out:
            references = PROTOCOLS[protocol].references([photo.references for photo in evaluations[0].photos])
            columns = {"people": against_all_but_one(references, None)}
            columns |= {e.system: against_all_but_one(references, e.words) for e in evaluations}
            print(f"\nagainst all references but one, each left out in turn:\n\n{score_table(columns)}")
    if options.output:
        keep(options.output, found, {image.path.name: image.path for image in images}, captioners)


def known_captions(config: DataConfig) -> set[tuple[str, ...]]:
    """Words of every caption of the train split, by which copies are told; none if the data has no such split."""
    try:
        images = list_split(config, "train")
    except MissingSplitError:
        log.warning("the data has no train split; no caption counts as a copy")
        return set()
    return {tuple(tokenize(caption)) for image in images for caption in image.captions}


def objects_of(config: DataConfig, splits: Sequence[str]) -> dict[str, Instances] | None:
    """Read the outlines of the objects in the photos, where the data has them."""
    paths = [path for split in splits if (path := instances_beside(config, split))]
    if not paths:
        log.warning("no outlines of objects (instances_*.json) beside the captions: objects are not measured")
        return None
    return {name: objects for path in paths for name, objects in read_instances(path).items()}


def name_of(checkpoint: str, decoding: DecodingOptions) -> str:
    """Name a system as its column is headed."""
    folder = Path(checkpoint).resolve()
    # A run's checkpoints are called alike; the run is what has a name.
    name = folder.parent.name if folder.name in ("best", "last") else folder.name
    context = "" if decoding.context == "expectation" else f", {decoding.context}"
    return f"{name}, beam {decoding.beam_size}{context}"


def keep(
    folder: Path, found: dict[str, list[Evaluation]], photos: dict[str, Path], captioners: dict[str, Captioner]
) -> None:
    """Write what was found: a JSON file for each system, to compare with later, and a page for each protocol."""
    for protocol, evaluations in found.items():
        for evaluation in evaluations:
            name = re.sub(r"\W+", "-", f"{evaluation.system}, {protocol}")
            evaluation.save(folder / f"{name}.json")
        first = evaluations[0]
        if captioner := captioners.get(first.settings["checkpoint"]):
            write_report(folder / f"report-{protocol}.html", evaluations, photos, captioner, first.decoding)
        else:
            log.warning("no page for protocol %s: it shows the first system's attention; name its checkpoint", protocol)
    log.info("kept in %s", folder)


if __name__ == "__main__":
    sys.exit(main())
