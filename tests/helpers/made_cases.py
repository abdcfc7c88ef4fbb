"""Test cases of 32³ voxels, written in a moment: a smooth known shift of the phantom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_phantom, write_nifti
from torch import Tensor

from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase

SHAPE = (32, 32, 32)


def made_case(name: str = "case_000", shift: float = 2.0, seed: int = 0, **meta: Any) -> EvaluationCase:
    """The phantom's middle, moved by ``shift`` voxels along the first axis."""
    phantom = make_phantom(seed)
    block = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(phantom.labels.shape, SHAPE, strict=True))

    def tensor(data: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(data[block]))[None, None]

    fixed, true, labels = tensor(phantom.t2), tensor(phantom.t1), tensor(phantom.labels.astype(np.int32))
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0] = shift
    mask = labels > 0
    mask[:, :, -int(np.ceil(shift)) - 1 :] = False
    about = {"kind": "patient", "regime": "small", "subject": f"p{seed}", "seed": 0, "tumour_labels": [100]}
    return EvaluationCase(
        name=name,
        fixed=fixed,
        moving=warp(true, -field),
        moving_true=true,
        fixed_labels=labels,
        moving_labels=warp(labels, -field, mode="nearest"),
        mask=mask,
        field=field,
        meta={"spacing_mm": 4.0, **about, **meta},
    )


def write_made_case(root: Path, case: EvaluationCase) -> Path:
    """Write a case with nibabel alone, as another program would."""
    folder = root / case.name
    folder.mkdir(parents=True)
    affine = np.diag([case.spacing] * 3 + [1.0])
    volumes = {
        "fixed": case.fixed,
        "moving": case.moving,
        "moving_true": case.moving_true,
        "fixed_seg": case.fixed_labels.short(),
        "moving_seg": case.moving_labels.short(),
        "mask": case.mask.to(torch.uint8),
    }
    for name, volume in volumes.items():
        write_nifti(folder / f"{name}.nii.gz", volume[0, 0].numpy(), affine)
    write_nifti(folder / "true_field.nii.gz", case.field[0].permute(1, 2, 3, 0).numpy(), affine)
    (folder / "meta.json").write_text(json.dumps(case.meta))
    return folder


def write_made_cases(root: Path, count: int = 2) -> list[Path]:
    """``count`` cases of as many people, regimes in turn."""
    cases = (made_case(f"case_{i:03d}", 1.0 + i, seed=i % 2, regime=("small", "medium")[i % 2]) for i in range(count))
    return [write_made_case(root, case) for case in cases]


def without(case: EvaluationCase, label: int) -> EvaluationCase:
    """The case with one label gone."""
    labels = case.fixed_labels.clone()
    labels[labels == label] = 0
    return replace(case, fixed_labels=labels)
