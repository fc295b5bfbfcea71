"""What a run writes down as it goes: `metrics.jsonl`, and TensorBoard's file beside it."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

from captioner.errors import CaptionerError
from captioner.files import cannot_write, replacing, write_all


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

        path = folder / "metrics.jsonl"
        try:
            rows = [(line, json.loads(line)) for line in whole_lines(path)] if path.exists() else []
            kept = [line for line, row in rows if row["step"] <= step and row.get("epoch", 0) <= epoch]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CaptionerError(f"{path}: holds a line that no run has written; delete the line") from error
        with replacing(path) as file:
            file.writelines(f"{line}\n".encode() for line in kept)
        # TensorBoard's thread prints the traceback of an error that the next write gets as well.
        self._report, threading.excepthook = threading.excepthook, self._report_others
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def write(self, step: int, **scalars: float) -> None:
        """Write named scalars of one step."""
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


def whole_lines(path: Path) -> list[str]:
    """Read a run's metrics, without a line that a kill tore or that is being written."""
    with path.open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.endswith("\n")]
