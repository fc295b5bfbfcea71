"""Score captioners on a split: `python evaluate.py [CHECKPOINT ...] [--data RECIPE] [--split dev]`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.checkpoint_files import BUNDLED, short_name, weights_sha256
from captioner.config import DecodingOptions
from captioner.data.annotations import CaptionedImage, for_scoring, list_split, read_split
from captioner.data.instances import Instances, instances_beside, read_instances
from captioner.ending import OK, run_to_end, standard_output, stoppable
from captioner.errors import CaptionerError, DatasetError, ImageReadError
from captioner.evaluation.evaluator import (
    PROTOCOLS,
    against_all_but_one,
    build_evaluation,
)
from captioner.evaluation.measure import measure
from captioner.evaluation.report import write_report
from captioner.evaluation.results import Evaluation
from captioner.evaluation.table import evaluation_table, score_table
from captioner.files import sole_use
from captioner.paths import printable
from captioner.pipeline import Captioner
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
        help="checkpoint folders, or JSON files of earlier evaluations, before any option (default: the bundled model)",
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
    return run_to_end("evaluate.py", lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> int:
    """Do what the options ask for, in a folder that no other run is writing."""
    with stoppable(), sole_use(options.output) if options.output else contextlib.nullcontext():
        try:
            run(options)
        except ImageReadError as error:
            raise CaptionerError(f"{error}; `captioner data check {options.data}` lists all such photos") from error
    return OK


@dataclass(frozen=True)
class System:
    """A checkpoint to be measured, by its place among the arguments."""

    place: int
    name: str
    checkpoint: str
    sha256: str
    captioner: Captioner


def run(options: argparse.Namespace) -> None:
    """Measure every system, and print, keep and draw what was found."""
    decodings = [
        DecodingOptions(beam_size=beam, context=context, seed=options.seed)
        for beam, context in itertools.product(dict.fromkeys(options.beam), dict.fromkeys(options.context))
    ]
    given = dict(enumerate(dict.fromkeys(options.checkpoints)))
    found = load_results({place: path for place, path in given.items() if path.suffix == ".json"}, options.protocol)
    systems = load_systems({place: path for place, path in given.items() if path.suffix != ".json"}, options.device)
    for system, decoding in itertools.product(systems, decodings):
        system.captioner.check(decoding)
    images: list[CaptionedImage] = []
    if systems:
        data = Recipe.read(options.data).data
        images = read_photos(options, data)
        for _, evaluation in found:
            evaluation.require_data([(image.path.name, tuple(image.captions)) for image in images])
        found += measure_systems(
            options, data, systems, decodings, images, {file_stem(kept.system) for _, kept in found}
        )
    found.sort(key=lambda placed: placed[0])
    tables = []
    for protocol in dict.fromkeys(options.protocol):
        if evaluations := [evaluation for _, evaluation in found if evaluation.settings["protocol"] == protocol]:
            for other in evaluations[1:]:
                other.require_data(evaluations[0].data)
            if options.output:
                draw(options.output / f"report-{protocol}.html", evaluations, systems, images)
            tables.append(describe(protocol, evaluations, options.leave_one_out))
    with standard_output():
        for text in tables:
            print(f"\n{text}")


def load_results(paths: Mapping[int, Path], protocols: Sequence[str]) -> list[tuple[int, Evaluation]]:
    """Read earlier evaluations, each by its place."""
    found = []
    for place, path in paths.items():
        evaluation = Evaluation.load(path)
        protocol = evaluation.settings["protocol"]
        if protocol not in protocols:
            raise CaptionerError(f"{path}: scored by protocol {protocol}; ask for it with --protocol {protocol}")
        found.append((place, evaluation))
    return found


def load_systems(paths: Mapping[int, Path], device: str) -> list[System]:
    """Load every checkpoint once; its weights are hashed now, for a run in progress will replace them."""
    placed: dict[Path, tuple[int, Path]] = {}
    for place, path in paths.items():
        placed.setdefault(path.resolve(), (place, path))
    stems = Counter(file_stem(short_name(path)) for _, path in placed.values())
    systems, taken = list[System](), set[str]()
    for place, path in placed.values():
        # By its path, if a name alone does not tell it, or its file, from another.
        name = str(path) if stems[file_stem(short_name(path))] > 1 else short_name(path)
        while file_stem(name) in taken:
            name += ", another"
        taken.add(file_stem(name))
        sha256 = weights_sha256(path)
        captioner = Captioner.load(path, device, "float32")
        if weights_sha256(path) != sha256:
            raise CaptionerError(f"{path}: was replaced while it was read; evaluate it again, or a copy of it")
        systems.append(System(place, printable(name), printable(str(path)), sha256, captioner))
    return systems


def read_photos(options: argparse.Namespace, data: DataConfig) -> list[CaptionedImage]:
    """Read the splits asked for, and refuse what would only fail after all the work."""
    splits = dict.fromkeys(options.split)
    images = for_scoring([image for split in splits for image in read_split(data, split)], "+".join(splits))
    if options.leave_one_out and min(len(image.captions) for image in images) < 2:
        raise CaptionerError("--leave-one-out needs two or more references of every photo; leave it off")
    return images


def measure_systems(
    options: argparse.Namespace,
    data: DataConfig,
    systems: Sequence[System],
    decodings: Sequence[DecodingOptions],
    images: Sequence[CaptionedImage],
    taken: set[str],
) -> list[tuple[int, Evaluation]]:
    """Measure every system under every way of decoding, and keep each result at once, in a file not taken."""
    splits = dict.fromkeys(options.split)
    instances = objects_of(data, list(splits)) if options.attention else None
    known = known_captions(data)
    found = []
    for system in systems:
        seen = measure(system.captioner, images, decodings, deletion=options.attention, instances=instances)
        for decoding, measured in zip(decodings, seen, strict=True):
            context = "" if decoding.context == "expectation" else f", {decoding.context}"
            context += f", seed {decoding.seed}" if decoding.context == "sample" else ""
            name = f"{system.name}, beam {decoding.beam_size}{context}"
            while file_stem(name) in taken:
                name += ", now"
            settings = {
                "checkpoint": system.checkpoint,
                "checkpoint_sha256": system.sha256,
                "data": options.data.stem,
                "split": "+".join(splits),
                **decoding.to_dict(),
            }
            for protocol in dict.fromkeys(options.protocol):
                evaluation = build_evaluation(
                    name, settings, images, measured, protocol, system.captioner.vocabulary, known
                )
                if options.output:
                    evaluation.save(options.output / file_name(evaluation))
                found.append((system.place, evaluation))
    return found


def describe(protocol: str, evaluations: Sequence[Evaluation], leave_one_out: bool) -> str:
    """Put the tables of one protocol as text."""
    first = evaluations[0]
    compared = "; (probability of being higher than the first)" if len(evaluations) > 1 else ""
    text = (
        f"{first.settings['split']} split of {first.settings['data']}: {len(first.photos):,} photos\n"
        f"protocol {protocol}: {PROTOCOLS[protocol].description}\n"
        f"scores and shares in percent; ± half the 95 % interval over photos{compared}\n"
        f"\n{evaluation_table(evaluations)}"
    )
    if leave_one_out:
        references = PROTOCOLS[protocol].references([photo.references for photo in first.photos])
        people = ("people", against_all_but_one(references, None))
        others = [(e.system, against_all_but_one(references, e.words)) for e in evaluations]
        text += f"\n\nagainst all references but one, each left out in turn:\n\n{score_table([people, *others])}"
    return text


def draw(
    file: Path, evaluations: Sequence[Evaluation], systems: Sequence[System], images: Sequence[CaptionedImage]
) -> None:
    """Write the page about the first evaluation, if its model is at hand to show where it looks."""
    first = evaluations[0]
    models = {system.sha256: system.captioner for system in systems}
    if first.settings["checkpoint_sha256"] in models:
        captioner = models[first.settings["checkpoint_sha256"]]
        write_report(file, evaluations, [image.path for image in images], captioner, first.decoding)
        log.info("%s: the page about %s", file, first.system)
    else:
        log.warning("no page: it shows where %s looks, whose model is not among those named", first.system)


def file_name(evaluation: Evaluation) -> str:
    """Name the file of a result by the system, data, split and protocol."""
    settings = evaluation.settings
    return file_stem(evaluation.system, settings["data"], settings["split"], settings["protocol"]) + ".json"


def file_stem(*parts: str) -> str:
    """Make a file's name of names that may hold anything."""
    return re.sub(r"[^\w.]+", "-", " ".join(parts)).strip("-")


def known_captions(config: DataConfig) -> set[str]:
    """Every caption of the train split in words, by which copies are told; none if it cannot be read."""
    try:
        images = list_split(config, "train")
    except DatasetError as error:  # what is measured does not need it
        log.warning("%s; copies of train captions are not counted", error)
        return set()
    return {" ".join(tokenize(caption)) for image in images for caption in image.captions}


def objects_of(config: DataConfig, splits: Sequence[str]) -> dict[str, Instances] | None:
    """Read the outlines of the objects in the photos, where the data has them."""
    paths = dict.fromkeys(path for split in splits if (path := instances_beside(config, split)))
    if not paths:
        log.warning("no outlines of objects (instances_*.json) beside the captions: objects are not measured")
        return None
    return {name: objects for path in paths for name, objects in read_instances(path).items()}


if __name__ == "__main__":
    sys.exit(main())
