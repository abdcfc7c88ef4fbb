"""Label maps sampled between their voxels, values kept: by the nearest voxel, or by the shares of the eight around.

The shares are the weights of linear interpolation: a border between two labels lies where either has half, instead of
in steps of a voxel (as ITK's ``LabelImageGenericInterpolateImageFunction`` and greedy's ``LABEL`` do it).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native import sampling
from deformgan.spatial.native.use import usable

_FEW = 1 << 16  # below it, values are marked in an array
_TOGETHER = 1 << 22  # voxels, so that what indices are made of them stays small


def sample_nearest(source: np.ndarray, at: Tensor) -> np.ndarray:
    """The nearest voxel's value, border value outside; any dtype: (w, h, d) at (3, s, H, D) → (s, H, D)."""
    sizes = source.shape[::-1]
    i, j, k = (((at[c] + 1) * (n / 2)).floor_().clamp_(0, n - 1).long() for c, n in enumerate(sizes))
    return source.reshape(-1).take(((k * sizes[1] + j) * sizes[0] + i).numpy())


class LabelSampler:
    """The label with the largest share at any position; of equal ones the nearest voxel's, border value outside.

    Args:
        source: (w, h, d), any dtype.
    """

    def __init__(self, source: np.ndarray) -> None:
        self._source = np.ascontiguousarray(source)
        self._keys = torch.from_numpy(_keys(self._source))

    def __call__(self, at: Tensor) -> np.ndarray:
        """(3, s, H, D), as `torch.nn.functional.grid_sample` counts → (s, H, D) of the map's dtype."""
        voted = sampling.vote(self._keys, at) if usable(at[None]) else vote(self._keys, at)
        return self._source.reshape(-1).take(voted.numpy())

    def lost(self, moved: np.ndarray) -> np.ndarray:
        """The values of the map that do not occur in ``moved``, sorted."""
        return np.setdiff1d(_values(self._source), _values(moved), assume_unique=True)


def vote(labels: Tensor, at: Tensor) -> Tensor:
    """As `deformgan.spatial.native.sampling.vote`, with PyTorch."""
    width, height, _ = labels.shape[::-1]
    sizes = torch.tensor(labels.shape[::-1]).view(3, *[1] * (at.ndim - 1))
    index = ((at + 1) * (0.5 * sizes) - 0.5).nan_to_num(0).maximum(torch.zeros(())).minimum((sizes - 1).float())
    below = index.long().minimum((sizes - 2).clamp_min(0))
    behind = index - below
    flat, corners, shares = labels.reshape(-1), [], []
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2]).view(sizes.shape)
        i, j, k = (below + bits).minimum(sizes - 1)
        corners.append((k * height + j) * width + i)
        shares.append(torch.where(bits > 0, behind, 1 - behind).prod(0))
    where, share = torch.stack(corners), torch.stack(shares)
    found = flat[where]
    total = torch.stack([(share * (found == found[c])).sum(0) for c in range(8)])
    halves = (behind >= 0.5).long()
    nearest = 4 * halves[2] + 2 * halves[1] + halves[0]
    of_nearest = total.gather(0, nearest[None])
    best = torch.where(total.amax(0) > of_nearest[0], total.argmax(0), nearest)
    return where.gather(0, best[None])[0].int()


def _keys(source: np.ndarray) -> np.ndarray:
    """An int32 for every value, equal where the values are."""
    if source.dtype.itemsize == 4:
        return source.view(np.int32)
    if source.dtype.kind in "iub" and _fits(source):
        return source.astype(np.int32)
    return np.unique(source, return_inverse=True)[1].reshape(source.shape).astype(np.int32)


def _fits(data: np.ndarray) -> bool:
    """Whether 32 bits hold all of these whole numbers."""
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    return data.dtype.itemsize < 4 or not data.size or (int(data.min()) >= least and int(data.max()) <= most)


def _values(data: np.ndarray) -> np.ndarray:
    """What occurs, sorted."""
    if data.dtype.kind in "iu" and data.size and int(data.min()) >= 0 and int(data.max()) < _FEW:
        there, flat = np.zeros(_FEW, bool), data.reshape(-1, order="A")
        for start in range(0, flat.size, _TOGETHER):
            there[flat[start : start + _TOGETHER]] = True
        return np.flatnonzero(there).astype(data.dtype)
    return np.unique(data)
