"""One turn of a training run: a step of D, one of G and one of T, as the stage has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.training.config import Stage, TrainingConfig
from deformgan.workshop.training.misalignment import nearly_true, smooth_error
from deformgan.workshop.training.objective import Networks
from deformgan.workshop.training.steps import (
    TrainingBatch,
    discriminator_step,
    generator_step,
    moved_image,
    transformation_step,
)

_TURN_SEEDS = 1_000_003  # between the seeds of two runs: a turn's random fields are its own, resumed or not
_COMMUTED = 4.0  # mean length in voxels of the working grid of the deformation that G must commute with


def take_turn(
    players: Networks,
    optimizers: Mapping[str, Any],
    batch: TrainingBatch,
    config: TrainingConfig,
    stage: Stage,
    step: int,
    backward: Mapping[str, Callable[[Tensor], None]],
) -> dict[str, Tensor]:
    """Train the networks that learn in this stage, one after the other.

    Args:
        players: T, and G and D where the run has them.
        optimizers, backward: By the network's letter, as the launcher prepared them.
        batch: The pairs.
        config, stage: Of the run, and of its part.
        step: Steps done before; random fields depend on it and on the run's seed alone.

    Returns:
        The metrics of the steps that were taken, 0-dim tensors.
    """
    generator = torch.Generator(batch.fixed.device).manual_seed(config.seed * _TURN_SEEDS + step)
    metrics: dict[str, Tensor] = {}
    if players.generator is not None and {"D", "G"} & set(stage.train):
        moved = _seen_by_generator(players, batch, stage, generator)
        if "D" in stage.train:
            metrics |= discriminator_step(
                players, optimizers["D"], batch, config.loss, moved=moved, backward=backward["D"]
            )
        if "G" in stage.train:
            metrics |= generator_step(
                players,
                optimizers["G"],
                batch,
                config.loss,
                moved=moved,
                deformation=_commuted(moved, config, stage, generator),
                backward=backward["G"],
            )
    if "T" in stage.train:
        metrics |= transformation_step(players, optimizers["T"], batch, config.loss, backward=backward["T"])
    return metrics


def _seen_by_generator(players: Networks, batch: TrainingBatch, stage: Stage, generator: torch.Generator) -> Tensor:
    """The moving image after T, or after a field that is nearly true where the stage says how misaligned it may be."""
    if stage.misalignment is None:
        return moved_image(players, batch)
    if batch.true_field is None:
        raise ValueError("a stage with a misalignment needs pairs whose field is known")
    field = nearly_true(batch.true_field, stage.misalignment * stage.scale, generator)
    return warp(batch.moving, resize(field, tuple(batch.fixed.shape[2:])))


def _commuted(moved: Tensor, config: TrainingConfig, stage: Stage, generator: torch.Generator) -> Tensor | None:
    if not config.loss.commutation:
        return None
    fields = [smooth_error(tuple(moved.shape[2:]), _COMMUTED * stage.scale, generator) for _ in moved]
    return torch.cat(fields).to(moved)
