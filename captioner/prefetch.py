"""Work done ahead in threads, in order and in bounded memory."""

from __future__ import annotations

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
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in order, with at most `ahead` results waiting.

    Every thread calls `prepare` before it begins. An error in `function` is raised when its turn comes. Pillow and
    NumPy release the interpreter lock for the heavy part, so threads suffice and nothing is copied between processes.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, initializer=prepare) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
