"""What can be scored: this package's own registrations, trained weights, and results that other tools left on disk."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.models.device import pick_device, pick_precision
from deformgan.models.load import DEFAULT_MODEL, Model, load_model
from deformgan.pipeline import register
from deformgan.spatial.field import resize
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

IDENTITY, FLUID, PRODUCT, PRODUCT_NET = "identity", "mi-fluid", "deformgan", "deformgan-net"
BUILT_IN = (IDENTITY, FLUID, PRODUCT, PRODUCT_NET)


class Method(Protocol):
    """A registration that can be run on a case.

    Attributes:
        name: In tables.
        device, precision: What it computes on and in.
    """

    name: str
    device: str
    precision: str

    def predict(self, fixed: Tensor, moving: Tensor, spacing: float) -> Tensor:
        """The pull-back displacement from fixed to moving.

        Args:
            fixed, moving: (1, 1, D, H, W) float32 in [0, 1], on the CPU.
            spacing: Voxel size in mm.

        Returns:
            (1, 3, D, H, W) float32, voxels, on the CPU.
        """
        ...


@dataclass(frozen=True)
class Spec:
    """A method as it is asked for: a built-in's name, or ``NAME=FOLDER``.

    Args:
        name: In tables.
        folder: Of weights or of another tool's results; None for a built-in.
        external: Whether the folder holds results.
        model: Weights of the built-in methods that take some, by name or folder.
    """

    name: str
    folder: Path | None = None
    external: bool = False
    model: str = DEFAULT_MODEL

    @property
    def text(self) -> str:
        """As `parse_method` reads it."""
        return self.name if self.folder is None else f"{self.name}={self.folder}"


@dataclass(frozen=True)
class Compute:
    """Where and with what methods compute: as the command's options of these names."""

    device: str = "auto"
    precision: str = "auto"
    threads: int = 1

    def resolved(self) -> Compute:
        """With the device and precision that ``auto`` stands for here.

        Raises:
            UsageError: There is no such device.
        """
        device = pick_device(self.device)
        return Compute(device, pick_precision(self.precision, device), self.threads)


def parse_method(text: str, model: str = DEFAULT_MODEL) -> Spec:
    """Read ``identity``, ``mi-fluid``, ``deformgan``, ``deformgan-net`` or ``NAME=FOLDER``.

    Args:
        model: Weights of ``deformgan`` and ``deformgan-net``.

    Raises:
        UsageError: There is no such method, or the folder holds neither weights nor results.
    """
    name, equals, folder = text.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise UsageError(f"there is no method {name!r}", f"use {', '.join(BUILT_IN)} or NAME=FOLDER")
        return Spec(name, model=model)
    if not name or not folder:
        raise UsageError(f"{text!r} names no method", "give NAME=FOLDER")
    if name in BUILT_IN:
        raise UsageError(f"{name} is the name of a built-in method", "choose another name for the folder's")
    path = Path(folder)
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return Spec(name, path)
    if any(path.glob("*/field.nii.gz")):
        return Spec(name, path, external=True)
    raise UsageError(
        f"{path} holds neither weights nor results",
        "give a folder that train wrote (RUN/model), or one with CASE/field.nii.gz of each case",
    )


def make_method(spec: Spec, compute: Compute) -> Method:
    """Make a method ready to run.

    Args:
        spec: Of a method that runs here (not ``external``).
        compute: As resolved.

    Raises:
        InputError: Its weights are damaged.
    """
    if spec.folder is not None:
        return Trained(spec.name, load_model(spec.folder, compute.device), compute.precision)
    if spec.name == IDENTITY:
        return Identity()
    if spec.name == FLUID:
        return Fluid(compute.device)
    steps = 0 if spec.name == PRODUCT_NET else DEFAULT_STEPS
    return Product(spec.name, load_model(spec.model, compute.device), compute.precision, steps)


class Identity:
    """No registration at all: what there is to gain."""

    name, device, precision = IDENTITY, "cpu", "fp32"

    def predict(self, fixed: Tensor, moving: Tensor, spacing: float) -> Tensor:
        """A field of zeros."""
        return torch.zeros(1, 3, *fixed.shape[2:])


class Fluid:
    """Mutual information drives a viscous fluid: the conventional method of the comparison."""

    name, precision = FLUID, "fp32"

    def __init__(self, device: str) -> None:
        from deformgan.workshop.evaluation.fluid import register_fluid

        self.device, self._register = device, register_fluid

    def predict(self, fixed: Tensor, moving: Tensor, spacing: float) -> Tensor:
        """The fluid's displacement with its default settings."""
        return self._register(fixed.to(self.device), moving.to(self.device)).float().cpu()


class Trained:
    """T of a folder of weights, on the images as they are."""

    def __init__(self, name: str, model: Model, precision: str) -> None:
        self.name, self._model, self.precision = name, model, precision
        self.device = next(model.network.parameters()).device.type

    def predict(self, fixed: Tensor, moving: Tensor, spacing: float) -> Tensor:
        """T's field, brought to the images' grid.

        Raises:
            InputError: The weights are for images of another shape.
        """
        shape = tuple(fixed.shape[2:])
        if shape != self._model.grid_shape:
            raise InputError(
                f"{self.name} takes images of {self._model.grid_shape} voxels, these have {shape}",
                "make cases of its shape, or leave it out",
            )
        return resize(self._model.predict(fixed, moving, self.precision), shape).cpu()


class Product:
    """`deformgan.register` with the shipped weights: conforming, T, refinement, transform and quality check."""

    def __init__(self, name: str, model: Model, precision: str, steps: int) -> None:
        self.name, self._model, self.precision, self._steps = name, model, precision, steps
        self.device = model.device.type

    def predict(self, fixed: Tensor, moving: Tensor, spacing: float) -> Tensor:
        """The transform of the whole pipeline as a field on the images' grid."""
        d, h, w = fixed.shape[2:]
        grid = Grid.centred((d, h, w), spacing, np.zeros(3))
        pair = [Image(image[0, 0].numpy(), grid, name) for image, name in ((fixed, "fixed"), (moving, "moving"))]
        with warnings.catch_warnings():  # that an image is unlike a brain is for a user, not for a score
            warnings.simplefilter("ignore", UserWarning)
            result = register(*pair, model=self._model, refine_steps=self._steps, precision=self.precision)
        return as_field(result.transform, grid)


def as_field(transform: Transform, grid: Grid) -> Tensor:
    """A map from a grid to itself as a displacement in its voxels, (1, 3, D, H, W) float32.

    Args:
        grid: Along the world axes.
    """
    displacement = transform.displacement(grid) / grid.spacing.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(displacement.transpose(3, 0, 1, 2)))[None]
