"""Volumes evaluated a few slices at a time: maps on a grid, and images sampled through them.

Layout as in `deformgan.spatial.resample`: (C, W, H, D), the image's last axis first. A block is a run of slices along
that axis; it fits the processor's cache, and `grid_sample`, which runs in parallel over its batch only, gets one slice
an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.grid import Grid
from deformgan.spatial.labels import LabelSampler, sample_nearest
from deformgan.spatial.native import grids as native
from deformgan.spatial.native import sampling
from deformgan.spatial.native.use import usable
from deformgan.spatial.resample import (
    AxisMap,
    affine_coordinates,
    axis_lines,
    axis_matrix,
    normalising,
    parallel_axes,
)
from deformgan.spatial.warp import cubic_sum, cubic_volumes

Block = tuple[int, int, Tensor]

_BLOCK_VOXELS = 1 << 19
_WHOLE_VOXELS = 1 << 25  # a larger volume is not converted to float32 as a whole
_SPARE_SLICES = 16  # at both ends, for the blocks to come
_BEYOND = 4  # voxels outside an image; farther is as far
_NEGLIGIBLE = 1e-6  # of a millimetre, or of an image's width


def _ranges(shape: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    depth = max(1, _BLOCK_VOXELS // (shape[0] * shape[1]))
    return ((start, min(start + depth, shape[2])) for start in range(0, shape[2], depth))


def ramp_blocks(matrix: np.ndarray, onto: Grid) -> Iterator[Block]:
    """``matrix · index`` for the voxels of ``onto``: start, stop, (3, stop - start, H, D) float32."""
    for start, stop in _ranges(onto.shape):
        block = torch.zeros(3, stop - start, onto.shape[1], onto.shape[0])
        yield start, stop, _add_ramp(block, _Ramp(matrix, onto), start)


class _Ramp:
    """``matrix · index`` split into a plane and a step from slice to slice."""

    def __init__(self, matrix: np.ndarray, onto: Grid) -> None:
        d, h, w = onto.shape
        i, j, k = np.arange(d), np.arange(h)[:, None], np.arange(w)
        plane = [row[0] * i + row[1] * j + row[3] for row in matrix[:3]]
        self.plane = torch.from_numpy(np.stack(plane).astype(np.float32))  # (3, H, D)
        self.steps = torch.from_numpy((matrix[:3, 2:3] * k).astype(np.float32))  # (3, W)


def _add_ramp(block: Tensor, ramp: _Ramp, start: int) -> Tensor:
    steps = ramp.steps[:, start : start + block.shape[1], None, None]
    return block.add_(ramp.plane[:, None]).add_(steps)


def resampled_blocks(
    values: Tensor, own: Grid, onto: Grid, ramp: np.ndarray | None = None, linear: np.ndarray | None = None
) -> Iterator[Block]:
    """Linear resampling of ``values`` from its grid to another; beyond it the border value.

    Args:
        values: (C, w, h, d) on ``own``.
        ramp: 4×4; ``ramp · index`` of ``onto`` is added (C is 3 then).
        linear: 3×3 that the values are multiplied with first (C is 3 then).

    Yields:
        start, stop, (C, stop - start, H, D) float32, good until the next is asked for.
    """
    to_own = onto.index_to(own)
    axes = parallel_axes(to_own, onto.shape)
    if axes is not None and usable(values[None]):
        whole = _Compiled(values, axes, own, onto, ramp, linear)
        yield from ((start, stop, whole.between(start, stop)) for start, stop in _ranges(onto.shape))
        return
    if linear is not None:
        values = torch.tensordot(torch.from_numpy(linear.astype(np.float32)), values, 1)
    plan = None
    if ramp is not None and np.abs(ramp[:3, :3]).max() * max(onto.shape) > _NEGLIGIBLE:
        plan = _Ramp(ramp, onto)
    elif ramp is not None:
        # a constant passes through the interpolation
        values = values + torch.from_numpy(ramp[:3, 3].astype(np.float32)).view(3, 1, 1, 1)
    if axes is None:
        blocks = _oblique_blocks(values, to_own, own, onto)
    else:
        matrices = [axis_matrix(n, own.shape[a.axis], a.scale, a.offset) for n, a in zip(onto.shape, axes, strict=True)]
        blocks = _parallel_blocks(_ordered(values, axes), matrices, onto)
    for start, stop, block in blocks:
        yield start, stop, block if plan is None else _add_ramp(block, plan, start)


class _Compiled:
    """`resampled_blocks` between grids with parallel axes in compiled code."""

    def __init__(
        self,
        values: Tensor,
        axes: list[AxisMap],
        own: Grid,
        onto: Grid,
        ramp: np.ndarray | None,
        linear: np.ndarray | None,
    ) -> None:
        self._values, self._linear = _ordered(values, axes), linear
        self._ramp = None if ramp is None else _Ramp(ramp, onto)
        lines = [axis_lines(n, own.shape[a.axis], a.scale, a.offset) for n, a in zip(onto.shape, axes, strict=True)]
        # the volume's first axis is the grid's last
        self._lines = [(a.astype(np.int32), b.astype(np.int32), t.astype(np.float32)) for a, b, t in lines[::-1]]

    def between(self, start: int, stop: int, rounding: float = 0.0) -> Tensor:
        """Slices from ``start`` to ``stop``, (C, stop - start, H, D)."""
        (below, above, share), *others = self._lines
        ramp = None if self._ramp is None else (self._ramp.plane, self._ramp.steps[:, start:stop])
        lines = [(below[start:stop], above[start:stop], share[start:stop]), *others]
        return native.resample(self._values, lines, matrix=self._linear, ramp=ramp, rounding=rounding)


def _ordered(values: Tensor, axes: list[AxisMap]) -> Tensor:
    """With the axes of a volume, (C, w, h, d), in the order of another grid's."""
    return values.permute(0, *(3 - axes[t].axis for t in (2, 1, 0)))


def resampled_whole(
    values: Tensor,
    own: Grid,
    onto: Grid,
    ramp: np.ndarray | None = None,
    linear: np.ndarray | None = None,
    rounding: float = 0.0,
) -> Tensor:
    """All of `resampled_blocks` at once, (C, W, H, D); multiples of ``rounding``, a power of 2, unless it is 0."""
    axes = parallel_axes(onto.index_to(own), onto.shape)
    if axes is not None and usable(values[None]):
        return _Compiled(values, axes, own, onto, ramp, linear).between(0, onto.shape[2], rounding)
    out = torch.empty(len(values), *onto.shape[::-1])
    for start, stop, block in resampled_blocks(values, own, onto, ramp, linear):
        out[:, start:stop] = block if rounding == 0 else block.mul_(1 / rounding).round_().mul_(rounding)
    return out


def resampled(values: Tensor, own: Grid, onto: Grid) -> np.ndarray:
    """A volume (D, H, W) of the grid ``own``, linearly on ``onto``, (D, H, W) float32 with the first axis fastest."""
    return resampled_whole(values.permute(2, 1, 0).contiguous()[None], own, onto)[0].numpy().T


def _parallel_blocks(values: Tensor, matrices: list[Tensor], onto: Grid) -> Iterator[Block]:
    along_d, along_h, along_w = matrices
    channels, w, h, d = values.shape
    columns = torch.matmul(along_w, values.reshape(channels, w, h * d)).view(channels, -1, h, d)
    for start, stop in _ranges(onto.shape):
        rows = torch.matmul(along_h, columns[:, start:stop].reshape(-1, h, d))
        block = torch.mm(rows.view(-1, d), along_d.T)
        yield start, stop, block.view(channels, stop - start, onto.shape[1], onto.shape[0])


def _oblique_blocks(values: Tensor, to_own: np.ndarray, own: Grid, onto: Grid) -> Iterator[Block]:
    matrix = to_own.copy()
    for start, stop in _ranges(onto.shape):
        matrix[:3, 3] = to_own[:3, 3] + start * to_own[:3, 2]
        at = affine_coordinates(matrix, (*onto.shape[:2], stop - start), own.shape)
        yield start, stop, sample(values, at)


def unit_to_index(at: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`grid_sample` coordinates (3, …) to voxel indices."""
    size = torch.tensor(shape, dtype=torch.float32).view(3, *[1] * (at.ndim - 1))
    return ((at + 1) * size - 1) / 2


def sample(source: Tensor, at: Tensor) -> Tensor:
    """Linear sampling, border value outside: (C, w, h, d) at (3, s, H, D) → (C, s, H, D)."""
    if usable(source[None], at[None]):
        return sampling.sample(source, at)
    where = at.permute(1, 2, 3, 0)[:, None]
    slices = source[None].expand(where.shape[0], -1, -1, -1, -1)
    return F.grid_sample(slices, where, padding_mode="border", align_corners=False)[:, :, 0].transpose(0, 1)


def sampler(data: np.ndarray, interpolation: str) -> Callable[[Tensor], Tensor | np.ndarray]:
    """A function from `grid_sample` coordinates (3, s, H, D) to the values of (D, H, W) data there, (s, H, D).

    Args:
        interpolation: ``linear``, ``cubic``, ``nearest`` or ``label``.
    """
    if interpolation == "label":
        return LabelSampler(data.T)
    if interpolation == "nearest":
        labels = np.ascontiguousarray(data.T)
        return lambda at: sample_nearest(labels, at)
    if interpolation == "linear" and data.dtype != np.float32 and data.size > _WHOLE_VOXELS:
        return _Window(data)
    # torch wants memory it may write to; for float images in file order this copies nothing
    source = torch.from_numpy(np.require(data.T, np.float32, ["C", "W"]))
    if interpolation == "cubic":
        return lambda at: sample_cubic(source, at)
    return lambda at: sample(source[None], at)[0]


def to_sample_often(data: np.ndarray) -> np.ndarray:
    """The same (D, H, W) data as float32, which `sampler` need not convert each time; too large ones as they are."""
    if data.dtype == np.float32 or data.size > _WHOLE_VOXELS:
        return data
    return np.require(data.T, np.float32, ["C", "W"]).T


class _Window:
    """Linear sampling of a large volume of another type, of which only the slices at hand are there as float32."""

    def __init__(self, data: np.ndarray) -> None:
        self.volume = data.T  # (w, h, d)
        self.first, self.slices = 0, torch.zeros(0, 1, 1)

    def __call__(self, at: Tensor) -> Tensor:
        count = self.volume.shape[0]
        index = (at[2] + 1) * (count / 2) - 0.5
        low = min(max(int(index.amin().floor()), 0), count - 1)
        high = min(max(int(index.amax().floor()) + 2, low + 1), count)
        if low < self.first or high > self.first + len(self.slices):
            self.first = max(low - _SPARE_SLICES, 0)
            part = self.volume[self.first : min(high + _SPARE_SLICES, count)]
            self.slices = torch.from_numpy(np.require(part, np.float32, ["C", "W"]))
        along = (index - self.first + 0.5) * (2 / len(self.slices)) - 1
        return sample(self.slices[None], torch.stack([at[0], at[1], along]))[0]


def sample_cubic(source: Tensor, at: Tensor) -> Tensor:
    """Catmull-Rom sampling, border value outside: (w, h, d) at (3, s, H, D) → (s, H, D)."""
    size = torch.tensor(source.shape[::-1])
    index = unit_to_index(at, tuple(source.shape[::-1])).clamp_(-_BEYOND, max(source.shape) + _BEYOND)
    # of the source only the part that the block looks at, with a voxel's neighbours
    low = (index.amin((1, 2, 3)).floor().long() - 1).clamp(torch.zeros(3, dtype=torch.long), size - 1)
    high = (index.amax((1, 2, 3)).floor().long() + 3).clamp(low + 1, size)
    (i, j, k), (i_end, j_end, k_end) = low.tolist(), high.tolist()
    volumes = cubic_volumes(source[None, None, k:k_end, j:j_end, i:i_end], "border")[0]
    index -= low.view(3, 1, 1, 1)
    within = torch.tensor(volumes.shape[:0:-1]).view(3, 1, 1, 1)
    return cubic_sum(sample(volumes, (2 * index + 3) / within - 1), index.flip(0))


def normalised_index(grid: Grid) -> np.ndarray:
    """4×4 from world mm to `grid_sample`'s coordinates in ``grid``."""
    return normalising(grid.shape) @ grid.world_to_index
