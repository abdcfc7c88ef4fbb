"""Registration cases with a known truth: two contrasts of one anatomy, one of them deformed.

A case folder holds, all on one grid and as ``.nii.gz``: ``fixed``, ``moving`` (deformed), ``moving_true`` (what a
perfect output equals), ``fixed_seg``, ``moving_seg``, ``mask``, ``true_field`` (pull-back displacement in voxels, last
axis i, j, k), ``true_warp`` (the same as an ITK displacement, LPS mm), and ``meta.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import write_nifti
from deformgan.io.image import Image
from deformgan.output.folder import staged_folder
from deformgan.spatial.field import affine_field
from deformgan.spatial.grid import Grid, Shape
from deformgan.spatial.warp import warp
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.anatomy import load_anatomy, read_anatomy
from deformgan.workshop.simulation.artefacts import degrade, gaussian_blur
from deformgan.workshop.simulation.contrasts import MODALITIES, TUMOUR_CORE, TUMOUR_OEDEMA, synthesise
from deformgan.workshop.simulation.deformation import REGIMES, Deformation, DeformationConfig, sample_deformation
from deformgan.workshop.simulation.tumour import WHITE, add_tumour

SHAPE: Shape = (112, 128, 96)
TUMOUR_LABELS = (TUMOUR_CORE, TUMOUR_OEDEMA)
IMAGES = ("fixed", "moving", "moving_true", "fixed_seg", "moving_seg", "mask", "true_field", "true_warp")
FILES = (*(f"{name}.nii.gz" for name in IMAGES), "meta.json")
_MARGIN = 2  # voxels around the content that any deformation needs
_LARGEST_SEED = 2**32 - 1
_FILL = 0.76  # share of each axis the content may take, which leaves room to be moved


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """One case as it is made, with both directions of its map; read again for scoring it is an `EvaluationCase`.

    Tensors are (1, 1, D, H, W) on ``grid``, images float32 in [0, 1], labels int16, the mask boolean.
    """

    fixed: Tensor
    moving: Tensor
    moving_true: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    mask: Tensor
    deformation: Deformation
    grid: Grid
    meta: dict[str, Any]

    @property
    def transform(self) -> Transform:
        """The true map from fixed to moving in world millimetres."""
        return Transform.from_field(self.grid, self.grid, self.deformation.forward)


def make_case(
    anatomy: Image,
    regime: str | DeformationConfig,
    generator: torch.Generator,
    *,
    fixed: str = "t2",
    moving: str = "t1",
    shape: Shape = SHAPE,
    spacing: float | None = None,
    tumour: bool = True,
    strength: float = 0.5,
) -> SimulatedCase:
    """Make one case.

    The moving image is the deformed `moving_true`, scan artefacts included: the truth is exact in intensity too.

    Args:
        anatomy: Labels along the world axes (see `deformgan.workshop.simulation.anatomy`).
        regime: ``small``, ``medium``, ``large`` or a configuration of the deformation.
        generator: Source of all randomness (on the CPU).
        fixed, moving: Contrasts, of `deformgan.workshop.simulation.contrasts.MODALITIES`.
        shape: Voxels of the case.
        spacing: Their size in mm; default: such that the anatomy takes three quarters of the volume's tightest axis.
        tumour: Whether to grow one.
        strength: Of the scan artefacts, 0 for none.

    Raises:
        UsageError: An unknown regime or contrast, or the anatomy does not fit into ``shape`` voxels of ``spacing``.
        InputError: A tumour is wanted and there is no white matter for it to grow in.
    """
    _check(regime, (fixed, moving))
    _check_anatomy(anatomy, shape, spacing, tumour)
    labels = torch.from_numpy(np.ascontiguousarray(anatomy.data)).int()
    if tumour:
        labels = add_tumour(labels, generator, spacing_mm=float(anatomy.grid.spacing.mean()))
    grid = _case_grid(anatomy, shape, spacing)
    to_case = _Resampler(anatomy.grid, grid)
    mask = to_case((labels > 0).float()[None, None]) > 0.5
    images = []
    for modality in (fixed, moving):
        ideal = to_case(synthesise(labels, modality, generator, partial_volume=0.0))
        images.append(degrade(ideal, mask, generator, strength))
    fixed_labels = to_case.nearest(labels[None, None].short()) * mask
    deformation = sample_deformation(grid.shape, regime, generator, mask.float())
    return SimulatedCase(
        fixed=images[0],
        moving=deformed(images[1], mask, deformation.inverse),
        moving_true=images[1],
        fixed_labels=fixed_labels,
        moving_labels=warp(fixed_labels, deformation.inverse, mode="nearest"),
        mask=mask,
        deformation=deformation,
        grid=grid,
        meta=_meta(deformation, mask, grid, regime, anatomy.name, (fixed, moving), tumour),
    )


def _check(regime: str | DeformationConfig, contrasts: tuple[str, ...]) -> None:
    if isinstance(regime, str) and regime not in REGIMES:
        raise UsageError(f"unknown regime {regime!r}", f"choose one of {', '.join(REGIMES)}")
    for contrast in contrasts:
        if contrast not in MODALITIES:
            raise UsageError(f"unknown contrast {contrast!r}", f"choose one of {', '.join(MODALITIES)}")


def _check_anatomy(anatomy: Image, shape: Shape, spacing: float | None, tumour: bool) -> None:
    if spacing is not None:
        low, high = _ends(anatomy)
        size = np.abs(high - low)
        if (size > spacing * (np.array(shape) - 1 - 2 * _MARGIN)).any():
            needed = " × ".join(f"{n:.0f}" for n in size)
            raise UsageError(
                f"{anatomy.name} ({needed} mm) does not fit into {shape} voxels of {spacing:g} mm",
                "ask for more or larger voxels, or leave the size out",
            )
    if tumour and not np.isin(anatomy.data, WHITE).any():
        ids = ", ".join(map(str, WHITE))
        raise InputError(
            f"{anatomy.name} has no white matter (ids {ids}) for a tumour to grow in", "give --no-tumour, or other ids"
        )


def _ends(anatomy: Image) -> np.ndarray:
    """World positions of the first and the last voxel that is not empty, (2, 3)."""
    occupied = [np.flatnonzero(anatomy.data.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    return anatomy.grid.to_world(np.array([[o[0] for o in occupied], [o[-1] for o in occupied]]))


def _case_grid(anatomy: Image, shape: Shape, spacing: float | None) -> Grid:
    """A grid along the world axes in the middle of the anatomy's bounding box."""
    ends = _ends(anatomy)
    if spacing is None:
        spacing = float((np.abs(ends[1] - ends[0]) / (_FILL * np.array(shape))).max().round(2))
    return Grid.centred(shape, spacing, ends.mean(0))


class _Resampler:
    """From one grid to another, with partial volume where the target is coarser."""

    def __init__(self, source: Grid, target: Grid) -> None:
        matrix = torch.from_numpy(target.index_to(source)).float()[None]
        self._field = affine_field(matrix, target.shape)
        ratio = np.abs(matrix[0, :3, :3].numpy()).sum(1)
        # the averaging over a coarser voxel, and a little of it where the voxels are alike
        self._sigma = tuple(float(np.sqrt(max(r * r - 0.5, 0) / 12)) for r in ratio)

    def __call__(self, image: Tensor) -> Tensor:
        return warp(gaussian_blur(image, self._sigma), self._field)  # type: ignore[arg-type]

    def nearest(self, labels: Tensor) -> Tensor:
        return warp(labels, self._field, mode="nearest")


def deformed(image: Tensor, mask: Tensor, inverse: Tensor) -> Tensor:
    """The moving image: (1, 1, D, H, W) in [0, 1], moved by a cubic kernel and cut at the moved mask."""
    moved = warp(image, inverse, mode="cubic").clamp_(0, 1)
    return moved * (warp(mask.float(), inverse) > 0.5)


def _meta(
    deformation: Deformation,
    mask: Tensor,
    grid: Grid,
    regime: str | DeformationConfig,
    source: str,
    contrasts: tuple[str, str],
    tumour: bool,
) -> dict[str, Any]:
    length = deformation.forward.square().sum(1, keepdim=True).sqrt()[mask]
    return {
        "kind": "label-map",
        "regime": regime if isinstance(regime, str) else "custom",
        "source": Path(source).name,
        "contrast": f"{contrasts[0].upper()}<-{contrasts[1].upper()}",
        "tumour": tumour,
        "tumour_labels": list(TUMOUR_LABELS),
        "spacing_mm": round(float(grid.spacing[0]), 4),
        "max_u": round(float(length.max()), 2),
        "mean_u": round(float(length.mean()), 2),
        "jac_min": round(deformation.min_jacobian, 3),
        "inverse_err_max": round(deformation.inverse_error, 4),
    }


def write_case(case: SimulatedCase, folder: Path) -> None:
    """Write a case's files into an existing folder (names in the module's docstring)."""
    volumes = {
        "fixed": case.fixed,
        "moving": case.moving,
        "moving_true": case.moving_true,
        "fixed_seg": case.fixed_labels.short(),
        "moving_seg": case.moving_labels.short(),
        "mask": case.mask.to(torch.uint8),
    }
    for name, volume in volumes.items():
        Image(volume[0, 0].numpy(), case.grid).save(folder / f"{name}.nii.gz")
    field = case.deformation.forward[0].permute(1, 2, 3, 0).contiguous().numpy()
    write_nifti(folder / "true_field.nii.gz", field, case.grid.affine)
    case.transform.save(folder / "true_warp.nii.gz")
    (folder / "meta.json").write_text(json.dumps(case.meta, indent=1) + "\n", encoding="utf-8")


def simulate(
    out: Path,
    *,
    count: int = 3,
    regimes: Sequence[str] = ("small", "medium", "large"),
    labels: Sequence[Path] = (),
    fixed: str = "t2",
    moving: str = "t1",
    shape: Shape = SHAPE,
    spacing: float | None = None,
    tumour: bool = True,
    strength: float = 0.5,
    seed: int = 0,
    force: bool = False,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write ``count`` cases as ``out/case_000`` and so on; yields each folder with its meta data once it is whole.

    Regimes and label maps take turns; case ``i`` of one seed is the same whatever ``count`` is.

    Args:
        labels: Label maps with FreeSurfer-like ids; default: the shipped anatomy.
        force: Replace case folders' files that are there.

    Other arguments as in `make_case`.

    Raises:
        UsageError: Fewer than one case, a seed below 0 or beyond 32 bits, an unknown regime or contrast, a label map
            that does not fit the grid, or results are in the way.
        InputError: A label map cannot be used, or the folder cannot be written.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise UsageError(f"the seed {seed} is out of range", f"use 0 to {_LARGEST_SEED}")
    if count < 1 or not regimes:
        raise UsageError(f"{count} cases of {len(regimes)} regimes are none", "ask for one case at least")
    for regime in regimes:
        _check(regime, (fixed, moving))
    anatomies = [read_anatomy(path) for path in labels] or [load_anatomy()]
    for anatomy in anatomies:
        _check_anatomy(anatomy, shape, spacing, tumour)
    for i in range(count):
        regime = regimes[i % len(regimes)]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        case = make_case(
            anatomies[i % len(anatomies)],
            regime,
            generator,
            fixed=fixed,
            moving=moving,
            shape=shape,
            spacing=spacing,
            tumour=tumour,
            strength=strength,
        )
        case.meta.update(case=i, seed=seed)
        folder = Path(out) / f"case_{i:03d}"
        with staged_folder(folder, FILES, force=force, last="meta.json") as staging:
            write_case(case, staging)
        yield folder, case.meta
