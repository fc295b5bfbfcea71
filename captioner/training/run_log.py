"""What a run writes down as it goes: `metrics.jsonl`, and TensorBoard's file beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path


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
        rows = [(line, json.loads(line)) for line in whole_lines(path)] if path.exists() else []
        kept = [line for line, row in rows if row["step"] <= step and row.get("epoch", 0) <= epoch]
        partial = folder / "metrics.jsonl.partial"
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def write(self, step: int, **scalars: float) -> None:
        """Write named scalars of one step."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write out what is pending."""
        self._file.close()
        self._board.close()  # type: ignore[no-untyped-call]


def whole_lines(path: Path) -> list[str]:
    """Read a run's metrics, without a line that a kill tore or that is being written."""
    with path.open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.endswith("\n")]
