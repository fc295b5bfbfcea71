"""Runs of `train.py`, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent.parent
TRAIN = str(ROOT / "train.py")
TORCHRUN = "torch.distributed.run"
# What a run imports, some of it only when it gets there.
IMPORTS = ["train", TORCHRUN, "torch._dynamo", "torch.utils.tensorboard", "nltk.tokenize.destructive"]
# A process is forked from one that has the imports behind it: they take four seconds, most runs here take one.
# "fresh" starts Python anew for every run, as a shell does, and not only where a test asks for it.
FORK = sys.platform == "linux" and os.environ.get("CAPTIONER_RUNS") != "fresh"


class Forked:
    """A run as a `subprocess.Popen` of it would be, as far as tests go."""

    def __init__(self, folder: Path, environment: dict[str, str], *command: str) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}"
        self.process = _forkserver().Process(target=_run, args=(folder, self.output, environment, *command))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float = 250) -> tuple[str, None]:
        """Wait for its end; returns what it wrote."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout, self.output.read_bytes())
        return self.output.read_text(), None


Run = Forked | subprocess.Popen[str]


def start_program(folder: Path, program: str, *arguments: str, fresh: bool = False) -> Run:
    """Start `train.py` or, with it among the arguments, `torchrun`, in a folder that is also that of the data."""
    environment = {"CAPTIONER_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    if FORK and not fresh:
        return Forked(folder, environment, program, *arguments)
    command = [sys.executable, *(["-m"] if program == TORCHRUN else []), program, *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    # Read once, as numpy and torch are imported.
    with patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
        ensure_running()
    return context


def _run(folder: Path, output: Path, environment: dict[str, str], program: str, *arguments: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    os.chdir(folder)
    os.environ.update(environment)
    # A test run in the background would hand down that interruptions are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [program, *arguments]
    if program == TORCHRUN:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")
