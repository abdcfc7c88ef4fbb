"""Similarity of edges, whatever their contrast: normalised gradient fields, per voxel or summed over a window.

With ``g`` the gradient of an image (window 1) or its sum over a window, and ``n(g) = g / sqrt(‖g‖² + ε²)``, the
similarity of two images is the mean over voxels of ``|n(g_a) · n(g_b)|``, or of its square; it lies in [0, 1].
Windowed: the local gradient loss of Deform-GAN (arXiv 2002.11430); unwindowed: Haber & Modersitzki 2006.

Derivatives are central differences and are zero on the outermost layer of voxels, which has no central difference.
That is what makes this fast: inside, every difference is one subtraction of two shifted views of the flat volume,
wrapped-around values included, since they only ever meet a zero. Value and gradient come from one pass over the voxels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from deformgan.losses._common import blocks, check_pair, check_window, full_precision, weights_of
from deformgan.losses.boxes import box_sum

Shape = tuple[int, int, int]


def image_gradient(image: Tensor) -> Tensor:
    """Central differences per voxel, zero on the outermost layer, (B, 1, D, H, W) → (B, 3, D, H, W), differentiable."""
    if torch.compiler.is_compiling():  # two nodes of a graph, where writes into slices become a hundred
        return F.pad(F.conv3d(image, _central_differences().to(image)), [1] * 6)
    inner = (slice(1, -1),) * 3
    out = image.new_zeros(image.shape[0], 3, *image.shape[2:])
    for axis in range(3):
        upper, lower = list(inner), list(inner)
        upper[axis], lower[axis] = slice(2, None), slice(None, -2)
        out[(slice(None), axis, *inner)] = 0.5 * (image[:, 0][(..., *upper)] - image[:, 0][(..., *lower)])
    return out


def _central_differences() -> Tensor:
    """As a kernel, (3, 1, 3, 3, 3)."""
    line = torch.tensor([-0.5, 0.0, 0.5])
    middle = torch.tensor([0.0, 1.0, 0.0])
    lines = [[line if axis == a else middle for a in range(3)] for axis in range(3)]
    return torch.stack([torch.einsum("i,j,k->ijk", *three) for three in lines])[:, None]


@full_precision
def local_gradient_similarity(
    a: Tensor, b: Tensor, window: int = 7, epsilon: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Mean ``|n(g_a) · n(g_b)|`` of gradients summed over a window; larger is better.

    Args:
        a, b: (B, C, D, H, W), intensities about [0, 1]; each channel is compared with its namesake.
        window: Odd number of voxels along each axis.
        epsilon: Length of a window's summed gradient taken for noise; 1.0 is a step of 0.02 across a 7³ window.
        mask: (B, 1, D, H, W), weights of the mean (default: all voxels alike).

    Returns:
        Scalar in [0, 1], differentiable once in ``a`` and ``b``.
    """
    return _between(a, b, epsilon, window, False, mask)


@full_precision
def ngf_similarity(
    a: Tensor, b: Tensor, epsilon: float = 0.02, squared: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Mean ``|n(∇a) · n(∇b)|``, or of its square; larger is better.

    Args:
        a, b: (B, C, D, H, W), intensities about [0, 1].
        epsilon: Length of a gradient (intensity per voxel) taken for noise.
        squared: Square the products, which is smooth where edges are orthogonal.
        mask: (B, 1, D, H, W), weights of the mean.

    Returns:
        Scalar in [0, 1], differentiable once in ``a`` and ``b``. To compare many images with one, `GradientSimilarity`
        is faster: it prepares that one once.
    """
    return _between(a, b, epsilon, 1, squared, mask)


class GradientSimilarity:
    """Compares any number of images with one fixed image, whose normalised gradients are computed once.

    Args:
        fixed: (B, C, D, H, W), taken as constant.
        epsilon, window, squared, mask: As in `ngf_similarity` and `local_gradient_similarity`.
    """

    def __init__(
        self, fixed: Tensor, epsilon: float = 0.02, window: int = 1, squared: bool = True, mask: Tensor | None = None
    ) -> None:
        check_pair(fixed, fixed, mask)
        check_window(window)
        if epsilon <= 0:
            raise ValueError(f"epsilon is positive, not {epsilon}: it keeps flat regions from dividing by zero")
        fixed = fixed.detach()
        self._shape = fixed.shape
        # differences are kept undivided (2 g), so ε grows instead
        self._floor = 4 * epsilon**2
        self._window, self._squared = window, squared
        weight, self._total = weights_of(mask, fixed)
        self._directions = _directions(fixed, self._floor, window)
        if weight is not None:
            # |n·m| and (n·m)² are homogeneous in n, so the weight may ride on the fixed side
            self._directions *= (weight.sqrt() if squared else weight).reshape(-1, 1, *fixed.shape[2:])

    def __call__(self, moving: Tensor) -> Tensor:
        """Mean similarity with ``moving`` (B, C, D, H, W): a scalar in [0, 1], differentiable once."""
        if moving.shape != self._shape:
            raise ValueError(f"this similarity was prepared for {tuple(self._shape)}, not {tuple(moving.shape)}")
        with torch.autocast(moving.device.type, enabled=False):
            moving = moving.to(self._directions.dtype)
            total = _Agreement.apply(moving, self._directions, self._floor, self._window, self._squared)
            return total / self._total  # type: ignore[operator]


def _between(a: Tensor, b: Tensor, epsilon: float, window: int, squared: bool, mask: Tensor | None) -> Tensor:
    check_pair(a, b, mask)
    if not a.requires_grad:
        return GradientSimilarity(a, epsilon, window, squared, mask)(b)
    if not b.requires_grad:
        return GradientSimilarity(b, epsilon, window, squared, mask)(a)
    towards_a = GradientSimilarity(a, epsilon, window, squared, mask)(b)
    towards_b = GradientSimilarity(b, epsilon, window, squared, mask)(a)
    # equal values; the second adds its gradient alone
    return towards_a + (towards_b - towards_b.detach())


class _Agreement(torch.autograd.Function):
    """Sum over voxels of |n_fixed · n(g)| or of its square, and its gradient with respect to the moving image."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, moving: Tensor, directions: Tensor, floor: float, window: int, squared: bool
    ) -> Tensor:
        want_gradient = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        volumes = moving.detach().contiguous().view(-1, *moving.shape[2:])
        gradient = torch.zeros_like(volumes) if want_gradient else None
        total = moving.new_zeros(())
        one = _one_pass if window == 1 else _windowed
        for i, volume in enumerate(volumes):
            into = None if gradient is None else gradient[i]
            total += one(volume, directions[i], into, floor, squared, window)
        if gradient is not None:
            ctx.save_for_backward(gradient.view(moving.shape))
            ctx.factor = 2 if squared else 1  # type: ignore[attr-defined]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        factor: int = ctx.factor  # type: ignore[attr-defined]
        return gradient * (grad_output * factor), None, None, None, None


def _one_pass(
    volume: Tensor, directions: Tensor, gradient: Tensor | None, floor: float, squared: bool, window: int
) -> Tensor:
    """Block by block: differences, agreement, and the adjoint differences of its derivative, all within the cache."""
    steps = _steps(volume.shape)
    flat, fixed = volume.view(-1), directions.view(3, -1)
    total = volume.new_zeros(())
    for start, stop in blocks(steps[0], flat.numel() - steps[0], flat.device):
        g = _differences(flat, start, stop, steps)
        total += _agree(g, fixed[:, start:stop], floor, squared, gradient is not None)
        if gradient is not None:
            _add_adjoint(gradient.view(-1), g, start, stop, steps)
    return total


def _windowed(
    volume: Tensor, directions: Tensor, gradient: Tensor | None, floor: float, squared: bool, window: int
) -> Tensor:
    """Differences, window sums, agreement, and the adjoint of both operators."""
    g = _window_gradient(volume, window)
    flat, fixed = g.view(3, -1), directions.view(3, -1)
    total = volume.new_zeros(())
    for start, stop in blocks(0, flat.shape[1], flat.device):
        total += _agree(flat[:, start:stop], fixed[:, start:stop], floor, squared, gradient is not None)
    if gradient is not None:
        steps = _steps(volume.shape)
        weights = _clear_border(box_sum(g, window)).view(3, -1)
        start, stop = steps[0], volume.numel() - steps[0]
        _add_adjoint(gradient.view(-1), weights[:, start:stop], start, stop, steps)
    return total


def _agree(g: Tensor, fixed: Tensor, floor: float, squared: bool, want_gradient: bool) -> Tensor:
    """Sum of the agreement over n voxels; ``g`` (3, n) is overwritten with its derivative if that is wanted.

    The squared agreement leaves half of its derivative: the factor 2 is applied once, to the scalar of the chain rule.
    """
    dot = fixed[0] * g[0]
    dot.addcmul_(fixed[1], g[1]).addcmul_(fixed[2], g[2])
    norm = _squared_length(g, floor)
    if squared:  # s = dot² / norm, ds/dg = 2 ratio (fixed - ratio g)
        slope = ratio = dot / norm
    else:  # s = |dot| / √norm, ds/dg = sign(dot) / √norm (fixed - ratio g)
        ratio = dot / norm
        slope = dot.sign().mul_(norm.rsqrt_())
    total = torch.dot(dot, slope)
    if want_gradient:
        torch.addcmul(fixed, ratio, g, value=-1, out=g)
        g.mul_(slope)
    return total


def _squared_length(g: Tensor, floor: float) -> Tensor:
    """‖g‖² + floor of (3, n), (n,)."""
    out = g[0].square().add_(floor)
    return out.addcmul_(g[1], g[1]).addcmul_(g[2], g[2])


def _steps(shape: torch.Size) -> Shape:
    """How far apart neighbours along each axis lie in the flat volume."""
    return shape[-1] * shape[-2], shape[-1], 1


def _differences(flat: Tensor, start: int, stop: int, steps: Shape) -> Tensor:
    """Upper minus lower neighbour along each axis for the voxels [start, stop), (3, stop - start)."""
    out = flat.new_empty(3, stop - start)
    for k, step in enumerate(steps):
        torch.sub(flat[start + step : stop + step], flat[start - step : stop - step], out=out[k])
    return out


def _add_adjoint(into: Tensor, weights: Tensor, start: int, stop: int, steps: Shape) -> None:
    """Add the transpose of `_differences` applied to ``weights`` (3, stop - start) to the flat volume ``into``."""
    for k, step in enumerate(steps):
        into[start + step : stop + step] += weights[k]
        into[start - step : stop - step] -= weights[k]


def _clear_border(volumes: Tensor) -> Tensor:
    """Set the outermost layer of (…, D, H, W) to zero in place."""
    for axis in (-3, -2, -1):
        volumes.select(axis, 0).zero_()
        volumes.select(axis, -1).zero_()
    return volumes


def _window_gradient(volume: Tensor, window: int) -> Tensor:
    """Twice the gradient of (D, H, W), summed over the window, (3, D, H, W)."""
    steps = _steps(volume.shape)
    out = volume.new_zeros(3, *volume.shape)
    start, stop = steps[0], volume.numel() - steps[0]
    if stop > start:
        out.view(3, -1)[:, start:stop] = _differences(volume.reshape(-1), start, stop, steps)
    return box_sum(_clear_border(out), window)


def _directions(image: Tensor, floor: float, window: int) -> Tensor:
    """n(g) of every channel of (B, C, D, H, W), (B·C, 3, D, H, W)."""
    volumes = image.contiguous().view(-1, *image.shape[2:])
    out = volumes.new_empty(len(volumes), 3, *volumes.shape[1:])
    for volume, directions in zip(volumes, out, strict=True):
        g, into = _window_gradient(volume, window).view(3, -1), directions.view(3, -1)
        for start, stop in blocks(0, volume.numel(), volume.device):
            part = g[:, start:stop]
            torch.mul(part, _squared_length(part, floor).rsqrt_(), out=into[:, start:stop])
    return out
