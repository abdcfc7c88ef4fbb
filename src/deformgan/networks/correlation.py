"""Correlation of features with those of their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _LocalCorrelation(torch.autograd.Function):
    """Own backward: the tape would keep and zero-fill a padded copy for each of the 27 neighbours."""

    @staticmethod
    def forward(ctx, fixed: Tensor, moved: Tensor) -> Tensor:
        padded = F.pad(moved, [1] * 6)
        ctx.save_for_backward(fixed, padded)
        out = fixed.new_empty(fixed.shape[0], 27, *fixed.shape[2:], dtype=_wide(fixed.dtype))
        return shifted_products(fixed.to(out.dtype), padded.to(out.dtype), out).to(fixed.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        fixed, padded = ctx.saved_tensors
        to_fixed, to_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
        for n, window in enumerate(neighbours(tuple(fixed.shape[2:]))):
            part = gradient[:, n, None]
            to_fixed.addcmul_(padded[window], part)
            to_padded[window].addcmul_(fixed, part)
        return to_fixed, to_padded[:, :, 1:-1, 1:-1, 1:-1]


def neighbours(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Windows of a volume padded by one voxel, one for each offset of the 3³ neighbourhood."""
    d, h, w = shape
    whole = slice(None)
    return [
        (whole, whole, slice(i, i + d), slice(j, j + h), slice(k, k + w))
        for i in range(3)
        for j in range(3)
        for k in range(3)
    ]


def shifted_products(fixed: Tensor, padded: Tensor, out: Tensor) -> Tensor:
    """Dot products over the channels, plane by plane: planes fit the cache, which a sum over channels does not use.

    Args:
        fixed: (B, C, d, h, w).
        padded: (B, C, d + 2, h + 2, w + 2), what it is multiplied with, padded by one voxel.
        out: (B, 27, d, h, w), filled; its dtype is that of the others.

    Returns:
        ``out`` (a new tensor while a graph is traced); shift (i, j, k) - 1 is number ``9 i + 3 j + k``.
    """
    if torch.compiler.is_compiling():
        return _as_a_graph(fixed, padded)
    if fixed.device.type == "cuda":
        return _in_one_go(fixed, padded, out)
    planes = fixed.contiguous().unbind(1)
    padded = padded.contiguous()
    for n, window in enumerate(neighbours(tuple(fixed.shape[2:]))):
        into = out[:, n]
        for c, (plane, other) in enumerate(zip(planes, padded[window].unbind(1), strict=True)):
            torch.mul(plane, other, out=into) if c == 0 else into.addcmul_(plane, other)
    return out


def _in_one_go(fixed: Tensor, padded: Tensor, out: Tensor) -> Tensor:
    """The same by two kernels, over a view of all windows: a GPU takes longer to start hundreds than to run them."""
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1).permute(0, 1, 5, 6, 7, 2, 3, 4)
    torch.sum(fixed[:, :, None, None, None] * windows, 1, out=out.unflatten(1, (3, 3, 3)))
    return out


def _as_a_graph(fixed: Tensor, padded: Tensor) -> Tensor:
    """The same in three steps: compilers and exporters take minutes over thousands of writes into slices."""
    channels = fixed.shape[1]
    shift = torch.eye(27, dtype=fixed.dtype, device=fixed.device).view(27, 1, 3, 3, 3).repeat(channels, 1, 1, 1, 1)
    shifted = F.conv3d(padded, shift, groups=channels).unflatten(1, (channels, 27))
    return (fixed.unsqueeze(2) * shifted).sum(1)


def local_correlation(fixed: Tensor, moved: Tensor) -> Tensor:
    """Scaled dot products of features with those of the 3³ neighbourhood, (B, C, d, h, w) twice → (B, 27, d, h, w)."""
    fixed = fixed * fixed.shape[1] ** -0.5
    if torch.compiler.is_compiling():  # a tape is of no use to a graph
        return shifted_products(fixed, F.pad(moved, [1] * 6), fixed)
    return _LocalCorrelation.apply(fixed, moved)
