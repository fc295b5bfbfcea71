"""Work done ahead in threads, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in order, with at most `ahead` results waiting.

    Every thread calls `prepare`, and none begins before all have. An error in `function` is raised when its turn comes.
    Pillow and NumPy release the interpreter lock for the heavy part, so threads suffice and nothing is copied between
    processes.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        if prepare:
            _in_every_thread(pool, workers, prepare)
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _in_every_thread(pool: ThreadPoolExecutor, workers: int, prepare: Callable[[], object]) -> None:
    all_done = threading.Barrier(workers)

    def once() -> None:
        try:
            prepare()
        finally:
            all_done.wait()  # or one thread would take the turns of several

    for done in [pool.submit(once) for _ in range(workers)]:
        done.result()
