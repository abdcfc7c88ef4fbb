"""``deformgan demo``: see it work, offline, on a pair whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deformgan.align.options import DEFAULT_STEPS
from deformgan.commands.console import Console, verdict
from deformgan.commands.options import Compute, Force, Json, Messages, ModelName, OutFolder, Steps
from deformgan.errors import QualityError


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Register a simulated pair whose true deformation is known, tell the error and draw pictures."""

    out: OutFolder = Path("demo-output")
    """Folder for images, transforms, report and pictures."""
    refine_steps: Steps = DEFAULT_STEPS
    model: ModelName = "t1-t2"
    seed: int = 0
    """Of the simulation."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Compute = field(default_factory=Compute)

    def run(self, console: Console) -> None:
        """Run the demo, then answer.

        Raises:
            QualityError: The folder was written, but the registration's own check failed.
        """
        from deformgan.workshop.demo import run_demo, summary

        self.compute.set_threads()
        with console.progress() as progress:
            record = run_demo(
                self.out,
                model=self.model,
                refine_steps=self.refine_steps,
                device=self.compute.device,
                precision=self.compute.precision,
                seed=self.seed,
                force=self.force,
                progress=progress,
            )
        # after the status line is gone: while it lives, it takes stdout too
        console.result(summary(record, self.out), verdict({"out": str(self.out), **record}))
        if not record["quality"]["passed"]:
            reasons = "; ".join(record["quality"]["reasons"])
            raise QualityError(reasons, f"look at the pictures in {self.out}; they were kept")
