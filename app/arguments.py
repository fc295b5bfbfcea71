"""What the app was started with: `--checkpoint DIR`, `--runs DIR`, as `captioner app` hands them on."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arguments:
    """What the app was started with.

    Attributes
    ----------
    checkpoint : Path, optional
        Model to show besides the bundled ones, and before them.
    runs : Path
        Folder whose folders are training runs.
    """

    checkpoint: Path | None
    runs: Path


def arguments() -> Arguments:
    """Read the command line of this process; what is not meant for the app is passed over."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    known, _ = parser.parse_known_args(sys.argv[1:])
    return Arguments(known.checkpoint, known.runs)
