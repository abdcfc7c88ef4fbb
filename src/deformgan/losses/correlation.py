"""Squared local cross-correlation over cubic windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from deformgan.losses._common import blocks, check_pair, check_window, full_precision, weights_of
from deformgan.losses.boxes import box_sum


@full_precision
def local_cross_correlation(
    a: Tensor, b: Tensor, window: int = 7, epsilon: float = 1e-5, mask: Tensor | None = None
) -> Tensor:
    """Mean over voxels of the squared correlation coefficient of the two windows around each; larger is better.

    Args:
        a, b: (B, C, D, H, W), intensities about [0, 1]; zeros lie outside the images.
        window: Odd number of voxels along each axis.
        epsilon: Least variance (per voxel) a window is taken to have, which keeps rounding harmless where all is flat.
        mask: (B, 1, D, H, W), weights of the mean (default: all voxels alike).

    Returns:
        Scalar in [0, 1], differentiable once in ``a`` and ``b``. To compare many images with one, `LocalCorrelation`
        is faster: it prepares that one once.
    """
    check_pair(a, b, mask)
    if not a.requires_grad:
        return LocalCorrelation(a, window, epsilon, mask)(b)
    if not b.requires_grad:
        return LocalCorrelation(b, window, epsilon, mask)(a)
    towards_a = LocalCorrelation(a, window, epsilon, mask)(b)
    towards_b = LocalCorrelation(b, window, epsilon, mask)(a)
    # equal values; the second adds its gradient alone
    return towards_a + (towards_b - towards_b.detach())


class LocalCorrelation:
    """Compares any number of images with one fixed image, whose window sums are computed once.

    Args:
        fixed: (B, C, D, H, W), taken as constant.
        window, epsilon, mask: As in `local_cross_correlation`.
    """

    def __init__(self, fixed: Tensor, window: int = 7, epsilon: float = 1e-5, mask: Tensor | None = None) -> None:
        check_pair(fixed, fixed, mask)
        check_window(window)
        if epsilon <= 0:
            raise ValueError(f"epsilon is positive, not {epsilon}: it keeps flat windows from dividing by zero")
        fixed = fixed.detach()
        fixed = fixed.float() if fixed.dtype in (torch.float16, torch.bfloat16) else fixed
        self._window, self._fixed = window, fixed.contiguous()
        self._floor = epsilon * window**3
        weight, self._total = weights_of(mask, fixed)
        sums = fixed.new_empty(2, *fixed.shape)
        sums[0].copy_(fixed)
        torch.mul(fixed, fixed, out=sums[1])
        sums = box_sum(sums, window)
        _centre(sums.view(2, -1), window**3, self._floor)
        self._mean, self._weight = sums
        if weight is not None:
            self._weight *= weight

    def __call__(self, moving: Tensor) -> Tensor:
        """Mean squared correlation with ``moving`` (B, C, D, H, W): a scalar in [0, 1], differentiable once."""
        if moving.shape != self._fixed.shape:
            raise ValueError(f"prepared for images {tuple(self._fixed.shape)}, not {tuple(moving.shape)}")
        with torch.autocast(moving.device.type, enabled=False):
            moving = moving.to(self._fixed.dtype)
            total = _SquaredCorrelation.apply(moving, self._fixed, self._mean, self._weight, self._window, self._floor)
            return total / self._total  # type: ignore[operator]


def _centre(sums: Tensor, count: int, floor: float) -> None:
    """Turn the window sums (2, N) of I and I² into the mean and one over the summed variance, in place."""
    for start, stop in blocks(0, sums.shape[1], sums.device):
        first, second = sums[:, start:stop]
        second.addcmul_(first, first, value=-1 / count).clamp_(min=floor).reciprocal_()
        first /= count


class _SquaredCorrelation(torch.autograd.Function):
    """Sum over voxels of c² / (v_fixed v_moving), and its gradient with respect to the moving image.

    With ``c = ΣIJ - ΣIΣJ/n`` and ``v = ΣJJ - (ΣJ)²/n`` over each window, the derivative with respect to ``J(q)`` is
    ``2 [I box(α) - J box(β) + box(β m_J - α m_I)](q)`` where ``α = c / (v_I v_J)`` and ``β = c α / v_J``.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, moving: Tensor, fixed: Tensor, mean: Tensor, weight: Tensor, window: int, floor: float
    ) -> Tensor:
        moving = moving.detach().contiguous()
        sums = moving.new_empty(3, *moving.shape)
        sums[0].copy_(moving)
        torch.mul(moving, moving, out=sums[1])
        torch.mul(moving, fixed, out=sums[2])
        sums = box_sum(sums, window)
        total = _correlate(sums.view(3, -1), mean.view(-1), weight.reshape(-1), window**3, floor)
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            alpha, rest, beta = box_sum(sums, window)
            gradient = alpha.mul_(fixed).addcmul_(beta, moving, value=-1).add_(rest).mul_(2)
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad_output, None, None, None, None, None


def _correlate(sums: Tensor, mean: Tensor, weight: Tensor, count: int, floor: float) -> Tensor:
    """Sum of the squared correlations; ``sums`` (3, N) of J, J², IJ become α, β m_J - α m_I and β."""
    total = sums.new_zeros(())
    for start, stop in blocks(0, sums.shape[1], sums.device):
        first, second, third = sums[:, start:stop]
        mean_fixed, mean_moving = mean[start:stop], first / count
        covariance = third.addcmul_(mean_fixed, first, value=-1)
        variance = second.addcmul_(mean_moving, first, value=-1)
        flat = variance <= floor
        variance.clamp_(min=floor)
        alpha = torch.mul(covariance, weight[start:stop], out=first).div_(variance)
        total += torch.dot(alpha, covariance)
        # a clamped variance does not change with the image
        beta = covariance.mul_(alpha).div_(variance).masked_fill_(flat, 0)
        torch.mul(beta, mean_moving, out=second).addcmul_(alpha, mean_fixed, value=-1)
    return total
