"""The gate before T learns: does the loss tell the true field from wrong ones, on pairs nobody trained on?

A loss that is lower at a wrong field teaches T that field. For held-out pairs with a known field the loss is taken at
the truth and at the truth plus smooth errors of several sizes; the share of comparisons that the truth wins is the
gate's figure. T is trained through a generator only while that share is high enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from deformgan import losses
from deformgan.errors import QualityError
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.training.misalignment import smooth_error
from deformgan.workshop.training.objective import LossWeights, Networks, similarities

ERRORS = (1.0, 2.0, 4.0, 8.0)  # mean lengths in voxels of the working grid

Loss = Callable[[Tensor, Tensor, Tensor], float]


def gate(loss: Loss, pairs: Iterable[dict[str, Tensor]], scale: float, seed: int = 0) -> dict[str, float]:
    """Compare a loss at the truth with the loss at wrong fields.

    Args:
        loss: Takes fixed and moving (1, 1, D, H, W) in [0, 1] and a field (1, 3, D, H, W); less is better.
        pairs: Items of `PairDataset`, or dicts of the same.
        scale: Resolution of the pairs relative to the working grid; the errors are this many times shorter on theirs.
        seed: Of the errors, which are the same at every call.

    Returns:
        ``gate``, the share of all comparisons in which the truth has the lower loss, and ``gate_E`` for each error E.

    Raises:
        ValueError: There are no pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    won: dict[float, list[bool]] = {size: [] for size in ERRORS}
    for pair in pairs:
        fixed, moving, truth = (pair[name][None] for name in ("fixed", "moving", "field"))
        least = loss(fixed, moving, truth)
        for size in ERRORS:
            wrong = truth + smooth_error(tuple(truth.shape[2:]), size * scale, generator).to(truth)
            won[size].append(least < loss(fixed, moving, wrong))
    every = [one for results in won.values() for one in results]
    if not every:
        raise ValueError("a gate needs pairs")
    share = {f"gate_{size:g}": sum(results) / len(results) for size, results in won.items()}
    return {"gate": sum(every) / len(every), **share}


def transformation_loss(networks: Networks, weights: LossWeights) -> Loss:
    """The loss that T is taught by (see `transformation_step`), without gradients, as `gate` takes it."""

    @torch.no_grad()
    def loss(fixed: Tensor, moving: Tensor, field: Tensor) -> float:
        device = next(networks.transformation.parameters()).device
        fixed, moving, field = fixed.to(device), moving.to(device), field.to(device)
        moved = warp(moving, resize(field, tuple(fixed.shape[2:])))
        terms = similarities(networks, fixed, moved, weights)
        gained = sum(weights.of(name) * float(value) for name, value in terms.items())
        return weights.smoothness * float(losses.gradient_energy(field)) - gained

    return loss


def require(found: dict[str, float], least: float) -> None:
    """Raise `QualityError` where the truth wins a smaller share of `gate`'s comparisons than ``least``."""
    if found["gate"] >= least:
        return
    shares = ", ".join(
        f"{name.removeprefix('gate_')} voxels {won:.0%}" for name, won in found.items() if name != "gate"
    )
    raise QualityError(
        f"T's loss is lower at the true field in {found['gate']:.0%} of comparisons, not in {least:.0%}: {shares}",
        "train the generator longer on nearly aligned pairs, or make its receptive field smaller",
    )
