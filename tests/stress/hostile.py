"""What the tests of hostile files share: damage to bytes, what is said of it, and a bound on memory."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import resource
from collections.abc import Callable, Iterator
from typing import Any

from captioner.errors import CaptionerError

NONE: Any = []
TABLE: Any = {}


def mutant(content: bytes, draw: random.Random) -> bytes:
    """A copy with a few places changed, cut out, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        start = draw.randrange(len(changed) + 1)
        length = draw.choice((1, 1, 2, 8, 64))
        kind = draw.randrange(5)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[start : start + length] = draw.randbytes(length)
        elif kind == 2:
            del changed[start : start + length]
        elif kind == 3:
            changed[start:start] = changed[start : start + length]
        else:
            changed[start:start] = draw.choice(
                (b"\0", b'"', b"{", b"]", b",", b"9" * 30, b"-", b"\n", b"\xff", b"null")
            )
    return bytes(changed)


def said(work: Callable[[], object]) -> str:
    """The one line that an error of ours says; "" if there is none."""
    line = ""
    try:
        work()
    except CaptionerError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 2000
    return line


@contextlib.contextmanager
def memory_limit(room: int = 1 << 30) -> Iterator[None]:
    """Let this process take no more than so many bytes besides what it has."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def set_in(values: Any, *path: Any) -> Any:
    """A copy with the value at the end of the path put where the rest of it leads; None takes the entry out."""
    *keys, last, value = path
    changed = place = copy.deepcopy(values)
    for key in keys:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed
