"""Trained networks: where they are kept, how they are checked and loaded, and how T is run."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import parse_json, read_small
from deformgan.models.device import computing_in
from deformgan.networks import KINDS, Role, build, network_class
from deformgan.networks.base import GeneratorNetwork, TransformationNetwork, reduced
from deformgan.spatial.recorded import Repeated

DEFAULT_MODEL = "t1-t2"
_SHIPPED = Path(__file__).parent / "weights"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_GENERATOR = "generator.safetensors"
_DISCRIMINATOR = "discriminator.safetensors"
_MAX_VOXELS, _MAX_SIDE = 2**27, 1024
MOST_BYTES = 2**31  # of weights
_MOST_LEVELS, _MOST_REPEATS = 8, 64
_REPEATS = ("iterations", "passes", "integration_steps")
_LEAST_MM, _MOST_MM = 1e-3, 1e3  # of a working voxel
_MOST_VOXELS = 1e6  # that a field moves


@dataclass(frozen=True)
class Model:
    """A trained transformation network.

    Args:
        network: T, in evaluation mode.
        config: What was saved beside the weights: ``network``, ``grid``, ``scale`` (resolution of the training images
            relative to the grid: 1, 0.5 or 0.25; 1 where it is absent) and, for information, ``training``.
        name: The name or path it was loaded by.
        sha256: Of the weights file.
        generator_sha256: Of G's weights, which a folder may hold too; None where it does not.
    """

    network: TransformationNetwork
    config: dict[str, Any]
    name: str
    sha256: str
    generator_sha256: str | None = None

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Working grid the network was trained on."""
        return tuple(self.config["grid"]["shape"])

    @property
    def spacing(self) -> float:
        """Its voxel size in millimetres."""
        return float(self.config["grid"]["spacing"])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @property
    def reduction(self) -> int:
        """How many voxels, along each axis, become one before an image is given to the network."""
        return _reduction(self.network.input_reduction, self.config)

    def described(self) -> dict[str, Any]:
        """What a record says of it."""
        described = {"name": self.name, "sha256": self.sha256, "network": self.config["network"]}
        return described | ({"generator": self.generator_sha256} if self.generator_sha256 else {})

    @torch.inference_mode()
    def predict(self, fixed: Tensor, moving: Tensor, precision: str = "auto") -> Tensor:
        """Run T.

        Args:
            fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
            precision: ``fp32``, ``bf16``, or ``auto``, see `deformgan.models.device.pick_precision`.

        Returns:
            Field (1, 3, d, h, w), float32, in voxels of its own grid, which may be coarser than the images'.

        Raises:
            UsageError: There is no such precision.
            InputError: The field is not finite, or leads beyond any image.
        """
        device = self.device
        fixed, moving = fixed.to(device), moving.to(device)
        fixed, moving = (reduced(image, self.reduction) for image in (fixed, moving))
        with computing_in(precision, device):
            field = self._field(fixed, moving, precision)
        if not float(field.abs().amax()) <= _MOST_VOXELS:  # NaN is not either
            raise InputError(f"the weights {self.name} move voxels beyond any image", "train them anew")
        return field.float()

    @cached_property
    def _on_gpu(self) -> Repeated:
        return Repeated(lambda fixed, moving: (self.network(fixed, moving),))

    def _field(self, fixed: Tensor, moving: Tensor, precision: str) -> Tensor:
        if fixed.device.type != "cuda":
            return self.network(fixed, moving)
        return self._on_gpu((fixed.shape, moving.shape, precision), fixed, moving)[0]


def shipped_models(role: Role = "T") -> list[str]:
    """Names of the weights inside the package, of networks of this role."""
    folders = sorted(p.parent for p in _SHIPPED.glob(f"*/{_WEIGHTS}"))
    return [f.name for f in folders if KINDS[parse_json(read_small(f / _CONFIG))["network"]["kind"]][0] == role]


def card_of(name: str) -> Path:
    """The model card of shipped weights: what they were taught, and on whom."""
    return Path(str(_SHIPPED / name / "MODEL_CARD.md"))


def load_model(name: str | os.PathLike[str] = DEFAULT_MODEL, device: str | torch.device = "cpu") -> Model:
    """Load T by the name of shipped weights or the path of a folder with ``config.json`` and ``model.safetensors``.

    A string that names shipped weights means these, whatever lies in the working folder; `Path` or ``./NAME`` does not.

    Raises:
        UsageError: There is nothing of that name.
        InputError: The files are damaged or do not belong together.
    """
    folder = weights_folder(name)
    try:
        config = parse_json(read_small(folder / _CONFIG))
        data = read_small(folder / _WEIGHTS, MOST_BYTES)
        beside = folder / _GENERATOR
        generator = hashlib.sha256(read_small(beside, MOST_BYTES)).hexdigest() if beside.is_file() else None
        state = load(data)
        network = fitting_network(config["network"], state, "T")
        _check_grid(config)
        if not all(bool(torch.isfinite(t).all()) for t in state.values()):
            raise ValueError("weights are not finite")
        network.load_state_dict(state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the weights in {folder} are damaged: {reason}", "install or train them anew") from error
    network = network.eval().to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Model(network, config, str(name), hashlib.sha256(data).hexdigest(), generator)


@dataclass(frozen=True)
class Translator:
    """The generator G beside a transformation network.

    Args:
        network: G, in evaluation mode.
        grid: Shape and spacing in mm of the grid that it was trained on.
        reduction: How many voxels of that grid, along each axis, become one before G sees an image.
        sha256: Of the weights file.
    """

    network: GeneratorNetwork
    grid: tuple[tuple[int, int, int], float]
    reduction: int
    sha256: str

    @torch.inference_mode()
    def translate(self, moved: Tensor) -> Tensor:
        """(1, 1, D, H, W) in [0, 1] on the grid → the same in the fixed contrast, (1, 1, d, h, w) in [0, 1]."""
        coarse = reduced(moved.float(), self.reduction)
        return (self.network(2 * coarse - 1).float() + 1) / 2


def load_generator(name: str | os.PathLike[str] = DEFAULT_MODEL) -> Translator | None:
    """G by the name that `load_model` takes, on the CPU; None where the folder holds T alone.

    Raises:
        UsageError: There is nothing of that name.
        InputError: The files are damaged or do not belong together.
    """
    folder = weights_folder(name)
    if not (folder / _GENERATOR).is_file():
        return None
    try:
        config = parse_json(read_small(folder / _CONFIG))
        data = read_small(folder / _GENERATOR, MOST_BYTES)
        _check_grid(config)
        state = load(data)
        network = fitting_network(config["generator"], state, "G")
        network.load_state_dict(state)
        shape, spacing = tuple(config["grid"]["shape"]), float(config["grid"]["spacing"])
        reduction = round(1 / config.get("scale", 1))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the generator in {folder} is damaged: {reason}", "train it anew, or remove it") from error
    return Translator(network.eval(), (shape, spacing), reduction, hashlib.sha256(data).hexdigest())


def load_discriminator(name: str | os.PathLike[str]) -> dict[str, Tensor] | None:
    """The weights of D beside a transformation network, float32, which training alone uses; None where there are none.

    Raises:
        UsageError: There is nothing of that name.
        InputError: The file is damaged.
    """
    path = weights_folder(name) / _DISCRIMINATOR
    if not path.is_file():
        return None
    try:
        return {key: value.float() for key, value in load(read_small(path, MOST_BYTES)).items()}
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the discriminator {path} is damaged: {error}", "train it anew, or remove it") from error


def _check_grid(config: dict[str, Any]) -> None:
    sizes, spacing = config["grid"]["shape"], float(config["grid"]["spacing"])
    if len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes) or not _LEAST_MM <= spacing <= _MOST_MM:
        raise ValueError(f"the grid is not one of three axes and voxels of {_LEAST_MM:g} to {_MOST_MM:g} mm")
    if math.prod(sizes) > _MAX_VOXELS or max(sizes) > _MAX_SIDE:
        raise ValueError(f"a grid of {sizes} voxels is larger than any network's")
    scale = config.get("scale", 1)
    if scale not in (0.25, 0.5, 1):
        raise ValueError(f"the scale is 1, 0.5 or 0.25, not {scale}")
    own = network_class(config["network"]["kind"], "T").input_reduction
    factor = own * _reduction(own, config)
    if any(n % factor for n in sizes):
        raise ValueError(f"the grid's sides {sizes} must be multiples of {factor} to be reduced")


def _reduction(own: int, config: dict[str, Any]) -> int:
    """Of images before a network is given them; one that reduces them by itself gets them whole."""
    return 1 if own > 1 else round(1 / config.get("scale", 1))


def fitting_network(network: dict[str, Any], state: dict[str, Tensor], role: Role) -> Any:
    """The network a configuration names, not yet filled; the weights there are bound the memory that it takes.

    Raises:
        ValueError: The configuration is none, is of another role, or names sizes or counts that no network of such
            weights has.
    """
    network_class(network["kind"], role)
    # every width has a 3³ layer from itself to itself among the weights
    most_width = math.isqrt(sum(tensor.numel() for tensor in state.values()) // 27)
    for key, value in network.items():
        numbers = value if isinstance(value, list) else [value]
        most = _MOST_REPEATS if key in _REPEATS else most_width
        sound = (isinstance(n, str) or (isinstance(n, (int, float)) and abs(n) <= most) for n in numbers)
        if len(numbers) > _MOST_LEVELS or not all(sound):
            raise ValueError(f"no network of these weights has such a setting: {key}")
    return build(network, role)


def weights_folder(name: str | os.PathLike[str], role: Role = "T") -> Path:
    """The folder of shipped weights of a network of this role, or the one of that path.

    Raises:
        UsageError: There are no weights.
    """
    # compared with what is there, not joined to it: a name leads nowhere but into the package
    folder = _SHIPPED / name if isinstance(name, str) and name in shipped_models(role) else Path(name)
    if (folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file():
        return folder
    known = ", ".join(shipped_models(role)) or "none are shipped"
    raise UsageError(
        f"there are no weights named {str(name)!r}", f"use one of: {known}; or the path of a folder that train wrote"
    )


def save_model(
    folder: Path,
    network: nn.Module,
    config: dict[str, Any],
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as `load_model` reads them.

    Args:
        generator: G, written as ``generator.safetensors``; ``config["generator"]`` is then how it is built.
        discriminator: D, written as ``discriminator.safetensors``, for training that goes on from this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in ((_WEIGHTS, network), (_GENERATOR, generator), (_DISCRIMINATOR, discriminator)):
        if one is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic(folder / name) as partial:
            save_file({k: v.detach().cpu().contiguous() for k, v in one.state_dict().items()}, partial)
    with atomic(folder / _CONFIG) as partial:
        Path(partial).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
