"""Whether one image shows left as right: the other image tells, where it shows the same person.

The moving image as it is and its mirror image are both aligned, linearly and at low resolution, and compared. One
person's brain is not symmetric enough for its mirror image to fit as well: with the right sides a mirror image reaches
0.72 to 0.92 of the agreement in pairs of one person. Between people it reaches 0.95 to 1.00, so that these say little.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deformgan.align.placement import adult_sized, subsampled_pair
from deformgan.align.search import AFFINE, ROUNDS, SIMILARITY, Round, search
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid

# quick, then careful, then everything: most pairs are settled by the first, a third of a second spared
_TRIALS = (
    (Round(8.0, 1000, 1, SIMILARITY, 10, 6.0), Round(6.0, 1600, 1, AFFINE, 12, 4.0)),
    (
        Round(8.0, 1000, 1, SIMILARITY, 20, 6.0),
        Round(6.0, 1600, 1, SIMILARITY, 20, 4.0),
        Round(4.0, 3500, 1, AFFINE, 20, 2.0),
    ),
    ROUNDS,
)
_SUSPECT = (1.0, 1.03)  # ratio to the plain agreement, above which the next trial is made


def mirrored_agreement(fixed: Scan, moving: Scan, fixed_to_moving: np.ndarray) -> tuple[float, float]:
    """Agreement of the pair, and of the fixed image with the moving one mirrored left to right; in [0, 1].

    Args:
        fixed_to_moving: 4×4, world mm (RAS+), where the alignment starts.
    """
    (one, other, centres), _ = adult_sized(*subsampled_pair(fixed, moving.moved_by(np.linalg.inv(fixed_to_moving))))
    across = np.diag([-1.0, 1, 1, 1])
    across[0, 3] = 2 * centres[1][0]
    mirror = replace(other, grid=Grid(other.grid.shape, across @ other.grid.affine))
    plain = mirrored = 0.0
    for rounds, suspect in zip(_TRIALS, (*_SUSPECT, np.inf), strict=True):
        plain, mirrored = (search(one, each, centres, near=True, rounds=rounds)[1] for each in (other, mirror))
        if mirrored <= suspect * plain:
            break
    return plain, mirrored
