"""``deformgan simulate``: write registration cases whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Force, Json, Messages, OutFolder, Threads
from deformgan.errors import UsageError

Contrast = Literal["t1", "t2", "flair", "t1gd", "random"]
Regime = Literal["small", "medium", "large"]


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Write pairs of images whose true deformation is known, to test or train with.

    Each case is a folder of two contrasts of one anatomy, one of them deformed, with what a perfect result equals, labels, mask and the true field.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    out: OutFolder
    """Folder for case_000, case_001, ...; made if it is not there."""
    cases: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How many."""
    regime: Annotated[tuple[Regime, ...], tyro.conf.arg(metavar="NAME")] = ("small", "medium", "large")
    """How large the deformation is; cases take turns."""
    labels: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(default: the shipped anatomy)")
    ] = ()
    """Label maps with FreeSurfer's ids to make the images from."""
    fixed: Contrast = "t2"
    """Contrast of the fixed image."""
    moving: Contrast = "t1"
    """Contrast of the moving image."""
    shape: tuple[int, int, int] = (112, 128, 96)
    """Voxels along each axis."""
    spacing: Annotated[float | None, tyro.conf.arg(metavar="MM", help_behavior_hint="(default: fits the head)")] = None
    """Voxel size."""
    no_tumour: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Healthy anatomy only."""
    artefacts: Annotated[float, tyro.conf.arg(metavar="S")] = 0.5
    """Strength of noise, blur and bias, 0 for none."""
    seed: int = 0
    """The same seed makes the same cases."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Threads = field(default_factory=Threads)

    def run(self, console: Console) -> None:
        """Write the cases; each is whole or not there.

        Raises:
            UsageError: A size that makes no image.
        """
        if min(self.shape) < 16 or not (self.spacing is None or 0 < self.spacing < 100):
            raise UsageError(
                f"no brain fits {self.shape} voxels of {self.spacing or 'any'} mm", "give 16 voxels or more"
            )
        from deformgan.workshop.simulation.cases import simulate

        self.compute.set_threads()
        with console.progress() as progress:
            progress("simulating")
            done = []
            for folder, meta in simulate(
                self.out,
                count=self.cases,
                regimes=self.regime,
                labels=self.labels,
                fixed=self.fixed,
                moving=self.moving,
                shape=self.shape,
                spacing=self.spacing,
                tumour=not self.no_tumour,
                strength=self.artefacts,
                seed=self.seed,
                force=self.force,
            ):
                done.append({"folder": str(folder), **meta})
                progress(f"simulating: {len(done)} of {self.cases}")
        console.result(f"{self.out}: {len(done)} cases", success({"out": str(self.out), "cases": done}))
