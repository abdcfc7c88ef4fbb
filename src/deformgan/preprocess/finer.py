"""The images of a pair on a grid finer than the working grid, for what is worth more detail than T sees."""

from __future__ import annotations

from torch import Tensor

from deformgan.preprocess.conform import Pair, on_grid
from deformgan.preprocess.scan import Scan

FINER = 1.5  # times as many voxels along each axis
_WORTH = 1.2  # the working voxel over an image's own, from which on there is more to see


def finer_pair(scans: tuple[Scan, Scan], pair: Pair) -> tuple[Tensor, Tensor] | None:
    """Both images on their working grids with `FINER` times the voxels; None where either is too coarse to gain.

    Args:
        scans: Fixed and moving, as they were conformed.
        pair: Both on their working grids.

    Returns:
        (1, 1, D', H', W') in [0, 1] each, over the working grids' extent; `Conformed.continued`.
    """
    out = []
    for scan, coarse in zip(scans, (pair.fixed, pair.moving), strict=True):
        if float(coarse.grid.spacing[0]) < _WORTH * float(scan.image.grid.spacing.max()):
            return None
        shape = tuple(2 * round(FINER * n / 2) for n in coarse.grid.shape)
        out.append(on_grid(scan.image, scan.content, coarse.grid.resized(shape), scan.within).continued)  # type: ignore[arg-type]
    return out[0], out[1]
