"""Runs of `train.py`, `evaluate.py` and `captioner`, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent.parent
TRAIN = str(ROOT / "train.py")
EVALUATE = str(ROOT / "evaluate.py")
TORCHRUN = "torch.distributed.run"
CAPTIONER = "captioner"
MODULES = {TORCHRUN, CAPTIONER}
# What a run imports, some of it only when it gets there.
IMPORTS = [
    *("train", TORCHRUN, "torch._dynamo", "torch.utils.tensorboard", "nltk.tokenize.destructive"),
    *("evaluate", "captioner.cli", "captioner.batch.run", "captioner.batch.local"),
    *("ctypes", "encodings.utf_8_sig"),
]
# A process is forked from one that has the imports behind it: they take four seconds, most runs here take one.
# "fresh" starts Python anew for every run, as a shell does, and not only where a test asks for it.
FORK = sys.platform == "linux" and os.environ.get("CAPTIONER_RUNS") != "fresh"


class Forked:
    """A run as a `subprocess.Popen` of it would be, as far as tests go."""

    def __init__(
        self, folder: Path, environment: dict[str, str], prepare: Callable[[], object], log: Path, *command: str
    ) -> None:
        self.output = log / f"output-{time.monotonic_ns()}"
        self.process = forkserver().Process(target=_run, args=(folder, self.output, environment, prepare, *command))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process.pid, number)

    def communicate(self, timeout: float = 250) -> tuple[str, None]:
        """Wait for its end; returns what it wrote."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()  # or the end of the tests would wait for it
            raise subprocess.TimeoutExpired(self.process.name, timeout, self.output.read_bytes())
        return self.output.read_text() if self.output.exists() else "", None


Run = Forked | subprocess.Popen[str]


def nothing() -> None:
    """Start as a shell does."""


def start_program(
    folder: Path,
    program: str,
    *arguments: str,
    fresh: bool = False,
    prepare: Callable[[], object] = nothing,
    log: Path | None = None,
    **environment: str,
) -> Run:
    """Start a program or, with `train.py` among the arguments, `torchrun`.

    Parameters
    ----------
    folder : Path
        To start it in; also that of the data.
    fresh : bool
        Whether Python is to start anew, too.
    prepare : callable
        Called in the new process before the program; of a module, so that it can be sent there.
    log : Path, optional
        Folder of what it prints, if another one.
    **environment
        Variables to set.
    """
    environment = {"CAPTIONER_DATA": str(folder), "OMP_NUM_THREADS": "1", **environment}
    if FORK and not fresh:
        return Forked(folder, environment, prepare, log or folder, program, *arguments)
    command = [sys.executable, *(["-m"] if program in MODULES else []), program, *arguments]

    def begin() -> None:
        _heed_signals()
        prepare()

    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        preexec_fn=begin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def forkserver() -> ForkServerContext:
    """Give a server of processes that have imported what takes its time; the first use decides what that is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    # Read once, as numpy and torch are imported.
    with patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
        ensure_running()
    return context


def _heed_signals() -> None:
    # A test run in the background, or under `nohup`, would hand down that these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _run(
    folder: Path,
    output: Path,
    environment: dict[str, str],
    prepare: Callable[[], object],
    program: str,
    *arguments: str,
) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.update(environment)
    _heed_signals()
    prepare()
    # Last, as they are what Python makes of whatever the outputs are by then.
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    sys.argv = [program, *arguments]
    if program in MODULES:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")
