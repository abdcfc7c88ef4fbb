"""Two people, one label map and networks of a few channels: a training run of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_phantom, write_nifti

from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.simulation.deformation import DeformationConfig
from deformgan.workshop.training.config import AugmentationConfig, TrainingConfig
from deformgan.workshop.training.objective import LossWeights

PYRAMID = {"kind": "pyramid", "widths": [8, 8, 16], "stage_width": 8, "iterations": 1}
UNET = {"kind": "unet", "widths": [4, 8]}
GENERATOR = {"kind": "generator", "widths": [4, 8]}
DISCRIMINATOR = {"kind": "discriminator", "widths": [8, 8]}

AUGMENTATION = AugmentationConfig(
    regimes={
        "small": DeformationConfig(4.0, (1.0, 2.0), (8.0, 12.0), 1.0, (3.0, 3.0, 3.0), 0.03, 0.01),
        "large": DeformationConfig(7.0, (1.0, 2.0), (8.0, 12.0), 3.0, (4.0, 4.0, 10.0), 0.08, 0.02),
    },
    weights=(0.5, 0.5),
    anatomy=DeformationConfig(3.0, (0.0, 1.0), (9.0, 14.0), 1.0, (4.0, 4.0, 4.0), 0.05, 0.02),
)


def write_people(root: Path) -> Path:
    """Folders ``one`` and ``two`` with t1, t2 and seg, and ``labels.nii.gz``, all 40 × 44 × 36 at 4 mm."""
    for seed, name in enumerate(("one", "two")):
        phantom = make_phantom(seed)
        (root / name).mkdir(parents=True)
        for stem, data in {"t1": phantom.t1, "t2": phantom.t2, "seg": (phantom.labels == 100).astype(np.uint8)}.items():
            write_nifti(root / name / f"{stem}.nii.gz", data, phantom.affine)
    whole = np.where(phantom.labels == 100, 41, phantom.labels).astype(np.int16)
    write_nifti(root / "labels.nii.gz", whole, phantom.affine)
    return root


def data_config(root: Path, cache: Path, **changes: Any) -> DataConfig:
    """Both people and the label map on 32³ voxels of 6 mm."""
    settings: dict[str, Any] = {
        "root": str(root),
        "cache": str(cache),
        "patients": ("one", "two"),
        "label_maps": ("labels.nii.gz",),
        "variants": 3,
        "shape": (32, 32, 32),
        "spacing": 6.0,
    }
    return DataConfig(**settings | changes)


def training_config(data: DataConfig, **changes: Any) -> TrainingConfig:
    """T alone, a pyramid, taught by the known field for four steps."""
    settings: dict[str, Any] = {
        "name": "small",
        "network": PYRAMID,
        "data": data,
        "augmentation": AUGMENTATION,
        "loss": LossWeights(similarity="none", smoothness=0.0, known_field=1.0),
        "steps": 4,
        "batch": 2,
        "precision": "fp32",
        "workers": 0,
        "validate_every": 2,
        "checkpoint_every": 2,
    }
    return TrainingConfig(**settings | changes)
