from __future__ import annotations

import threading
import time

import pytest

from captioner.prefetch import map_ahead


def test_results_come_in_order_whatever_finishes_first() -> None:
    gate = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert gate.wait(10)  # opened by a later item: were they not run at once, this would time out
        if item == 1:
            gate.set()
        return 10 * item

    assert list(map_ahead(slow_first, range(5), workers=2, ahead=3)) == [0, 10, 20, 30, 40]


def test_no_more_is_begun_than_was_asked_for() -> None:
    begun: list[int] = []
    stream = map_ahead(begun.append, iter(range(1000)), workers=2, ahead=4)
    for _ in range(10):
        next(stream)
    assert len(begun) <= 10 + 4


def test_an_error_comes_when_its_turn_comes() -> None:
    stream = map_ahead(lambda item: 1 // item, [1, 0, 1], workers=2, ahead=3)
    assert next(stream) == 1
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_nothing_in_gives_nothing_out() -> None:
    assert list(map_ahead(str, [], workers=1, ahead=1)) == []


def test_every_thread_is_prepared_before_any_begins() -> None:
    prepared: list[int] = []

    def prepare() -> None:
        time.sleep(0.02 * len(prepared))
        prepared.append(threading.get_ident())

    seen = list(
        map_ahead(lambda _: (threading.get_ident(), len(prepared)), range(6), workers=3, ahead=2, prepare=prepare)
    )
    assert len(set(prepared)) == len(prepared) == 3
    assert {thread for thread, _ in seen} <= set(prepared)
    assert {count for _, count in seen} == {3}


def test_an_error_while_threads_are_prepared_is_raised() -> None:
    def prepare() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(map_ahead(str, [1], workers=2, ahead=1, prepare=prepare))
