"""What a person sees of a cohort at work: a bar with rate, time left and verdicts, or a line for each pair."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any


class CohortProgress:
    """Told of each pair as it ends.

    Args:
        note: Writes a line; used where stderr is no terminal.
        on_terminal: Whether it is; None: find out.
    """

    def __init__(self, note: Callable[[str], None], on_terminal: bool | None = None) -> None:
        self._note = note
        self._on_terminal = sys.stderr.isatty() if on_terminal is None else on_terminal
        self._counts: Counter[str] = Counter()
        self._total, self._start = 0, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def begin(self, total: int, where: str, before: int) -> None:
        """Say what is ahead."""
        self._total, self._start = total, time.monotonic()
        self._note(f"{total} pairs to do{f', {before} are done' if before else ''}; {where}")
        if self._on_terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, counts="")
            self._bar.start()

    def __call__(self, row: dict[str, Any]) -> None:
        self._counts[row["verdict"] or "failed"] += 1
        number = self._counts.total()
        if self._bar is not None:
            self._bar.update(self._task, completed=number, counts=self.summary())
            return
        took = "" if row["seconds"] is None else f", {row['seconds']:.1f} s"
        cause = f" ({row['cause']})" if row["cause"] else ""
        self._note(f"{number} of {self._total} {row['id']}: {row['verdict'] or 'FAILED'}{took}{cause}")

    def summary(self) -> str:
        """Rate and verdicts so far."""
        passed = max(time.monotonic() - self._start, 1e-6)
        rate = self._counts.total() / passed
        speed = f"{rate:.1f} a second" if rate > 1 else f"{60 * rate:.1f} a minute"
        names = ("pass", "look", "fail", "failed")
        return f"{speed} · " + " ".join(f"{self._counts[name]} {name}" for name in names if self._counts[name])

    def __enter__(self) -> CohortProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
