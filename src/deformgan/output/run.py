"""One run of the pipeline: its stopwatch, the checksums of its inputs, its warnings, and the record of them all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deformgan.align.options import Options
from deformgan.errors import callers_level
from deformgan.output import provenance
from deformgan.output.provenance import Progress, Stopwatch
from deformgan.spatial.native.threads import most_threads

if TYPE_CHECKING:
    from deformgan.models.load import Model
    from deformgan.spatial.grid import Grid


class Run:
    """What goes on beside the stages.

    Args:
        options: As resolved: what the record tells.
        progress: Called with the name of each stage as it begins.
        inputs: By role, as they were given; hashed beside the first stages.
    """

    def __init__(self, options: Options, progress: Progress, **inputs: object) -> None:
        self.options, self.progress, self._init = options, progress, inputs.get("init")
        self.settled: dict[str, Any] = {}
        self._watch, self._notes = Stopwatch(progress), list[str]()
        given = {role: source for role, source in inputs.items() if source is not None}
        self._checksums = provenance.describe_inputs_later(given)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a block under a name."""
        return self._watch.stage(name)

    def step(self, done: int, of: int) -> None:
        """Tell of a step of the refinement."""
        self.progress(f"refine: step {done} of {of}")

    def warn(self, notes: Iterable[str]) -> None:
        """Warn now, and tell it in the record."""
        for note in notes:
            self._notes.append(note)
            warnings.warn(note, stacklevel=callers_level())

    def settle(self, **settings: Any) -> None:
        """What became of a setting that left something to be decided."""
        self.settled |= settings

    def record(self, model: Model | None, grid: Grid) -> dict[str, Any]:
        """The provenance, JSON-able.

        Args:
            model: None where no network was run.
            grid: The working grid.
        """
        settings = asdict(self.options) | {
            "init": os.fspath(self._init) if isinstance(self._init, str | os.PathLike) else self._init is not None,
            "refine_steps": 0 if model is None else self.options.refine_steps,
            "subject_hint": self.options.subject,
            "threads": most_threads(),
            "working_grid": list(grid.shape),
            "working_spacing_mm": float(grid.spacing[0]),
        }
        settings |= self.settled
        return provenance.record(
            inputs=self._checksums.result(),
            model={} if model is None else model.described(),
            settings=settings,
            notes=self._notes,
            watch=self._watch,
        )
