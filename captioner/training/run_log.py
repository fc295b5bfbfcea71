"""What a run writes down as it goes: `metrics.jsonl`, and TensorBoard's file beside it."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from pathlib import Path
from typing import Any

from captioner.errors import CaptionerError
from captioner.files import cannot_write, replacing, write_all
from captioner.plain_json import parse_json

METRICS = "metrics.jsonl"
Row = dict[str, Any]


class RunLog:
    """Scalars of a run, to `metrics.jsonl` and to TensorBoard beside it.

    Parameters
    ----------
    folder : Path
        Of the run.
    step, epoch : int
        Where the run stands, and how many epochs it has scored; what an interrupted run wrote past it is dropped.
    """

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        # Takes a second to import, which reading a log should not cost.
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        rows = read_rows(path) if path.exists() else []
        with replacing(path) as file:
            for line, row in rows:
                if row.get("step", 0) <= step and row.get("epoch", 0) <= epoch:
                    file.write(f"{line}\n".encode())
        # TensorBoard's thread prints the traceback of an error that the next write gets as well.
        self._report, threading.excepthook = threading.excepthook, self._report_others
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._board = SummaryWriter(str(folder), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def write(self, step: int, **scalars: float) -> None:
        """Write named scalars of one step, without those that overflowed, for which JSON has no number."""
        scalars = {name: value for name, value in scalars.items() if math.isfinite(value)}
        try:
            write_all(self._file, json.dumps({"step": step, **scalars}).encode() + b"\n")
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _report_others(self, error: threading.ExceptHookArgs) -> None:
        if not isinstance(error.exc_value, OSError):
            self._report(error)

    def close(self) -> None:
        """Write out what is pending."""
        self._file.close()
        with contextlib.suppress(OSError):  # the other file has told of a full disk, and has it all
            self._board.close()  # type: ignore[no-untyped-call]
        threading.excepthook = self._report


def read_rows(path: Path) -> list[tuple[str, Row]]:
    """Read a run's metrics, lines and what they say, without one that a kill tore or that is being written.

    Raises
    ------
    CaptionerError
        If a line is not what a run writes.
    """
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                text = line.decode().rstrip("\r\n")
                row = parse_json(text)
                if not isinstance(row, dict) or not all(isinstance(row.get(key, 0), int) for key in ("step", "epoch")):
                    raise ValueError("no object with a step and an epoch, whole numbers")
            except ValueError as error:
                raise CaptionerError(
                    f"{path}: not the metrics of a run, line {number} ({error}); delete it, or name the folder of one"
                ) from error
            rows.append((text, row))
    return rows
