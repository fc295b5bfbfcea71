"""`captioner caption`: its options, and what they turn into."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.ending import OK, exit_code, stoppable, tell
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.batch.job import Engine, ImageFile, Job, Outcome

SOME_FAILED = 3
# Imported by name when asked for: each brings libraries along that the other does without.
_ENGINES = {"local": ("captioner.batch.local", "run_local"), "ray": ("captioner.batch.ray_engine", "run_ray")}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "caption",
        help="caption photos and folders of photos",
        epilog="Exit code: 0 all captioned, 1 could not run, 2 wrong usage, 3 some photos failed, 130 interrupted, "
        "143 and 129 ended by SIGTERM and with the terminal.",
    )
    parser.add_argument("paths", nargs="+", type=_path, metavar="PATH", help="photo, or folder of photos")
    add = parser.add_argument
    add("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    add(
        "--format",
        choices=("jsonl", "csv", "txt", "coco", "hf"),
        default="jsonl",
        help="JSON lines with every field; CSV; a text file beside each photo; COCO results; Hugging Face's "
        "metadata.jsonl (default: jsonl)",
    )
    add("--recursive", action="store_true", help="look into the folders in a folder, too")
    add("--checkpoint", type=Path, metavar="DIR", help="model to use (default: the bundled one)")
    add("--beam", type=_positive, default=3, metavar="N", help="captions kept in the search (default: 3)")
    add("--max-length", type=_positive, default=20, metavar="N", help="most words of a caption (default: 20)")
    add(
        "--context",
        choices=("expectation", "argmax", "sample"),
        default="expectation",
        help="what hard attention sees: all locations, the likeliest, or one at random (default: expectation)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="for --temperature and --context sample; another --batch-size draws otherwise, too (default: 0)",
    )
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="above 0: draw --beam captions at random, of likelier words the nearer to 0, and keep the likeliest "
        "(default: 0, a beam search)",
    )
    add("--prefix", default="", metavar="WORDS", help='words that every caption begins with, such as "a photo of"')
    add("--batch-size", type=_positive, metavar="N", help="photos captioned at once (default: by the device)")
    add("--workers", type=_positive, metavar="N", help="threads that read photos (default: by the machine)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the computation (default: auto, what is faster on the device)",
    )
    add(
        "--existing",
        choices=("skip", "overwrite", "error"),
        default="skip",
        help="if the output is there: skip = caption what is new or changed, overwrite = start anew, error = refuse; "
        "with --format txt any text file of a photo's name is its caption (default: skip)",
    )
    add(
        "--attention",
        choices=("none", "npz", "png"),
        default="none",
        help="write where the model looked, a file per photo in a folder beside the output (default: none)",
    )
    add("--errors", type=Path, metavar="FILE", help="write failures there as JSON lines (default: standard error)")
    add("--fail-fast", action="store_true", help="stop at the first failure")
    add("--limit", type=_positive, metavar="N", help="take the first N photos only")
    add("--dry-run", action="store_true", help="list what would be captioned, and write nothing")
    add("--engine", choices=tuple(_ENGINES), default="local", help="this process, or Ray's (default: local)")
    add("--quiet", action="store_true", help="no progress and no summary; failures are still told")
    parser.set_defaults(run=_caption, usage_error=parser.error)


def _path(text: str) -> Path:
    if not text:
        # A variable of the shell that is not set; to Path it is the working folder.
        raise argparse.ArgumentTypeError("a path is empty; name a photo or a folder, '.' for this one")
    return Path(text)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def _caption(arguments: argparse.Namespace) -> int:
    if fault := _find_fault(arguments):
        arguments.usage_error(fault)
    # Not before: these take their time to import, which `--help` and wrong usage should not cost.
    from captioner.batch.listing import Listing
    from captioner.batch.run import Request, journal_path, run
    from captioner.files import where

    output = _output(arguments)
    if output and arguments.errors:
        taken = [os.path.realpath(path) for path in (output, journal_path(output, arguments.format))]
        if os.path.realpath(arguments.errors) in taken:
            arguments.usage_error("argument --errors: captions or their records are written there; choose another file")
    job = _job(arguments, output)
    # In full, so that the folder's file can be gone on with from any working folder.
    paths = [where(path) for path in arguments.paths] if arguments.format == "hf" else arguments.paths
    request = Request(
        Listing(paths, arguments.recursive, arguments.limit),
        job,
        arguments.format,
        output,
        arguments.existing,
        arguments.errors,
        arguments.fail_fast,
        arguments.dry_run,
        arguments.quiet,
    )
    with stoppable():
        report = run(request, functools.partial(_run_engine, arguments.engine))
    if not arguments.quiet and not arguments.dry_run:
        tell(str(report))
    if report.interruption:
        return exit_code(report.interruption)
    return SOME_FAILED if report.failed or report.left_out else OK


def _find_fault(arguments: argparse.Namespace) -> str | None:
    """Say which options do not go together."""
    output, kind = arguments.output, arguments.format
    if kind == "txt" and output:
        return "argument --output: --format txt writes a text file beside each photo; leave --output out"
    if output and not output.name:
        return f"argument --output: '{output}' is a folder; name a file in it"
    if output and output.suffix == ".csv" and kind != "csv":
        return f"argument --output: {output} is named for CSV, and --format is {kind}; add --format csv"
    if kind == "hf" and not output and not (len(arguments.paths) == 1 and os.path.isdir(arguments.paths[0])):  # noqa: PTH112
        return "argument --output: --format hf needs it unless one folder is captioned; name FOLDER/metadata.jsonl"
    if arguments.engine == "ray" and arguments.device.startswith("cuda:"):
        return "argument --device: --engine ray gives each of its processes a GPU of its own; say cuda"
    if arguments.attention != "none" and kind == "txt":
        return "argument --attention: --format txt has no output for it to lie beside; choose another --format"
    if arguments.attention != "none" and not output and kind != "hf":
        return "argument --attention: goes into a folder beside the output, so it needs --output FILE"
    return None


def _output(arguments: argparse.Namespace) -> Path | None:
    output: Path | None = arguments.output
    if arguments.format == "hf" and output is None:
        return Path(arguments.paths[0], "metadata.jsonl")
    return output


def _job(arguments: argparse.Namespace, output: Path | None) -> Job:
    from captioner.batch.job import Job
    from captioner.batch.listing import ATTENTION_SUFFIX
    from captioner.checkpoint_files import BUNDLED, model_id
    from captioner.config import DecodingOptions

    checkpoint = arguments.checkpoint or BUNDLED
    hidden = "." if arguments.format == "hf" else ""  # or its pictures would pass for photos of the data set
    return Job(
        checkpoint=checkpoint,
        model=model_id(checkpoint),
        options=DecodingOptions(
            beam_size=arguments.beam,
            max_length=arguments.max_length,
            context=arguments.context,
            seed=arguments.seed,
            prefix=tuple(arguments.prefix.split()),
            temperature=arguments.temperature,
        ),
        device=arguments.device,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        attention=arguments.attention,
        attention_folder=None if output is None else output.with_name(f"{hidden}{output.name}{ATTENTION_SUFFIX}"),
    )


def _run_engine(name: str, files: Iterable[ImageFile], job: Job) -> Generator[Outcome, None, None]:
    module, function = _ENGINES[name]
    try:
        engine: Engine = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise CaptionerError(f"--engine {name} needs {error.name}, which is not installed") from error
    return engine(files, job)
