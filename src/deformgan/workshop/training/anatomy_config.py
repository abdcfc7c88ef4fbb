"""What a run that trains S is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from deformgan.errors import UsageError
from deformgan.workshop.simulation.head_scans import ScanConfig
from deformgan.workshop.training.settings import read_settings


@dataclass(frozen=True)
class AnatomyConfig:
    """A run that trains S.

    Args:
        name: Names the run and its weights.
        network: S, as `deformgan.networks.build` reads it; its kind is ``anatomy``.
        start_from: Folder of weights that S starts from; default: random ones.
        root: Folder that the label maps lie in.
        label_maps: Whole-head label maps (FreeSurfer ids) to learn from.
        validation: Label maps for the validation pass alone.
        cache: Folder for what is made of them once.
        scans: How samples vary.
        steps: Steps in all.
        batch: Samples a step.
        learning_rate: Of AdamW, at its peak.
        warm_up: Steps of its rise.
        half_life: Steps after which it has fallen by the root of two, by that of three after twice as many, and so on.
        average: Share of the old in each step of the running average of the weights.
        clip: Largest gradient norm.
        precision: ``auto`` (bf16 where the processor computes in it), ``bf16`` or ``fp32``.
        workers: Processes that make samples on the CPU; 0 makes them in between, on the device of the training.
        seed: Of everything.
        validate_every: In steps.
        checkpoint_seconds: Between two checkpoints.
    """

    name: str
    network: dict[str, Any]
    start_from: str = ""
    root: str = "."
    label_maps: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    cache: str = "runs/cache"
    scans: ScanConfig = field(default_factory=ScanConfig)
    steps: int = 10_000
    batch: int = 1
    learning_rate: float = 2e-3
    warm_up: int = 100
    half_life: int = 2000
    average: float = 0.998
    clip: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int = 0
    seed: int = 1
    validate_every: int = 100
    checkpoint_seconds: float = 180.0

    def __post_init__(self) -> None:
        if not self.label_maps:
            raise UsageError("there is nothing to learn anatomy from", "list label_maps")
        if min(self.steps, self.batch, self.warm_up, self.half_life, self.validate_every) < 1:
            raise UsageError("steps, batch, warm_up, half_life and validate_every are 1 or more", "correct the setting")
        if any(n % 2 for n in self.scans.shape):
            raise UsageError(f"scans of {self.scans.shape} voxels cannot be folded", "use even numbers")
        if len(self.scans.elastic) != len(self.scans.elastic_every):
            raise UsageError("elastic and elastic_every differ in number", "give each deviation its distance")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AnatomyConfig:
        """The inverse of `to_dict`; unknown or missing keys and values of the wrong type raise `UsageError`."""
        return read_settings(cls, values, "the configuration")
