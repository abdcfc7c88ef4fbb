"""One count of steps for several levels."""

from __future__ import annotations

from collections.abc import Callable


def shifted(progress: Callable[[int, int], None] | None, done: int, steps: int) -> Callable[[int], None]:
    """The progress of one level as part of all ``steps``, ``done`` of which lie behind it."""
    return (lambda step: None) if progress is None else (lambda step: progress(done + step, steps))
