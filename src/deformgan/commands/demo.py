"""``deformgan demo``: see it work, offline, on a pair whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deformgan.commands.console import Console
from deformgan.commands.options import Compute, Force, Json, OutFolder, Steps, Weights


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Register a simulated pair whose true deformation is known, tell the error and draw pictures."""

    out: OutFolder = Path("demo-output")
    """Folder for images, transforms and pictures."""
    refine: Steps = None
    weights: Weights = "t1-t2"
    seed: int = 0
    """Of the simulation."""
    force: Force = False
    json: Json = False
    compute: Compute = field(default_factory=Compute)

    def run(self, console: Console) -> None:
        """Run the demo; it writes its folder and answers by itself."""
        from deformgan.demo import run_demo

        self.compute.set_threads()
        with console.progress() as progress:
            run_demo(
                self.out,
                console,
                model=self.weights,
                refine_steps=self.refine,
                device=self.compute.device,
                precision=self.compute.precision,
                seed=self.seed,
                force=self.force,
                progress=progress,
            )
