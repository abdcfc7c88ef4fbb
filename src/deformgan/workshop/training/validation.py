"""A validation pass: the same held-out pairs each time, judged by what the loss does not show."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deformgan.losses import local_gradient_similarity
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.metrics import dice, endpoint_error, folding_percent, rmse_percent
from deformgan.workshop.training.objective import translated
from deformgan.workshop.training.predict import stage_fields


def validate(
    network: nn.Module,
    pairs: Iterable[dict[str, Tensor]],
    regimes: list[str],
    scale: float,
    bf16: bool,
    generator: nn.Module | None = None,
    window: int = 7,
) -> dict[str, float]:
    """Mean metrics over pairs (items of `PairDataset`).

    Returns:
        ``initial`` and ``error`` (mean endpoint error in voxels of the working grid, before and after; ``error_REGIME``
        for each regime), ``rmse`` (% of the range, inside the content), ``dice`` of the lesion, ``folding`` (%), and
        with a generator ``edges``: the local gradient similarity of the moved image and what G makes of it.
    """
    device = next(network.parameters()).device
    rows: list[dict[str, float]] = []
    was_training = network.training
    network.eval()
    for pair in pairs:
        item = {k: v[None].to(device) for k, v in pair.items()}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            field = stage_fields(network, item["fixed"], item["moving"], scale)[-1]
        field = resize(field.float(), tuple(item["fixed"].shape[2:]))
        mask = item["mask"]
        error = float(endpoint_error(field, item["field"], mask).mean()) / scale
        moved = warp(item["moving"], field)
        drawn = {} if generator is None else {"edges": edge_agreement(generator, moved, window, bf16)}
        rows.append(
            {
                **drawn,
                "initial": float(endpoint_error(torch.zeros_like(field), item["field"], mask).mean()) / scale,
                "error": error,
                f"error_{regimes[int(item['regime'])]}": error,
                "rmse": rmse_percent(moved, item["moving_true"], mask),
                "dice": dice(warp(item["moving_lesion"], field), item["lesion"]),
                "folding": folding_percent(field, mask),
            }
        )
    network.train(was_training)
    names = sorted({name for row in rows for name in row})
    known = {n: [row[n] for row in rows if n in row and row[n] == row[n]] for n in names}
    return {n: sum(values) / len(values) for n, values in known.items() if values}


@torch.inference_mode()
def edge_agreement(generator: nn.Module, moved: Tensor, window: int = 7, bf16: bool = False) -> float:
    """Local gradient similarity in [0, 1] of a moved image (1, 1, D, H, W) in [0, 1] and G's translation of it."""
    with torch.autocast(moved.device.type, torch.bfloat16, enabled=bf16):
        generated = translated(generator, moved)
    return float(local_gradient_similarity(moved, generated, window))
