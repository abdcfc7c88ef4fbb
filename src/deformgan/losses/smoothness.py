"""How far a displacement field is from a translation (gradient energy) or from an affine map (bending energy)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from deformgan.losses._common import full_precision


@full_precision
def gradient_energy(field: Tensor) -> Tensor:
    """Mean squared forward difference.

    Args:
        field: (B, 3, D, H, W) in voxels, at least 2 voxels along each axis.

    Returns:
        Scalar ≥ 0, differentiable once: over the three axes, the mean of the mean squared difference between
        neighbours (over batch, components and positions). 0 for a translation; a scaling by ``1 + s`` along every
        axis has ``s² / 3``.
    """
    return _GradientEnergy.apply(field)  # type: ignore[return-value]


class _GradientEnergy(torch.autograd.Function):
    """Value and gradient (a Laplacian) in one pass: plain autograd would pad and add six full-size tensors."""

    @staticmethod
    def forward(ctx: FunctionCtx, field: Tensor) -> Tensor:
        field = field.detach()
        gradient = torch.zeros_like(field) if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        total = field.new_zeros(())
        for axis in (2, 3, 4):
            n = field.shape[axis] - 1
            difference = field.narrow(axis, 1, n) - field.narrow(axis, 0, n)
            flat = difference.reshape(-1)
            share = 1 / (3 * flat.numel())
            total += torch.dot(flat, flat) * share
            if gradient is not None:
                gradient.narrow(axis, 1, n).add_(difference, alpha=2 * share)
                gradient.narrow(axis, 0, n).sub_(difference, alpha=2 * share)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> Tensor:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad_output


@full_precision
def bending_energy(field: Tensor) -> Tensor:
    """Mean squared second derivative, ``Σ_ij (∂²u/∂i∂j)²`` (Rueckert et al. 1999).

    Args:
        field: (B, 3, D, H, W) in voxels, at least 3 voxels along each axis.

    Returns:
        Scalar ≥ 0, differentiable: the sum over the nine pairs of axes of the mean square (over batch, components and
        inner voxels) of the second central difference, or of the mixed central difference. 0 for an affine map.
    """
    inner = slice(1, -1)
    total = field.new_zeros(())
    for i in range(3):
        total = (
            total
            + _shifted(field, {i: 1})
            .add(_shifted(field, {i: -1}))
            .sub(field[..., inner, inner, inner], alpha=2)
            .square()
            .mean()
        )
        for j in range(i + 1, 3):
            mixed = _shifted(field, {i: 1, j: 1}) - _shifted(field, {i: 1, j: -1})
            mixed = mixed - _shifted(field, {i: -1, j: 1}) + _shifted(field, {i: -1, j: -1})
            total = total + 2 * (0.25 * mixed).square().mean()
    return total


def _shifted(field: Tensor, by: dict[int, int]) -> Tensor:
    """The inner voxels' neighbours ``by`` voxels away along the named spatial axes."""
    windows = [slice(1 + by.get(axis, 0), n - 1 + by.get(axis, 0)) for axis, n in enumerate(field.shape[2:])]
    return field[(..., *windows)]
