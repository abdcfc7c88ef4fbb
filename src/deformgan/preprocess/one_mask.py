"""Two images that one mask cut: where their foregrounds end says nothing of where they lie.

Contrasts of one person are often brought together first and then stripped with one mask for all (as BraTS is), and
people who were brought onto a template with the template's. Whatever is left to be aligned is hidden then by two
borders that coincide already: what is outside is unknown, like what is beyond a slab.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deformgan.preprocess.scan import Scan

_ALIKE = 0.995  # Dice of the foregrounds; brains that were stripped one by one have 0.98 at most
_APART = 0.1  # of a voxel, the most by which the same voxels of both images may lie apart


def without_shared_border(fixed: Scan, moving: Scan) -> tuple[Scan, Scan]:
    """Both scans, with nothing known beyond the mask that cut both; as they are where there is no such mask."""
    if not _cut_alike(fixed, moving):
        return fixed, moving
    both = fixed.content.mask & moving.content.mask
    return replace(fixed, within=both), replace(moving, within=both)


def _cut_alike(fixed: Scan, moving: Scan) -> bool:
    here, there = fixed.image.grid, moving.image.grid
    if not (fixed.content.zero_background and moving.content.zero_background) or here.shape != there.shape:
        return False
    if here.farthest_mm(there) > _APART * float(here.spacing.min()):
        return False
    common = np.count_nonzero(fixed.content.mask & moving.content.mask)
    sizes = [np.count_nonzero(scan.content.mask) for scan in (fixed, moving)]
    return bool(2 * common >= _ALIKE * sum(sizes))
