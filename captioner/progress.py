"""How far work has come, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[misc]
    """A bar of tqdm's that goes by a clock nobody sets: it neither stands still nor runs backward when time does."""

    @property
    def _time(self) -> Callable[[], float]:
        return time.monotonic

    @_time.setter
    def _time(self, value: object) -> None:
        """Do nothing: tqdm sets the clock on the wall."""
