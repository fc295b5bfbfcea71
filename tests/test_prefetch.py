from __future__ import annotations

import threading

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
