"""What a training run is made of: frozen dataclasses, read from TOML, kept whole in every checkpoint."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from deformgan.errors import InputError, UsageError
from deformgan.simulation.deformation import DeformationConfig
from deformgan.training.steps import LossWeights

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Where training pairs come from.

    Args:
        root: Folder that the other paths are relative to.
        patients: Folders with co-registered ``CONTRAST.nii.gz`` files of one patient each.
        contrasts: File stems to use, and how often each is drawn (relative weights).
        label_maps: Whole-head label maps (FreeSurfer ids) from which images are synthesised.
        variants: Images synthesised of each label map: T1-like, T2-like, then random contrasts in turn.
        synthetic: Share of pairs drawn from label maps.
        realign: Whether each contrast is first moved along z onto the patient's first one (sub-slice offsets).
        cache: Folder for the conformed images; made at the first run.
        shape: Working grid.
        spacing: Its voxel size in millimetres.
    """

    root: str = "."
    patients: tuple[str, ...] = ()
    contrasts: dict[str, float] = field(default_factory=lambda: {"t1": 1.0, "t2": 1.0})
    label_maps: tuple[str, ...] = ()
    variants: int = 8
    synthetic: float = 0.3
    realign: bool = True
    cache: str = "runs/cache"
    shape: tuple[int, int, int] = (112, 128, 96)
    spacing: float = 1.5


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
    anatomy: DeformationConfig = DeformationConfig(24.0, (0.0, 8.0), (9.0, 16.0), 6.0, (8.0, 8.0, 8.0), 0.12, 0.04)
    flip: float = 0.5
    degradation: float = 0.5


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Args:
        name: Names the run and its weights.
        network: T, as `deformgan.networks.build` reads it.
        generator: G, or nothing: T is then trained without an adversary.
        discriminator: D.
        data, augmentation, loss: See there.
        scale: Resolution of the training images relative to the working grid, 1 or 0.5.
        steps: Steps in all (one of each network).
        batch: Pairs a step.
        learning_rate: Of Adam, at its peak for T.
        schedule: ``constant`` or ``one-cycle`` (T only).
        clip: Largest gradient norm.
        precision: ``bf16`` or ``fp32``.
        workers: Processes that make pairs.
        seed: Of everything.
        validate_every, checkpoint_every: In steps.
        validation_pairs: Pairs held out of ``validation``, the same at each pass.
        validation: Patients (as in ``data.patients``) for the validation pass.
    """

    name: str
    network: dict[str, Any]
    generator: dict[str, Any] | None = None
    discriminator: dict[str, Any] | None = None
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    scale: float = 0.5
    steps: int = 1000
    batch: int = 4
    learning_rate: float = 1e-3
    schedule: str = "one-cycle"
    clip: float = 1.0
    precision: str = "bf16"
    workers: int = 1
    seed: int = 1
    validate_every: int = 250
    checkpoint_every: int = 100
    validation_pairs: int = 6
    validation: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`; unknown or missing keys raise `UsageError`."""
        return _read(cls, values, "the configuration")


def load_config(path: str | Path) -> TrainingConfig:
    """Read a TOML file.

    Raises:
        InputError: The file is missing or is not TOML.
        UsageError: A key is unknown or missing.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}", "give the path of a .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}", "correct the line it names") from error
    return TrainingConfig.from_dict(values)


def _read(cls: type[T], values: dict[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise UsageError(f"{where} has no setting {', '.join(sorted(unknown))}", f"it knows {', '.join(hints)}")
    arguments = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = _read(hint, value, f"{where}, {key}")  # type: ignore[arg-type]
        elif key == "regimes":
            value = {k: v if isinstance(v, DeformationConfig) else _read(DeformationConfig, v, f"{where}, {k}") for k, v in value.items()}
        elif isinstance(value, list):
            value = tuple(value)
        arguments[key] = value
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}", "add the missing setting") from error
