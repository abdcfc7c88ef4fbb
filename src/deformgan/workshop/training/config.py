"""What a training run is made of: frozen dataclasses, read from TOML, kept whole in every checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deformgan.errors import UsageError
from deformgan.networks import network_class
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.simulation.deformation import DeformationConfig
from deformgan.workshop.training.objective import LossWeights
from deformgan.workshop.training.settings import read_settings, read_toml

_OTHER_HEAD = DeformationConfig(24.0, (0.0, 8.0), (9.0, 16.0), 6.0, (8.0, 8.0, 8.0), 0.12, 0.04)
_HINT = "see the settings in training/config.py"
SCALES = (0.25, 0.5, 1)


@dataclass(frozen=True)
class AugmentationConfig:
    """How a pair is made out of a subject; lengths in voxels of the working grid.

    Args:
        regimes: Deformations between fixed and moving image, drawn by ``weights``.
        weights: Relative frequency of each regime, in the order of ``regimes``.
        anatomy: Deformation common to both images: another head of the same kind.
        flip: Probability of mirroring left and right.
        degradation: Strength of noise, blur, thick slices and intensity curve.
    """

    regimes: dict[str, DeformationConfig] = field(
        default_factory=lambda: {
            "small": DeformationConfig(10.0, (3.0, 9.0), (7.0, 12.0), 2.0, (3.0, 3.0, 3.0), 0.03, 0.01),
            "medium": DeformationConfig(26.0, (4.0, 12.0), (8.0, 14.0), 6.0, (8.0, 8.0, 14.0), 0.09, 0.03),
            "large": DeformationConfig(48.0, (5.0, 14.0), (9.0, 16.0), 8.0, (12.0, 12.0, 36.0), 0.2, 0.05),
        }
    )
    weights: tuple[float, ...] = (0.25, 0.35, 0.4)
    anatomy: DeformationConfig = _OTHER_HEAD
    flip: float = 0.5
    degradation: float = 0.5

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.regimes):
            raise UsageError(
                f"there are {len(self.regimes)} regimes and {len(self.weights)} weights", "give each regime its weight"
            )


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Args:
        scale: Resolution of its images relative to the working grid: 0.25, 0.5 or 1.
        steps: Its steps.
        batch: Pairs a step.
        train: The networks that learn in it, of ``D``, ``G`` and ``T``; the others stay as they are.
        misalignment: If given, G and D see the moving image through the known field plus a smooth error of at most
            this mean length (voxels of the working grid), and not through T: what G learns first.
    """

    scale: float
    steps: int
    batch: int = 1
    train: tuple[Literal["D", "G", "T"], ...] = ("D", "G", "T")
    misalignment: float | None = None

    def __post_init__(self) -> None:
        if not self.train or len(set(self.train)) < len(self.train):
            raise UsageError("a stage trains one network or more, each named once", _HINT)
        if self.misalignment is not None and self.misalignment < 0:
            raise UsageError("misalignment is 0 or more", _HINT)
        if self.scale not in SCALES:
            raise UsageError(f"scale is 0.25, 0.5 or 1, not {self.scale}", _HINT)
        if min(self.steps, self.batch) < 1:
            raise UsageError("steps and batch are 1 or more", _HINT)


@dataclass(frozen=True)
class Only:
    """A part of T that learns alone, on fields that the rest of T makes once for every pair (see `training.part`).

    Args:
        part: Its name in T, such as ``stage``, the pyramid's local one; without a name all of T learns. The rest is
            that of ``start_from`` and stays so; the part itself begins anew.
        pairs: How many there are, each varied anew whenever it is drawn.
        taught: What the error after each application of the part counts for; as many applications are unrolled.
        weight_decay: Of AdamW.
        average: Share of the old in each step of the running average of the weights, which is what is kept.
    """

    part: str = ""
    pairs: int = 1900
    taught: tuple[float, ...] = (0.4, 0.7, 1.0)
    weight_decay: float = 1e-4
    average: float = 0.995

    def __post_init__(self) -> None:
        if self.pairs < 1 or not self.taught:
            raise UsageError("a part is taught on one pair or more, and once or more", _HINT)


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Args:
        name: Names the run and its weights.
        network: T, as `deformgan.networks.build` reads it.
        generator: G, or nothing: T is then trained without an adversary.
        discriminator: D.
        start_from: Name or folder of weights that T starts from (fine-tuning); default: random ones.
        generator_from: The same for G, and for D where the folder holds one.
        only: A part of T that learns alone.
        data, augmentation, loss: See there.
        scale: Resolution of the training images relative to the working grid: 0.25, 0.5 or 1.
        steps: Steps in all (one of each network).
        batch: Pairs a step.
        stages: Parts of the run with resolutions of their own, coarse to fine, in place of ``scale``, ``steps`` and
            ``batch``, which then say the last one's resolution, the sum of the steps, and the last one's pairs.
        learning_rate: Of Adam, at its peak for T.
        adversarial_rate: The same of G and D, where it is another one; 0: as T's.
        schedule: ``constant``, ``one-cycle`` or ``cosine`` (T only, over the steps in which it learns).
        clip: Largest gradient norm.
        precision: ``auto`` (bf16 where the processor computes in it), ``bf16`` or ``fp32``.
        workers: Processes that make pairs on the CPU; 0 makes them in between, on the training's device unless kept.
        seed: Of everything.
        validate_every, checkpoint_every: In steps.
        validation_pairs: Pairs held out of ``validation``, the same at each pass.
        validation: Patients (as in ``data.patients``) for the validation pass.
        pairs: How many different pairs a stage has at most, held in memory and drawn again and again; 0: each is new.
        keep_pairs: Whether pairs are kept on disk, in 8-bit, for other runs with the same data to read.
        snapshots: Steps after which T and G are kept as they are, to be looked at.
        gate: Share of comparisons in which T's loss must be lower at the true field than at wrong ones, on the held-out
            pairs, for T to be trained (see `training.gate`); 0 trains it in any case.
    """

    name: str
    network: dict[str, Any]
    generator: dict[str, Any] | None = None
    discriminator: dict[str, Any] | None = None
    start_from: str = ""
    generator_from: str = ""
    only: Only = field(default_factory=Only)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    scale: float = 0.5
    steps: int = 1000
    batch: int = 4
    stages: tuple[Stage, ...] = ()
    learning_rate: float = 1e-3
    adversarial_rate: float = 0.0
    schedule: Literal["constant", "one-cycle", "cosine"] = "one-cycle"
    clip: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int = 1
    seed: int = 1
    validate_every: int = 250
    checkpoint_every: int = 100
    validation_pairs: int = 6
    validation: tuple[str, ...] = ()
    pairs: int = 0
    keep_pairs: bool = False
    snapshots: tuple[int, ...] = ()
    gate: float = 0.0

    def __post_init__(self) -> None:
        if self.stages:
            scales = [stage.scale for stage in self.stages]
            if scales != sorted(scales):
                raise UsageError(f"the stages' scales {scales} do not rise", "put the coarsest first")
            derived = {
                "scale": scales[-1],
                "steps": sum(stage.steps for stage in self.stages),
                "batch": self.stages[-1].batch,
            }
            for name, value in derived.items():
                object.__setattr__(self, name, value)
        if min(self.validate_every, self.checkpoint_every) < 1:
            raise UsageError("validate_every and checkpoint_every are 1 or more", _HINT)
        if self.pairs < 0 or (self.pairs and (self.keep_pairs or self.workers)):
            raise UsageError("pairs that are held are 0 or more, made by no workers and not kept", _HINT)
        coarsest = max(round(1 / stage.scale) for stage in self.parts)
        if self.only.part and (self.generator or self.stages or self.scale != 0.5 or not self.start_from):
            hint = "give start_from, no stages and no generator, and leave scale at 0.5"
            raise UsageError("a part of T is taught at half resolution, the rest as some weights have it", hint)
        if (self.generator is None) != (self.discriminator is None):
            raise UsageError("a generator and a discriminator are trained against each other", "give both or neither")
        if self.gate and not self.validation:
            raise UsageError("a gate needs held-out pairs", "name patients in validation")
        if self.generator_from and self.generator is None:
            raise UsageError("there are weights for G and no generator", "add [generator] and [discriminator]")
        if self.generator is None and self.loss.needs_generator:
            raise UsageError(
                f"the similarity {self.loss.similarity} needs a generator", "add [generator] and [discriminator]"
            )
        self._check_network(coarsest)

    def _check_network(self, coarsest: int) -> None:
        try:
            network = network_class(self.network.get("kind"), "T")
        except ValueError as error:
            raise UsageError(
                f"the configuration has a network that cannot be: {error}", "correct its section"
            ) from error
        kind, own = self.network["kind"], network.input_reduction
        if any(n % network.multiple for n in self.data.shape):
            hint = f"use multiples of {network.multiple}"
            raise UsageError(f"a network of kind {kind} cannot be trained on the grid {self.data.shape}", hint)
        if coarsest > own > 1:
            hint = f"use scales from {1 / own:g} on"
            raise UsageError(f"a network of kind {kind} reads images at a resolution of {1 / own:g}", hint)

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages; one where none were named."""
        return self.stages or (Stage(self.scale, self.steps, self.batch),)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`; unknown or missing keys and values of the wrong type raise `UsageError`."""
        return read_settings(cls, values, "the configuration")


def load_config(path: str | Path) -> TrainingConfig:
    """Read a TOML file.

    Raises:
        InputError: The file is missing or is not TOML.
        UsageError: A key is unknown or missing, or a value cannot be.
    """
    return TrainingConfig.from_dict(read_toml(path))
