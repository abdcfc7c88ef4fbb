"""Brains stripped differently: the map that is found draws one border onto the other, and is corrected here.

Mutual information over a brain and its surroundings rewards borders that meet. Where one image was stripped more
tightly, the found map therefore enlarges it until they nearly do: some 3 mm of error over the brain for borders up to
10 mm apart, more where the tighter one is the fixed image, whose surroundings show less of the other's. What then lies
outside one brain alone tells which one is tighter. The looser one is taken as the fixed image, and the map is improved
once more without what one shows as empty and the other does not, nor the tighter one's outermost voxels. It counts
where the tighter brain then lies inside the looser one: borders of brains that are deformed cross each other.
"""

from __future__ import annotations

import numpy as np
import torch

from deformgan.align.ascent import improved_map
from deformgan.align.parameters import AFFINE, RIGID
from deformgan.align.placement import Subsampled
from deformgan.align.search import ROUNDS
from deformgan.align.similarity import make_level
from deformgan.spatial.grid import Grid
from deformgan.spatial.native.threads import one_thread
from deformgan.spatial.warp import box_maximum

_WITHIN = 0.025  # share of the tighter brain outside the looser one, at most
_BEYOND = (0.06, 0.25)  # of the looser one outside the tighter one; less is chance, more a part of a brain
# share of the tighter brain outside the looser one after the correction, at most: 0.002 and less in brains that were
# stripped differently, 0.005 and more in ones that are deformed
_INSIDE = 0.003
_EVERY = 4  # voxel of a brain is asked where it lies

_Centres = tuple[np.ndarray, np.ndarray]


@one_thread()
def without_borders(
    matrix: np.ndarray, fixed: Subsampled, moving: Subsampled, centres_mm: _Centres, *, rigid: bool = False
) -> np.ndarray:
    """A map as `deformgan.align.search.search` found it, corrected where one brain was stripped more tightly.

    Args:
        matrix: 4×4 ``fixed_to_moving``, world mm (RAS+).
        fixed, moving, centres_mm, rigid: As `search` takes them.

    Returns:
        4×4; ``matrix`` itself where neither brain is seen to be the tighter one.
    """
    dof = RIGID if rigid else AFFINE
    beyond, back = _outside(matrix, fixed, moving), _outside(np.linalg.inv(matrix), moving, fixed)
    if _is_looser(beyond, back):
        corrected = _corrected(matrix, fixed, moving, centres_mm, dof)
        return matrix if corrected is None else corrected
    if max(beyond, back) < _WITHIN or max(beyond, back) > _BEYOND[1]:
        return matrix
    # borders that were drawn onto each other from the tighter side lie on either side of each other
    centres, one = (centres_mm[1], centres_mm[0]), ROUNDS[-2]
    level = make_level(moving, fixed, one.spacing_mm, one.points, centres)
    exchanged = improved_map(level, np.linalg.inv(matrix), centres, one, dof)
    if not _is_looser(_outside(exchanged, moving, fixed), _outside(np.linalg.inv(exchanged), fixed, moving)):
        return matrix
    corrected = _corrected(exchanged, moving, fixed, centres, dof)
    return matrix if corrected is None else np.linalg.inv(corrected)


def _is_looser(beyond: float, back: float) -> bool:
    return back <= _WITHIN and _BEYOND[0] <= beyond <= _BEYOND[1]


def _corrected(
    matrix: np.ndarray, fixed: Subsampled, moving: Subsampled, centres_mm: _Centres, dof: int
) -> np.ndarray | None:
    """The map with the looser brain as the fixed one, or None where the tighter one does not lie inside that then."""
    one = ROUNDS[-1]
    inside = [t.mask.numpy() for t in (fixed, moving)]
    deep = [_eroded(mask) for mask in inside]

    def leave_out(world: np.ndarray) -> np.ndarray:
        there = world @ matrix[:3, :3].T + matrix[:3, 3]
        here, other = _at(inside[0], fixed.grid, world), _at(inside[1], moving.grid, there)
        return here & ~_at(deep[1], moving.grid, there) | other & ~_at(deep[0], fixed.grid, world)

    level = make_level(fixed, moving, one.spacing_mm, one.points, centres_mm, leave_out)
    found = improved_map(level, matrix, centres_mm, one, dof)
    return found if _outside(np.linalg.inv(found), moving, fixed) <= _INSIDE else None


def _outside(matrix: np.ndarray, one: Subsampled, other: Subsampled) -> float:
    """Share of one foreground that a map takes outside the other."""
    world = one.grid.to_world(np.argwhere(one.mask.numpy())[::_EVERY])
    there = world @ matrix[:3, :3].T + matrix[:3, 3]
    return 1 - float(_at(other.mask.numpy(), other.grid, there).mean()) if len(world) else 0.0


def _at(mask: np.ndarray, grid: Grid, world: np.ndarray) -> np.ndarray:
    """A mask's nearest voxels at world positions (N, 3), False beyond it; (N,) bool."""
    index = np.rint(grid.to_index(world)).astype(int)
    within = ((index >= 0) & (index < np.array(grid.shape))).all(1)
    out = np.zeros(len(world), bool)
    out[within] = mask[tuple(index[within].T)]
    return out


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Without the outermost voxels."""
    empty = torch.from_numpy(np.pad(~mask, 1, constant_values=True)).float()
    return box_maximum(empty[None, None], 1)[0, 0, 1:-1, 1:-1, 1:-1].numpy() == 0
