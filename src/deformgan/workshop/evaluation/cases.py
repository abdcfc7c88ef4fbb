"""Cases on disk, in the layout of `deformgan.workshop.simulation.cases`, as the tensors that are scored.

Cases that other programs wrote in that layout are read too: neither ``true_warp`` nor any entry of ``meta.json`` is
needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image, load_image, load_labels
from deformgan.io.untrusted import parse_json, read_nifti, read_small
from deformgan.spatial.grid import Grid, Shape
from deformgan.workshop.simulation.cases import TUMOUR_LABELS

OTHER = "other"  # kind and regime of a case that does not say
_IMAGES = ("fixed", "moving", "moving_true")
_LABELS = ("fixed_seg", "moving_seg", "mask")
_TRUTH = "true_field.nii.gz"
_META = "meta.json"


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """A pair whose true map is known, as it is read for scoring: on one grid of cubic voxels along the world axes.

    `SimulatedCase`, of `deformgan.workshop.simulation.cases`, is what is written into such a folder: it has the map's
    inverse too, and comes of our own deformations alone.

    Args:
        name: Of its folder.
        fixed, moving: (1, 1, D, H, W) float32 in [0, 1].
        moving_true: What a perfect registration turns ``moving`` into.
        fixed_labels, moving_labels: (1, 1, D, H, W) int32.
        mask: (1, 1, D, H, W) bool, the brain in the fixed image.
        field: (1, 3, D, H, W) float32, the true pull-back displacement in voxels.
        meta: As in ``meta.json``; ``kind``, ``subject``, ``regime``, ``seed``, ``spacing_mm`` and ``tumour_labels`` are
            always there.
    """

    name: str
    fixed: Tensor
    moving: Tensor
    moving_true: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    mask: Tensor
    field: Tensor
    meta: dict[str, Any]

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        d, h, w = self.fixed.shape[2:]
        return d, h, w

    @property
    def spacing(self) -> float:
        """Voxel size in millimetres."""
        return float(self.meta["spacing_mm"])


def find_cases(root: str | Path) -> list[Path]:
    """The folders below ``root`` that hold a case, in order of name.

    Raises:
        InputError: There is none.
    """
    root = Path(root)
    found = sorted(p.parent for p in root.glob(f"*/{_TRUTH}") if not p.parent.name.startswith("."))
    if not found:
        raise InputError(f"{root} holds no case", "give a folder of case folders, as deformgan simulate writes them")
    return found


def read_case(folder: str | Path) -> EvaluationCase:
    """Read one case.

    Raises:
        InputError: A file is missing or damaged, the volumes differ in shape, the voxels are no cubes along the world
            axes, or the mask is empty.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    images = {name: load_image(folder / f"{name}.nii.gz") for name in _IMAGES}
    labels = {name: load_labels(folder / f"{name}.nii.gz") for name in _LABELS}
    grid = images["fixed"].grid
    field = read_field(folder / _TRUTH, grid.shape)
    for name, image in {**images, **labels}.items():
        if image.grid.shape != grid.shape:
            raise InputError(
                f"{folder}: {name} has {image.grid.shape} voxels, fixed {grid.shape}", "all of a case is on one grid"
            )
    mask = torch.from_numpy(np.ascontiguousarray(labels["mask"].data > 0))[None, None]
    if not bool(mask.any()):
        raise InputError(f"{folder}: its mask is empty", "mark the brain of the fixed image")
    return EvaluationCase(
        name=folder.name,
        **{name: _tensor(image, np.float32) for name, image in images.items()},
        fixed_labels=_tensor(labels["fixed_seg"], np.int32),
        moving_labels=_tensor(labels["moving_seg"], np.int32),
        mask=mask,
        field=field,
        meta={"spacing_mm": _spacing(grid, folder), **meta},
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """``meta.json`` with what it leaves out: kind and regime ``other``, the source as the subject, usual tumour labels.

    Raises:
        InputError: It is missing or is no JSON object.
    """
    path = folder / _META
    try:
        meta = parse_json(read_small(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "make the case anew") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} is no JSON object", "make the case anew")
    subject = str(meta.get("source", folder.name)).split(".nii")[0]
    defaults = {"kind": OTHER, "regime": OTHER, "subject": subject, "seed": None, "tumour_labels": [*TUMOUR_LABELS]}
    return {**defaults, **meta}


def read_field(path: Path, shape: Shape) -> Tensor:
    """A displacement in voxels, (X, Y, Z, 3) in a file, as (1, 3, D, H, W) float32.

    Raises:
        InputError: It is missing, damaged, of another shape, or not finite.
    """
    data, _ = read_nifti(path)
    if data.shape != (*shape, 3):
        raise InputError(f"{path} has the shape {data.shape}, not {(*shape, 3)}", "give a field on the case's grid")
    field = torch.from_numpy(np.ascontiguousarray(data.transpose(3, 0, 1, 2), dtype=np.float32))[None]
    if not bool(torch.isfinite(field).all()):
        raise InputError(f"{path} holds NaN or infinite values", "register that case anew")
    return field


def select_cases(folders: list[Path], regimes: tuple[str, ...]) -> list[Path]:
    """Those of some regimes; no regimes mean all.

    Raises:
        UsageError: None is left.
    """
    kept = [folder for folder in folders if not regimes or read_meta(folder)["regime"] in regimes]
    if not kept:
        raise UsageError(f"no case is of the regime {', '.join(regimes)}", "leave --regime out to score all cases")
    return kept


def _tensor(image: Image, dtype: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.data, dtype=dtype))[None, None]


def _spacing(grid: Grid, folder: Path) -> float:
    spacing = float(grid.spacing[0])
    if not np.allclose(grid.affine[:3, :3], np.eye(3) * spacing, atol=1e-3 * spacing):
        raise InputError(
            f"{folder}: its voxels are no cubes along the world axes (RAS+)", "resample the case to such a grid"
        )
    return round(spacing, 4)
