"""How a command ends: an exit code, at most one line about what is wrong, and no traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any, TextIO

from captioner.errors import CaptionerError

log = logging.getLogger(__name__)

OK, FATAL = 0, 1
_ECHO_SECONDS = 1.0  # torchrun passes on a signal that a scheduler or terminal has sent to all processes already
# Ctrl-C; the end of a job or of the machine; the end of the terminal, which Windows has not.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class NoReaderError(BrokenPipeError):
    """Nobody reads standard output any more."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end.

    Attributes
    ----------
    signal : int
        Which one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Count as the shell does: 130 for Ctrl-C, 143 for SIGTERM, 129 for the end of the terminal."""
    return 128 + (stop.signal if isinstance(stop, Stopped) else signal.SIGINT)


def run_to_end(name: str, work: Callable[[], int]) -> int:
    """Do a command's work, and turn what ends it into an exit code and, on standard error, a line.

    Parameters
    ----------
    name : str
        Of the command, which the line begins with.
    work : callable
        Returns the exit code, if nothing ends it before.
    """
    try:
        return work()
    except NoReaderError:
        return OK  # whoever was reading, such as `head`, has had enough
    except (CaptionerError, OSError) as error:
        tell(f"{name}: {error}")
        return FATAL
    except KeyboardInterrupt as stop:
        return exit_code(stop)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tell(f"{name}: out of memory; end what else takes it, or lower --batch-size or --beam where there is one")
        return FATAL


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error is Python's or torch's for memory that is not to be had, of a GPU or of the machine."""
    # By its words: torch would have to be imported, and has a type for the least of them.
    signs = ("OutOfMemoryError", "can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(sign in f"{type(error).__name__} {error}" for sign in signs)


def tell(line: str) -> None:
    """Write to standard error, if that is there still: the terminal may have been closed."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr)
    except OSError:
        _give_up(sys.stderr)


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """Give standard output, on which all is written by the end of the block.

    Raises
    ------
    NoReaderError
        If nobody reads it any more.
    CaptionerError
        If it cannot be written, as on a full disk.
    """
    if sys.stdout is None:
        raise CaptionerError("standard output: closed; give it a place to go to")
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files need not be text, nor the terminal know every sign.
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise NoReaderError from error
        raise CaptionerError(f"standard output: cannot be written ({error.strerror or error})") from error


def _give_up(stream: TextIO) -> None:
    # Or Python would try once more as it ends, and end with another exit code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal stop what is within as Ctrl-C does, by a KeyboardInterrupt."""
    with _handling(_stop, (signal.SIG_DFL, signal.default_int_handler)):
        yield


@contextlib.contextmanager
def unstoppable() -> Iterator[None]:
    """Hold such a KeyboardInterrupt back to the end of the block, unless it is asked for twice: the block may hang."""
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            raise Stopped(number)
        held.append(number)

    with _handling(hold, (_stop, signal.default_int_handler)):
        yield
    if held:
        raise Stopped(held[0])


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect what asks for the end instead of dying of it; a second one has its usual effect."""
    requests: list[int] = []
    # Those that are ignored, as under `nohup`, stay so.
    before = {int(number): known for number in STOPS if (known := signal.getsignal(number)) != signal.SIG_IGN}
    asked = -math.inf

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if requests and time.monotonic() - asked > _ECHO_SECONDS:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        if not requests:
            requests.append(number)
            asked = time.monotonic()
            log.info("stopping after this step; once more to stop at once, and go on from the last checkpoint")

    try:
        for number in before:
            signal.signal(number, request)
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], object], instead: Collection[Any]) -> Iterator[None]:
    """Handle signals, but those that are ignored, as under `nohup`, or that somebody else handles."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may
        before = {number: known for number in STOPS if (known := signal.getsignal(number)) in instead}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
