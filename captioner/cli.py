"""The command line: `python -m captioner`, or `captioner` once installed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.batch.listing import BatchReport

OK, FATAL, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 all fine, 1 could not run, 2 wrong usage, 3 something is wrong with some photos, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="captioner", description="Write a sentence about each photo.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    caption = commands.add_parser("caption", help="caption photos and folders of photos")
    caption.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    caption.add_argument("--output", type=Path, metavar="FILE.jsonl", help="where to write (default: standard output)")
    caption.add_argument("--checkpoint", type=Path, metavar="DIR", help="model to use (default: the bundled one)")
    caption.add_argument("--beam", type=int, default=3, metavar="N", help="captions kept in the search (default: 3)")
    caption.add_argument(
        "--context",
        choices=("expectation", "argmax", "sample"),
        default="expectation",
        help="what hard attention sees: all locations, the likeliest, or one at random (default: expectation)",
    )
    caption.add_argument("--seed", type=int, default=0, metavar="N", help="of --context sample (default: 0)")
    caption.set_defaults(run=_caption)
    plot = commands.add_parser("plot", help="draw loss and scores of training runs")
    plot.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that train.py wrote, or its metrics")
    plot.add_argument(
        "--output",
        type=Path,
        default=Path("curves.png"),
        metavar="FILE",
        help="where to draw, as .png, .svg or .pdf; replaced if it exists (default: curves.png)",
    )
    plot.set_defaults(run=_plot)
    data = commands.add_parser("data", help="look a data set over")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="read every caption and photo of a recipe's data set, and say what is wrong"
    )
    check.add_argument("recipe", type=Path, metavar="RECIPE", help="TOML file; see recipes/ and docs/data.md")
    check.set_defaults(run=_check)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except CaptionerError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return FATAL
    except BrokenPipeError:
        # Whoever was reading, such as `head`, has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def _caption(arguments: argparse.Namespace) -> int:
    # torch takes seconds to import, which `--help` and wrong usage should not cost.
    from tqdm import tqdm

    from captioner.batch.listing import BatchReport, caption_files, find_images
    from captioner.config import DecodingOptions
    from captioner.pipeline import Captioner

    options = DecodingOptions(beam_size=arguments.beam, context=arguments.context, seed=arguments.seed)
    images = find_images(arguments.paths)
    captioner = Captioner.load(arguments.checkpoint)
    captioner.check(options)
    report = BatchReport()
    code = OK
    with _output(arguments.output) as output, tqdm(total=len(images), unit="photo", disable=None) as bar:
        try:
            caption_files(captioner, images, output, options, report, bar.update)
        except KeyboardInterrupt:
            code = INTERRUPTED
    _summarise(report, len(images))
    return code or (SOME_FAILED if report.failures else OK)


def _plot(arguments: argparse.Namespace) -> int:
    # As above: Matplotlib, too, takes its time.
    from captioner.curves import draw_curves, read_runs, save_curves

    runs = read_runs(arguments.runs)
    save_curves(draw_curves(runs), arguments.output)
    print(f"{arguments.output}: curves of {', '.join(runs)}", file=sys.stderr)
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from captioner.data.check import check_data
    from captioner.recipe import Recipe

    report = check_data(Recipe.read(arguments.recipe).data)
    print(report)
    return SOME_FAILED if report.problems else OK


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise CaptionerError(f"{path}: exists already; choose another --output, or delete it") from error
    except OSError as error:
        raise CaptionerError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        yield file


def _summarise(report: BatchReport, total: int) -> None:
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"{report.captioned} of {total} photos captioned, {len(report.failures)} failed", file=sys.stderr)
