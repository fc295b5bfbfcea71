"""What a signal does that asks for the end, and what a second one does."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import torch

from captioner import ending
from captioner.ending import STOPS, Stopped, exit_code, run_to_end, stop_requests, stoppable, unstoppable

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def as_usual() -> Iterator[None]:
    """In the background, tests are handed down that some of them are ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, known in before.items():
        signal.signal(number, known)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_is_held_back_to_the_end_of_the_block(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with unstoppable():
            signal.raise_signal(number)
            done.append("the rest of the block")
        done.append("what comes after it")

    with stoppable(), pytest.raises(Stopped) as stopped:
        work()
    assert done == ["the rest of the block"]
    assert exit_code(stopped.value) == 128 + number


def test_a_block_that_hangs_is_left_at_the_second_stop() -> None:
    done = []

    def work() -> None:
        with unstoppable():
            signal.raise_signal(signal.SIGINT)
            done.append("between")
            signal.raise_signal(signal.SIGTERM)
            done.append("never")

    with stoppable(), pytest.raises(Stopped) as stopped:
        work()
    assert done == ["between"]
    assert exit_code(stopped.value) == 143


def test_the_second_request_has_its_usual_effect_but_the_echo_of_the_first_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stop_requests() as requests:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun's, at once
        assert requests == [signal.SIGINT]
        monkeypatch.setattr(ending, "_ECHO_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("take", [lambda: torch.empty(2**60), lambda: bytearray(2**62)])
def test_memory_that_is_not_to_be_had_ends_in_a_line(take: Callable[[], object], capsys: Output) -> None:
    assert run_to_end("captioner", lambda: bool(take())) == 1
    assert capsys.readouterr().err == (
        "captioner: out of memory; end what else takes it, or lower --batch-size or --beam where there is one\n"
    )


def test_so_does_that_of_a_gpu_and_no_other_error(capsys: Output) -> None:
    def fail(error: Exception) -> int:
        raise error

    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert run_to_end("captioner", lambda error=error: fail(error)) == 1  # type: ignore[misc]
        assert "captioner: out of memory; " in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a fault of our own"):
        run_to_end("captioner", lambda: fail(RuntimeError("a fault of our own")))


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stoppable(), unstoppable(), stop_requests() as requests:
        signal.raise_signal(signal.SIGHUP)
    assert requests == []
