"""What can be chosen for a registration: one dataclass for the command and for Python, which checks itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

import tyro

from deformgan.errors import UsageError

TransformKind = Literal["rigid", "affine", "joint", "deform"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
BrainKind = Literal["auto", "whole"]
Subject = Literal["auto", "same", "other"]
DEFAULT_STEPS = 200
MOST_STEPS = 1_000_000  # months


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to register."""

    # a new option is a line here and one in the record's schema

    transform: TransformKind = "joint"
    """joint finds an affine map first, from any orientation, and keeps the headers where these are as good; deform starts where headers, or else the contents' centres, place the images; rigid and affine write that map alone."""  # noqa: E501 — the help page wraps its paragraphs itself
    brain: BrainKind = "auto"
    """auto registers the brain alone where an image without a mask shows a head; whole takes the images as they are."""
    refine_steps: Annotated[int, tyro.conf.arg(metavar="N")] = DEFAULT_STEPS
    """Optimisation steps after the network, 0 for none."""
    smoothness: Annotated[float, tyro.conf.arg(metavar="X")] = 1.0
    """How much bending costs that optimisation: 3 for a smoother map, 0.3 for one that follows details."""
    subject: Subject = "auto"
    """Whether both images show the same person or another one; auto lets the images decide. Between people the map follows finer detail."""  # noqa: E501 — the help page wraps its paragraphs itself
    uncertainty: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Map the expected error in mm (uncertainty.nii.gz): the pair is refined six times more, in a little other ways each."""  # noqa: E501 — the help page wraps its paragraphs itself
    device: Device = "auto"
    """auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """Number format inside the network; auto is bf16 where the device gains by it."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("transform", TransformKind),
            ("brain", BrainKind),
            ("subject", Subject),
            ("precision", Precision),
        ):
            if (value := getattr(self, name)) not in get_args(kind):
                raise UsageError(f"unknown {name} {value!r}", f"use {', '.join(get_args(kind))}")
        if not 0 <= self.refine_steps <= MOST_STEPS:
            raise UsageError(f"{self.refine_steps} refinement steps are not 0 to {MOST_STEPS}", "give 0 for none")
        if not 0 < self.smoothness < math.inf:
            raise UsageError(f"a smoothness of {self.smoothness:g} is not above 0", "give 1 for the usual one")

    def options_as_dict(self) -> dict[str, Any]:
        """These fields alone, of a class that has more."""
        return {one.name: getattr(self, one.name) for one in fields(Options)}

    @property
    def is_linear(self) -> bool:
        """Whether the map is linear: no network is run, and nothing is refined."""
        return self.transform in ("rigid", "affine")
