"""What the parent and the child that reads both see."""

from __future__ import annotations

import mmap
import struct
import time
from typing import Any

OUTCOMES = ("ok", "ours", "other", "hang", "memory", "crash")


class State:
    """What parent and child both see: the input at work, when it began, and what came back so far."""

    _LAYOUT = struct.Struct(f"q3d{len(OUTCOMES)}q")

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._LAYOUT.size)

    def _get(self, at: int) -> Any:
        return self._LAYOUT.unpack(self._shared[:])[at]

    def _set(self, at: int, value: float) -> None:
        values = list(self._LAYOUT.unpack(self._shared[:]))
        values[at] = value
        self._shared[:] = self._LAYOUT.pack(*values)

    def begin(self, number: int) -> None:
        """Note that an input is taken up."""
        self._set(0, number)
        self._set(1, time.monotonic())

    def end(self, what: str, growth_mb: float) -> None:
        """Note what it came to."""
        self._set(2, max(self.slowest_s, self.since_s))
        self._set(3, max(self.growth_mb, growth_mb))
        self.count(what)

    def count(self, what: str) -> None:
        """One more of an outcome."""
        at = 4 + OUTCOMES.index(what)
        self._set(at, self._get(at) + 1)

    @property
    def number(self) -> int:
        """The input at work."""
        return self._get(0)

    @property
    def since_s(self) -> float:
        """Seconds since it was taken up."""
        return time.monotonic() - self._get(1)

    @property
    def slowest_s(self) -> float:
        """Seconds that the slowest took."""
        return self._get(2)

    @property
    def growth_mb(self) -> float:
        """By how much the resident memory grew."""
        return self._get(3)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each outcome."""
        return {what: self._get(4 + n) for n, what in enumerate(OUTCOMES)}
