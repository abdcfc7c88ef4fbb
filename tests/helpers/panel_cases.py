"""A case of a few thousand voxels for figures, and snapshots of untrained networks as a run leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from deformgan.networks import build
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase

SHAPE = (16, 24, 16)
KINDS = {"T": {"kind": "unet", "widths": [4, 8]}, "G": {"kind": "generator", "widths": [4, 8]}}


def panel_case() -> EvaluationCase:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()[None, None]
    mask = radius < 0.8
    labels = mask.int() * 2
    labels[0, 0, 9:13, 12:17, 7:11] = 100
    image = mask * (0.5 + 0.4 * torch.cos(9 * radius)) + 0.1 * (labels == 100)
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0] = 1.5
    meta = {"spacing_mm": 3.0, "tumour_labels": [100, 101]}
    moving = warp(1 - image, -field) * (warp(mask.float(), -field) > 0.5)
    return EvaluationCase(
        "case_000", image, moving, 1 - image, labels, warp(labels, -field, mode="nearest"), mask, field, meta
    )


def write_snapshot(
    run: Path, step: int, scale: float, seed: int, network: dict | None = None, shared: bool = False
) -> None:
    torch.manual_seed(seed)
    kinds = {"T": network or KINDS["T"], "G": KINDS["G"]}
    at = run / "snapshots" / f"step-{step:06d}"
    at.mkdir(parents=True)
    for name, kind in kinds.items():
        built = build(kind)
        for parameter in built.parameters():
            parameter.data.add_(0.02 * torch.randn(parameter.shape))
        save_file({k: v.contiguous() for k, v in built.state_dict().items()}, at / f"{name}.safetensors")
    config = {"network": kinds["T"], "generator": kinds["G"]} if shared else kinds
    (at.parent if shared else at).joinpath("config.json").write_text(json.dumps({**config, "scale": scale}))
