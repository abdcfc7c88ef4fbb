"""A report that is always the same: a phantom, a known map, a record of constants; no figure of it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_phantom

from deformgan.io.image import Image
from deformgan.output.report.material import Material
from deformgan.output.report.page import Pictures, write_report
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

QUALITY = {
    "passed": True, "verdict": "look", "reasons": [],
    "doubts": ["in places edges would match clearly better elsewhere (probability of a failure 0.31)"],
    "folding_percent": 0.0, "folded_voxels": 0, "jacobian_min": 0.7, "jacobian_max": 1.4, "displacement_mean_mm": 2.0,
    "displacement_p95_mm": 4.5, "displacement_max_mm": 6.0, "similarity_before": 0.1, "similarity_after": 0.3,
    "edge_agreement_before": 0.21, "edge_agreement_after": 0.47, "initial_shift_mm": 0.0, "inverse_residual_mm": None,
    "failure_probability": 0.31, "roughness_voxels": 0.05, "inconsistency_mean_mm": 1.2, "foreground_dice": 0.97,
    "coverage_percent": 100.0, "surface_distance_mm": 0.8,
}  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    """What registration.json would hold."""
    names = ("deformgan", "python", "torch", "numpy", "nibabel", "safetensors", "isal")
    return {
        "schema": 1,
        "started": "2026-01-02T03:04:05+00:00",
        "environment": {
            **dict.fromkeys(names, "1.2.3"), "system": "Linux 6", "machine": "x86_64", "cpus": 4, "accelerator": None,
        },
        "settings": {
            "transform": "deform", "init": False, "refine_steps": 150, "device": "cpu", "precision": "fp32", "seed": 0,
            "threads": 2, "working_grid": [112, 128, 96], "working_spacing_mm": 1.5,
        },
        "model": {"name": "t1-t2", "sha256": "0123456789abcdef" * 4, "network": {"kind": "pyramid"}},
        "inputs": {
            "fixed": {"path": "patient/T2.nii.gz", "sha256": "a" * 64},
            "moving": {"path": "patient/T1.nii.gz", "sha256": "b" * 64},
        },
        "notes": ["the moving image may not be a skull-stripped brain"],
        "timings": {"read": 0.1, "predict": 0.5, "refine": 2.25, "total": 2.85},
        "peak_memory_mb": 650.0,
        "affine": {
            "matrix": np.eye(4).tolist(), "rotation_degrees": 1.25, "scales": [1.02, 1.0, 0.99], "shift_mm": 3.5,
        },
        "quality": QUALITY,
        "outputs": ["moved.nii.gz", "warp.nii.gz"],
        "output_sha256": {},
        **changes,
    }  # fmt: skip


def material(**changes: Any) -> Material:
    """A pair, a known map, and everything that can be shown of it; ``changes`` are of the material's fields."""
    phantom = make_phantom(texture=0)
    grid = Grid(phantom.t1.shape, phantom.affine)
    field = torch.zeros(1, 3, *grid.shape)
    x, y = (torch.linspace(0, 6, n) for n in grid.shape[:2])
    field[:, 0] = (1.5 * torch.sin(y)[None, :] + 2 * torch.sin(x)[:, None])[..., None]
    transform = Transform.from_field(grid, grid, field)
    fixed, moving = Image(phantom.t2, grid), Image(phantom.t1, grid)
    moved = transform.apply(moving, grid)
    doubt = np.linspace(0, 6, grid.shape[2], dtype=np.float32)[None, None] * (phantom.labels > 0)
    inside = grid.to_world(np.argwhere(phantom.labels > 0)[::977])
    lesion = np.zeros(grid.shape, np.uint8)
    lesion[tuple(slice(n // 3, n // 2) for n in grid.shape)] = 1
    everything: dict[str, Any] = {
        "fixed": fixed, "moving": moving, "moved": moved, "transform": transform, "uncertainty": Image(doubt, grid),
        "synthesis": Image(np.where(moved.data > 0, 1 - moved.data, 0).astype(np.float32), grid),
        "labels": transform.apply_labels(Image(phantom.labels.astype(np.int32), grid), grid), "points_mm": inside,
        "selections": {"fixed_lesion": Image(lesion, grid)},
    }  # fmt: skip
    return Material(**(everything | changes))


def bare() -> Material:
    """The same with nothing but the pair and the map."""
    return material(uncertainty=None, synthesis=None, labels=None, points_mm=None, selections={})


def write(path: Path, *, viewer: bool = True, **changes: Any) -> Path:
    """Write the page with every panel; ``changes`` are of the record."""
    write_report(path, record(**changes), Pictures.of(material(), viewer=viewer))
    return path
