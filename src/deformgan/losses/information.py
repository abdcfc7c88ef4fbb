"""Mutual information of two images from a smooth joint histogram, with memory bounded in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from deformgan.losses._common import check_pair, full_precision

# relative to a bin's width; half a bin makes neighbouring kernels overlap without a wavy sum
KERNEL_SIGMA = 0.5
# kernels are cut at exp(-40), far below float32's resolution, because their exact tails and the products of two of them
# are denormal numbers, whose arithmetic is tens of times slower on common processors
LEAST_EXPONENT = -40.0


@full_precision
def mutual_information(
    a: Tensor, b: Tensor, bins: int = 32, chunk: int = 1 << 15, mask: Tensor | None = None
) -> Tensor:
    """Mutual information in nats, averaged over the batch; larger is better.

    Every voxel adds the product of its two Gaussian Parzen weights (normalised over the bins, whose centres span [0, 1]
    evenly) to a joint histogram, as in Guo 2019 (MIT thesis 1721.1/123142, §3.1). Voxels are taken ``chunk`` at a time,
    and their weights are computed again for the gradient, so that never more than a few ``chunk × bins`` floats live.

    Args:
        a, b: (B, C, D, H, W), intensities in [0, 1]; values beyond are clipped and have no gradient.
        bins: At least 2, along each of the two axes of the histogram.
        chunk: Voxels worked on at a time.
        mask: (B, 1, D, H, W) ≥ 0, weights of the voxels in the histogram.

    Returns:
        Scalar ≥ 0 (up to rounding), at most ``log(bins)``; differentiable once in ``a`` and ``b``.
    """
    check_pair(a, b, mask)
    if bins < 2 or chunk < 1:
        raise ValueError(f"mutual information needs at least 2 bins and 1 voxel a chunk, not {bins} and {chunk}")
    weight = None if mask is None else mask.detach().to(a).expand(a.shape).flatten(1)
    return _MutualInformation.apply(a.flatten(1), b.flatten(1), weight, bins, chunk)  # type: ignore[return-value]


class _MutualInformation(torch.autograd.Function):
    """From (B, N) intensities to the mean over the batch of their mutual information."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor, weight: Tensor | None, bins: int, chunk: int) -> Tensor:
        a, b = a.detach(), b.detach()
        values, slopes = [], []
        for i in range(len(a)):
            of_a, of_b, counts, _ = _counted(a, b, weight, i)
            value, slope = _information(_histogram(of_a, of_b, counts, bins, chunk))
            values.append(value)
            slopes.append(slope)
        ctx.save_for_backward(a, b, *([] if weight is None else [weight]), torch.stack(slopes))
        ctx.chunk = chunk  # type: ignore[attr-defined]
        return torch.stack(values).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b, *rest, slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        chunk: int = ctx.chunk  # type: ignore[attr-defined]
        gradients = [torch.zeros_like(image) if want else None for image, want in zip((a, b), wanted, strict=True)]
        for i, slope in enumerate(slopes * (grad_output / len(slopes))):
            of_a, of_b, counts, where = _counted(a, b, rest[0] if rest else None, i)
            for gradient, row in zip(gradients, _spread(of_a, of_b, counts, slope, chunk, wanted), strict=True):
                if gradient is not None and row is not None:
                    gradient[i, where] = row
        return gradients[0], gradients[1], None, None, None


def _counted(
    a: Tensor, b: Tensor, weight: Tensor | None, i: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | slice]:
    """The voxels of case ``i`` that count: both intensities, their weights, and where they are."""
    if weight is None:
        return a[i], b[i], None, slice(None)
    where = weight[i].nonzero()[:, 0]
    return a[i, where], b[i, where], weight[i, where], where


@dataclass
class _Parzen:
    """Kernel weights of some voxels over the bins and what their derivative needs."""

    weights: Tensor  # (bins, n), each column sums to 1
    bin_index: Tensor  # (bins,)
    inside: Tensor  # (n,), 1 where the intensity was not clipped

    @classmethod
    def of(cls, intensities: Tensor, bins: int) -> _Parzen:
        index = torch.arange(bins, device=intensities.device, dtype=intensities.dtype)
        position = intensities.clamp(0, 1) * (bins - 1)
        weights = (index[:, None] - position).square_().mul_(-0.5 / KERNEL_SIGMA**2)
        weights = weights.clamp_(min=LEAST_EXPONENT).exp_()
        weights /= weights.sum(0)
        inside = ((intensities >= 0) & (intensities <= 1)).to(intensities.dtype)
        return cls(weights, index, inside)

    def gradient(self, upstream: Tensor) -> Tensor:
        """d/d(intensity) of ``Σ_k upstream[k] weights[k]``, (n,); ``upstream`` (bins, n) is overwritten."""
        # weights are a softmax of exponents whose derivatives differ between bins by index / σ² only
        product = upstream.mul_(self.weights)
        covariance = self.bin_index @ product - product.sum(0) * (self.bin_index @ self.weights)
        return covariance * self.inside * ((len(self.bin_index) - 1) / KERNEL_SIGMA**2)


def _chunks(count: int, chunk: int) -> Iterator[slice]:
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))


def _histogram(a: Tensor, b: Tensor, weight: Tensor | None, bins: int, chunk: int) -> Tensor:
    """Joint weights of two (N,) images, not normalised, (bins, bins)."""
    total = a.new_zeros(bins, bins)
    for part in _chunks(a.numel(), chunk):
        rows = _Parzen.of(a[part], bins).weights
        if weight is not None:
            rows = rows * weight[part]
        total.addmm_(rows, _Parzen.of(b[part], bins).weights.T)
    return total


def _information(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Mutual information of a joint histogram and its derivative with respect to the histogram's entries."""
    tiny = torch.finfo(histogram.dtype).tiny
    total = histogram.sum().clamp_min(tiny)
    joint = histogram / total
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    # the derivative with respect to an entry of the joint distribution is log(p_ab / p_a p_b) - 1; an entry that no
    # voxel reaches multiplies nothing, so its logarithm is left at 0
    log_ratio = torch.where(joint > tiny, joint.clamp_min(tiny).log() - independent.clamp_min(tiny).log(), 0)
    value = (joint * log_ratio).sum()
    return value, (log_ratio - value) / total


def _spread(
    a: Tensor, b: Tensor, weight: Tensor | None, slope: Tensor, chunk: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of both (N,) images, where wanted, from that of the histogram (bins, bins)."""
    into = [torch.empty_like(image) if want else None for image, want in zip((a, b), wanted, strict=True)]
    for part in _chunks(a.numel(), chunk):
        of_a, of_b = (_Parzen.of(image[part], len(slope)) for image in (a, b))
        for target, own, (matrix, other) in ((into[0], of_a, (slope, of_b)), (into[1], of_b, (slope.T, of_a))):
            if target is not None:
                gradient = own.gradient(matrix @ other.weights)
                target[part] = gradient if weight is None else gradient * weight[part]
    return into[0], into[1]
