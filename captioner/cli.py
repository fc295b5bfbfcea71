"""The command line: `python -m captioner`, or `captioner` once installed."""

from __future__ import annotations

import argparse
from pathlib import Path

from captioner.batch.command import SOME_FAILED
from captioner.batch.command import add_parser as add_caption_parser
from captioner.checkpoint_files import BUNDLED
from captioner.ending import FATAL, OK, run_to_end, standard_output, tell
from captioner.serve import add_parser as add_app_parser
from captioner.version import VERSION


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 all fine, 1 could not run, 2 wrong usage, 3 something is wrong with some photos, 130 interrupted, 143 and 129
        ended by SIGTERM and with the terminal; the web app ends with 130 on SIGTERM, too.
    """
    parser = argparse.ArgumentParser(prog="captioner", description="Write a sentence about each photo.")
    parser.add_argument("--version", action="version", version=f"captioner {VERSION}")
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
    info = commands.add_parser("info", help="say what a checkpoint is and how it was trained")
    info.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        default=BUNDLED,
        metavar="CHECKPOINT",
        help="its folder (default: the bundled model)",
    )
    info.set_defaults(run=_info)
    doctor = commands.add_parser("doctor", help="look the installation and the machine over, and time a caption")
    doctor.set_defaults(run=_examine)
    options = parser.parse_args(arguments)
    return run_to_end("captioner", lambda: int(options.run(options)))


def _plot(arguments: argparse.Namespace) -> int:
    # Matplotlib takes its time to import, which `--help` and wrong usage should not cost.
    from captioner.curves import draw_curves, save_curves
    from captioner.history import read_runs

    runs = read_runs(arguments.runs)
    save_curves(draw_curves(runs), arguments.output)
    tell(f"{arguments.output}: curves of {', '.join(runs)}")
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from captioner.data.check import check_data
    from captioner.recipe import Recipe

    recipe = Recipe.read(arguments.recipe)
    report = check_data(recipe.data, Path(recipe.train.start) if recipe.train.start else None)
    with standard_output():
        print(report)
    return SOME_FAILED if report.problems else OK


def _info(arguments: argparse.Namespace) -> int:
    from captioner.description import facts, history

    found = {"Checkpoint": str(arguments.checkpoint), **facts(arguments.checkpoint)}
    past = history(arguments.checkpoint)
    found |= {"Training": past.account or "nothing is told of it"}
    found |= {f"{name} on dev, while training": f"{value:.2f}" for name, value in past.scores.items()}
    width = max(map(len, found))
    with standard_output() as out:
        for name, value in found.items():
            print(f"{name:<{width}}  {value}", file=out)
    return OK


def _examine(arguments: argparse.Namespace) -> int:
    from captioner.doctor import examine

    wrong = False
    with standard_output() as out:
        for finding in examine():
            print(finding, file=out, flush=True)
            wrong = wrong or finding.mark == "WRONG"
    return FATAL if wrong else OK
