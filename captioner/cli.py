"""The command line: `python -m captioner`, or `captioner` once installed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from captioner.batch.command import INTERRUPTED, OK, SOME_FAILED
from captioner.batch.command import add_parser as add_caption_parser
from captioner.errors import CaptionerError
from captioner.serve import add_parser as add_app_parser

FATAL = 1


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 all fine, 1 could not run, 2 wrong usage, 3 something is wrong with some photos, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="captioner", description="Write a sentence about each photo.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_caption_parser(commands)
    add_app_parser(commands)
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
    except OSError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return FATAL
    except KeyboardInterrupt:
        return INTERRUPTED


def _plot(arguments: argparse.Namespace) -> int:
    # Matplotlib takes its time to import, which `--help` and wrong usage should not cost.
    from captioner.curves import draw_curves, save_curves
    from captioner.history import read_runs

    runs = read_runs(arguments.runs)
    save_curves(draw_curves(runs), arguments.output)
    print(f"{arguments.output}: curves of {', '.join(runs)}", file=sys.stderr)
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from captioner.data.check import check_data
    from captioner.recipe import Recipe

    report = check_data(Recipe.read(arguments.recipe).data)
    # Names of photos need not be text.
    print(str(report).encode(errors="backslashreplace").decode())
    return SOME_FAILED if report.problems else OK
