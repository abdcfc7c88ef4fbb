"""What a training run is made of: frozen dataclasses, read from TOML, kept whole in every checkpoint."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import read_small
from deformgan.networks import network_class
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.simulation.deformation import DeformationConfig
from deformgan.workshop.training.objective import LossWeights

T = TypeVar("T")

_OTHER_HEAD = DeformationConfig(24.0, (0.0, 8.0), (9.0, 16.0), 6.0, (8.0, 8.0, 8.0), 0.12, 0.04)
_HINT = "see the settings in training/config.py"
SCALES = (0.25, 0.5, 1)
_MOST_WHOLE = 2**63


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
class TrainingConfig:
    """A whole run.

    Args:
        name: Names the run and its weights.
        network: T, as `deformgan.networks.build` reads it.
        generator: G, or nothing: T is then trained without an adversary.
        discriminator: D.
        start_from: Name or folder of weights that T starts from (fine-tuning); default: random ones.
        data, augmentation, loss: See there.
        scale: Resolution of the training images relative to the working grid: 0.25, 0.5 or 1.
        steps: Steps in all (one of each network).
        batch: Pairs a step.
        stages: Parts of the run with resolutions of their own, coarse to fine, in place of ``scale``, ``steps`` and
            ``batch``, which then say the last one's resolution, the sum of the steps, and the last one's pairs.
        learning_rate: Of Adam, at its peak for T.
        schedule: ``constant`` or ``one-cycle`` (T only).
        clip: Largest gradient norm.
        precision: ``bf16`` or ``fp32``.
        workers: Processes that make pairs.
        seed: Of everything.
        validate_every, checkpoint_every: In steps.
        validation_pairs: Pairs held out of ``validation``, the same at each pass.
        validation: Patients (as in ``data.patients``) for the validation pass.
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
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    scale: float = 0.5
    steps: int = 1000
    batch: int = 4
    stages: tuple[Stage, ...] = ()
    learning_rate: float = 1e-3
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    clip: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int = 1
    seed: int = 1
    validate_every: int = 250
    checkpoint_every: int = 100
    validation_pairs: int = 6
    validation: tuple[str, ...] = ()
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
        coarsest = max(round(1 / stage.scale) for stage in self.parts)
        if (self.generator is None) != (self.discriminator is None):
            raise UsageError("a generator and a discriminator are trained against each other", "give both or neither")
        if self.gate and not self.validation:
            raise UsageError("a gate needs held-out pairs", "name patients in validation")
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


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        InputError: The file is missing or is not TOML.
    """
    path = Path(path)
    try:
        return tomllib.loads(read_small(path).decode("utf-8").replace("\r\n", "\n"))
    except OSError as error:
        raise InputError(
            f"cannot read the configuration {path}: {error.strerror}", "give the path of a .toml file"
        ) from error
    except (ValueError, RecursionError) as error:  # TOML's own errors are of the first kind
        raise InputError(f"{path} is not a TOML file: {error}", "correct the line it names") from error


def read_settings(cls: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass of settings out of plain values, its inner dataclasses too.

    Args:
        where: What messages call it.

    Raises:
        UsageError: A key is unknown or missing, or a value is of the wrong type.
    """
    hints = get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise UsageError(f"{where} has no setting {', '.join(sorted(unknown))}", f"it knows {', '.join(hints)}")
    if lacking := [name for name in _needed(cls) if name not in values]:
        raise UsageError(f"{where} is incomplete: it lacks {', '.join(lacking)}", "add the missing setting")
    arguments = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = read_settings(hint, value, f"{where}, {key}")  # type: ignore[arg-type]
        elif hint == dict[str, DeformationConfig] and isinstance(value, dict):
            value = {
                k: read_settings(DeformationConfig, v, f"{where}, {k}") if isinstance(v, dict) else v
                for k, v in value.items()
            }
        elif hint == tuple[Stage, ...] and isinstance(value, list | tuple):
            value = tuple(read_settings(Stage, v, f"{where}, {key}") if isinstance(v, dict) else v for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hint):
            raise UsageError(
                f"{where}: {key} cannot be {value!r}",
                f"its type is {hint.__name__ if isinstance(hint, type) else hint}",
            )
        arguments[key] = value
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}", "add the missing setting") from error


def _needed(cls: type) -> list[str]:
    absent = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is absent and f.default_factory is absent]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type; whole numbers pass for ``float``, but nothing passes for another."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind is tuple:
        each = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_MOST_WHOLE <= value < _MOST_WHOLE
    return hint is Any or isinstance(value, hint)
