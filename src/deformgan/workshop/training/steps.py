"""One Adam step on D, one on G, one on T: each trains its own network while the other two are frozen.

Images of a batch are in [0, 1]; G and D see them in [-1, 1]. A step reads top to bottom: forward, loss, backward, step.
It may run under autocast and with networks wrapped for several GPUs; losses are computed in full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from deformgan import losses
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.training.objective import LossWeights, Networks, bare, needed, similarities, to_signed, to_unit
from deformgan.workshop.training.predict import stage_fields

Metrics = dict[str, Tensor]
Backward = Callable[[Tensor], None]

# a difference this small (voxels) counts as none: keeps the gradient of the field error finite where it is zero
FIELD_EPSILON = 1e-3


@dataclass(frozen=True)
class TrainingBatch:
    """Pairs to train on, all (B, C, D, H, W) on one grid.

    Args:
        fixed: (B, 1, D, H, W) in [0, 1].
        moving: (B, 1, D, H, W) in [0, 1], another modality, not aligned.
        true_field: (B, 3, D, H, W), the pull-back in voxels that aligns ``moving``, where it is known.
        mask: (B, 1, D, H, W), where the field error counts; default: everywhere.
        scale: Resolution of all these relative to the working grid: 1, 0.5 or 0.25.
    """

    fixed: Tensor
    moving: Tensor
    true_field: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0


def discriminator_step(
    networks: Networks,
    optimizer: Optimizer,
    batch: TrainingBatch,
    weights: LossWeights,
    *,
    moved: Tensor | None = None,
    backward: Backward = Tensor.backward,
) -> Metrics:
    """Teach D to tell the fixed image from the generated one.

    Args:
        networks: All three; only D changes.
        optimizer: Of D's parameters.
        batch: ``fixed`` and ``moving`` are used.
        weights: ``adversarial`` is used.
        moved: What `moved_image` gives for this batch, if it is at hand; saves a run of T.
        backward: Takes the loss; a launcher's own (which may also clip gradients), or PyTorch's.

    Returns:
        0-dim tensors: ``d_loss``, and the mean probability D gives the fixed (``d_real``) and generated (``d_fake``).
    """
    generator, discriminator = needed(networks.generator), needed(networks.discriminator)
    condition = to_signed(moved_image(networks, batch) if moved is None else moved)
    with torch.no_grad():
        fake = bare(generator)(condition)
    # one forward of both halves, as wrappers for several GPUs want one forward for each backward
    logits = discriminator(torch.cat([to_signed(batch.fixed), fake]), torch.cat([condition, condition]))
    real_logits, fake_logits = logits.float().chunk(2)
    loss = losses.ADVERSARIAL[weights.adversarial].discriminator(real_logits, fake_logits)
    _descend(optimizer, loss, backward)
    return _detached(d_loss=loss, d_real=real_logits.sigmoid().mean(), d_fake=fake_logits.sigmoid().mean())


def generator_step(
    networks: Networks,
    optimizer: Optimizer,
    batch: TrainingBatch,
    weights: LossWeights,
    *,
    moved: Tensor | None = None,
    deformation: Tensor | None = None,
    backward: Backward = Tensor.backward,
) -> Metrics:
    """Teach G to turn the moved image into the fixed one's modality: fool D, resemble ``fixed``, keep the edges.

    Arguments as for `discriminator_step`; ``optimizer`` is that of G's parameters, and only G changes.
    ``deformation`` (B, 3, D, H, W), voxels, is what G must commute with where ``weights.commutation`` is not 0.

    Returns:
        0-dim tensors: ``g_loss``, ``g_adversarial``, ``g_l1``, ``g_lg``, ``g_commutation`` (the terms without their
        weights; a term that is not used is 0).
    """
    generator, discriminator = needed(networks.generator), needed(networks.discriminator)
    moved = moved_image(networks, batch) if moved is None else moved
    condition = to_signed(moved)
    with frozen(discriminator):
        fake = generator(condition).float()
        adversarial = losses.ADVERSARIAL[weights.adversarial].generator(bare(discriminator)(fake, condition))
        l1 = (fake - to_signed(batch.fixed)).abs().mean()
        loss = weights.adversarial_weight * adversarial + weights.l1 * l1
        edges = commutation = torch.zeros((), device=fake.device)
        if weights.generator_gradient:
            edges = losses.local_gradient_similarity(to_unit(fake), moved, weights.window)
            loss = loss - weights.generator_gradient * edges
        if weights.commutation and deformation is not None:
            warped = to_signed(warp(moved, deformation))
            commutation = (generator(warped).float() - to_signed(warp(to_unit(fake), deformation))).abs().mean()
            loss = loss + weights.commutation * commutation
        _descend(optimizer, loss, backward)
    return _detached(g_loss=loss, g_adversarial=adversarial, g_l1=l1, g_lg=edges, g_commutation=commutation)


def transformation_step(
    networks: Networks,
    optimizer: Optimizer,
    batch: TrainingBatch,
    weights: LossWeights,
    *,
    backward: Backward = Tensor.backward,
) -> Metrics:
    """Teach T to align: maximise the similarity, keep the field smooth, follow the known field if that is asked for.

    Arguments as for `discriminator_step`; ``optimizer`` is that of T's parameters, and only T changes. G is used by the
    similarity ``lcc_g+lg`` alone, D never.

    Returns:
        0-dim tensors: ``t_loss``, ``t_smoothness``, one for each similarity used (``t_lcc``, ``t_lg``, …), and, where
        the true field is known, ``t_field_error``: the mean distance to it, voxels.
    """
    stages = [field.float() for field in stage_fields(networks.transformation, batch.fixed, batch.moving, batch.scale)]
    field = stages[-1]
    with frozen(networks.generator):
        loss, smoothness, terms = _images_loss(networks, field, batch, weights)
        if terms and weights.stage_decay:
            coarser = stages[networks.first_field : -1]
            for distance, stage in enumerate(reversed(coarser), start=1):
                loss = loss + weights.stage_decay**distance * _images_loss(networks, stage, batch, weights)[0]
        metrics = {f"t_{name}": similarity for name, similarity in terms.items()}
        if batch.true_field is not None:
            error = _error_at_own_grid(field, batch)
            metrics["t_field_error"] = error
            if weights.known_field:
                loss = loss + weights.known_field * _staged_error(stages, error, batch, weights.stage_decay)
        _descend(optimizer, loss, backward)
    return _detached(t_loss=loss, t_smoothness=smoothness, **metrics)


def _images_loss(
    networks: Networks, field: Tensor, batch: TrainingBatch, weights: LossWeights
) -> tuple[Tensor, Tensor, Metrics]:
    """What a field costs that is judged by the images and its smoothness; its gradient energy, the similarities."""
    terms: Metrics = {}
    if weights.terms:
        moved = warp(batch.moving, resize(field, tuple(batch.fixed.shape[2:])))
        terms = similarities(networks, batch.fixed, moved, weights)
    smoothness = losses.gradient_energy(field)
    loss = weights.smoothness * smoothness
    for name, similarity in terms.items():
        loss = loss - weights.of(name) * similarity
    return loss, smoothness, terms


def _staged_error(stages: list[Tensor], last_error: Tensor, batch: TrainingBatch, decay: float) -> Tensor:
    """Weighted sum of the stages' field errors; the last, already known, counts 1, each coarser one ``decay`` less."""
    total = last_error
    for distance, stage in enumerate(reversed(stages[:-1]), start=1):
        total = total + decay**distance * _error_at_own_grid(stage, batch)
    return total


def _error_at_own_grid(field: Tensor, batch: TrainingBatch) -> Tensor:
    """`field_error` of a field on a coarser grid, seen there (cheaper than enlarging it), in the batch's voxels."""
    assert batch.true_field is not None
    shape = tuple(field.shape[2:])
    mask = batch.mask if batch.mask is None else F.adaptive_avg_pool3d(batch.mask, shape)  # type: ignore[arg-type]
    factor = batch.fixed.shape[2] / shape[0]
    return factor * field_error(field, resize(batch.true_field, shape), mask)


def moved_image(networks: Networks, batch: TrainingBatch) -> Tensor:
    """The moving image after T, (B, 1, D, H, W) in [0, 1], without gradients: what G is given while T is frozen."""
    with torch.no_grad():
        field = stage_fields(bare(networks.transformation), batch.fixed, batch.moving, batch.scale)[-1].float()
        return warp(batch.moving, resize(field, tuple(batch.fixed.shape[2:])))


def field_error(field: Tensor, true_field: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean distance in voxels between two fields (B, 3, D, H, W), over the mask (B, 1, D, H, W) if there is one."""
    distance = ((field - true_field).square().sum(1, keepdim=True) + FIELD_EPSILON**2).sqrt()
    if mask is None:
        return distance.mean()
    weight = mask.to(distance).expand(distance.shape)
    return (distance * weight).sum() / weight.sum().clamp_min(1.0)


@contextmanager
def frozen(network: nn.Module | None) -> Iterator[None]:
    """Within, the network's parameters collect no gradients; gradients still flow through it to its input."""
    parameters = [p for p in network.parameters() if p.requires_grad] if network is not None else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _descend(optimizer: Optimizer, loss: Tensor, backward: Backward) -> None:
    optimizer.zero_grad(set_to_none=True)
    backward(loss)
    optimizer.step()


def _detached(**values: Tensor) -> Metrics:
    return {name: value.detach() for name, value in values.items()}
