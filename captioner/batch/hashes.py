"""Hashes of 8 bytes, so that millions of names are remembered in megabytes."""

from __future__ import annotations

import hashlib

import numpy as np

_RECENT = 1 << 16


def hash64(text: str) -> int:
    """Hash a text, which may hold surrogates as the names of files do; the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


class HashSet:
    """A set of 64-bit hashes that takes little more than 8 bytes for each."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, value: int) -> bool:
        """Put a hash in; whether it was not there before."""
        position = int(np.searchsorted(self._sorted, np.uint64(value)))
        there = position < len(self._sorted) and int(self._sorted[position]) == value
        if there or value in self._recent:
            return False
        self._recent.add(value)
        if len(self._recent) >= _RECENT:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._recent, np.uint64))
            self._recent.clear()
        return True
