"""What every map from fixed to moving space can do, whatever it is made of: pull images, say where it goes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image, load_exact, load_grid, load_image, load_labels
from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid
from deformgan.spatial.labels import LabelSampler

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike

VALUES_KEPT = ("label", "nearest")  # interpolations that make no new ones
_INTERPOLATIONS = ("linear", "cubic", *VALUES_KEPT)
_MOST_TOGETHER, _TIMES_TOGETHER = 1 << 24, 32  # voxels of the grid that two fields are put on
_PROBES = 12  # along an axis, to see where a map goes


class Mapping(ABC):
    """A pull-back from fixed to moving world positions (mm, RAS+)."""

    @abstractmethod
    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Where fixed positions come from, (N, 3) → (N, 3): fixed → moving world mm, the way images are pulled."""

    @abstractmethod
    def mapped_blocks(self, onto: Grid, matrix: np.ndarray, relative: bool = False) -> Iterator[blockwise.Block]:
        """``matrix · map(x)`` (minus ``x`` if relative) for the voxels of ``onto``, block by block.

        Yields:
            start, stop, (3, stop - start, H, D) float32, good until the next is asked for.
        """

    def meets(self, moving: Grid, onto: Grid) -> bool:
        """Whether the voxels of ``onto`` come anywhere near ``moving``, by the box around where they are read."""
        axes = [np.unique(np.linspace(0, n - 1, min(n, _PROBES)).round()) for n in onto.shape]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        there = moving.to_index(self.map_points(onto.to_world(voxels)))
        return bool((there.max(0) >= -0.5).all() and (there.min(0) <= np.array(moving.shape) - 0.5).all())

    def displacement(self, onto: Grid) -> np.ndarray:
        """The complete map minus identity on the voxels of ``onto``: (D, H, W, 3) float32 mm, Fortran order."""
        out = np.empty((*onto.shape, 3), np.float32, order="F")
        transposed = torch.from_numpy(out.T)  # (3, W, H, D)
        for start, stop, values in self.mapped_blocks(onto, np.eye(4), relative=True):
            transposed[:, start:stop] = values
        return out

    def apply(self, image: ImageLike, onto: Grid | ImageLike, interpolation: str = "linear") -> Image:
        """Pull ``image`` (in moving space) onto ``onto`` (in fixed space).

        As ITK does it: positions beyond the outer voxel faces of ``image`` become 0, those in the outer half voxel take
        the border value.

        Args:
            image: An `Image`, or whatever `deformgan.io.image.load_image` takes.
            onto: A grid, or an image whose grid counts.
            interpolation: ``linear``; ``cubic`` (Catmull-Rom; slower, may overshoot); ``label``, the value with the
                largest share of the eight voxels around, where one that this would lose is put where the nearest voxel
                has it; ``nearest``.

        Returns:
            float32, or the image's dtype with ``label`` and ``nearest``.

        Raises:
            UsageError: unknown interpolation.
        """
        if interpolation not in _INTERPOLATIONS:
            raise UsageError(f"unknown interpolation {interpolation!r}", f"use {', '.join(_INTERPOLATIONS)}")
        kept = interpolation in VALUES_KEPT
        if not isinstance(image, Image):
            image = load_image(image)
        onto = grid_of(onto)
        out = np.zeros(onto.shape, image.data.dtype if kept else np.float32, order="F")
        source = blockwise.sampler(image.data, interpolation)
        self._sample(source, image.grid, onto, out)
        if isinstance(source, LabelSampler) and len(lost := source.lost(out)):
            near = np.zeros_like(out)
            self._sample(blockwise.sampler(image.data, "nearest"), image.grid, onto, near)
            np.copyto(out, near, where=np.isin(near, lost))
        return Image(out, onto, image.name)

    def _sample(
        self, source: Callable[[Tensor], Tensor | np.ndarray], moving: Grid, onto: Grid, out: np.ndarray
    ) -> None:
        """Write what ``source`` has at the voxels of ``onto`` to ``out``, (D, H, W) in Fortran order."""
        transposed = out.T
        for start, stop, at in self.mapped_blocks(onto, blockwise.normalised_index(moving)):
            reach = at.abs().amax(0)
            if float(reach.min()) > 1:
                continue
            transposed[start:stop] = source(at)
            if float(reach.max()) > 1:
                transposed[start:stop][(reach > 1).numpy()] = 0

    def apply_labels(self, labels: ImageLike, onto: Grid | ImageLike) -> Image:
        """Pull a label map onto ``onto``, see ``label`` in `apply`; values and dtype are kept."""
        labels = labels if isinstance(labels, Image) else load_labels(labels)
        return self.apply(labels, onto, "label")


def grid_of(onto: Grid | ImageLike) -> Grid:
    """A grid, or that of an image: a path, a nibabel image or an `Image`."""
    if isinstance(onto, Grid):
        return onto
    if isinstance(onto, str | os.PathLike):
        return load_grid(Path(onto))
    if hasattr(onto, "affine") and hasattr(onto, "shape"):  # nibabel's, whose voxels need not be read
        return Grid(tuple(onto.shape[:3]), onto.affine)  # type: ignore[arg-type]
    return load_exact(onto).grid


def require_near(grid: Grid, *parts: Grid | None) -> None:
    """Raise `InputError` where one grid for two fields would be of another order of size than theirs together."""
    own = sum(prod(one.shape) for one in parts if one is not None)
    if prod(grid.shape) > max(_MOST_TOGETHER, _TIMES_TOGETHER * own):
        raise InputError(
            f"one grid for both fields would have {prod(grid.shape):.2g} voxels, they themselves have {own:.2g}",
            "they lie far apart or differ much in voxel size: keep both, in apply or in an .h5 file",
        )
