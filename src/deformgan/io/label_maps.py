"""Which images are label maps: told by their values, because neither the type of a file nor its name tells it.

Scanners store intensities as integers, and segmentations are found as floats. What tells them apart is how values lie
beside each other; docs/reference/label-maps.md has the evidence, and how often the rule errs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

EXACT = 2**53  # whole numbers below this are exact in 64-bit floats

_ALIKE = 0.7  # share of the labelled voxels that lie beside one of their own value, or alone
_FEW_VALUES = 32  # so few values that nothing is lost by keeping them
_ONE_REGION, _FEW_REGIONS, _MANY_REGIONS = 1.5, 5.0, 100.0  # for one label; one grey value has thousands
_STEPS = 0.5  # share of borders that lead to the next higher or lower value: a plateau of a smooth image
_JUMP = 0.2  # share of all values that a border steps over; a third where ids say nothing of where they lie


@dataclass(frozen=True)
class Evidence:
    """How whole numbers lie beside each other; the most common value, the background's, is left out.

    Args:
        values: How many different ones there are.
        alike: Share of the voxels that have a neighbour of their own value, or none but background.
        regions: Connected regions of equal value for each value (Euler's number: voxels - pairs + squares - cubes).
        steps: Share of the borders between two values where the two are next to each other in order; 0 without borders.
        jump: Over how many of the values a border steps on average, as a share of all.
        unique: Whether no value occurs twice.
    """

    values: int
    alike: float = 1.0
    regions: float = 0.0
    steps: float = 0.0
    jump: float = 0.0
    unique: bool = False

    @property
    def labels(self) -> bool:
        """The verdict."""
        if self.values <= _FEW_VALUES or self.unique:
            return self.values == 0 or self.unique or self.alike > _ALIKE
        apart = self.regions <= (_FEW_REGIONS if self.jump < _JUMP else _MANY_REGIONS)
        return self.alike > _ALIKE and (self.regions <= _ONE_REGION or (apart and self.steps <= _STEPS))


def is_whole(data: np.ndarray) -> bool:
    """Whether an array holds whole numbers alone: by its type, or by its values."""
    return data.dtype.kind in "iub" or bool(np.array_equal(data, np.rint(data)))


def looks_like_labels(data: np.ndarray) -> bool:
    """Whether (D, H, W) values are labels: whole numbers in regions, and no plateaux of an image.

    Few values (32 at most) most of which lie beside their own kind are labels. More values are labels if each has few
    regions, and (unless each is in one piece) neighbouring regions are seldom neighbours in value too: an image that is
    smooth enough to have plateaux climbs from one value to the next. So is an id of its own for every voxel.
    """
    if data.dtype == bool:
        return True
    return is_whole(data) and gather(data).labels


def gather(data: np.ndarray) -> Evidence:
    """The evidence in (D, H, W) whole numbers."""
    ranks, values = _ranks(data)
    if values == 0:
        return Evidence(0)
    here = ranks != 0
    count = int(np.count_nonzero(here))
    alike, beside = np.zeros(data.shape, bool), np.zeros(data.shape, bool)
    borders = next_to = far = 0
    same = []
    for axis in range(3):
        low, high = _ends(axis)
        both = here[low] & here[high]
        equal = both & (ranks[low] == ranks[high])
        step = np.abs(ranks[high][both & ~equal] - ranks[low][both & ~equal])
        borders, next_to = borders + step.size, next_to + int(np.count_nonzero(step == 1))
        far += int(step.sum(dtype=np.int64))
        for end in (low, high):
            alike[end] |= equal
            beside[end] |= both
        same.append(equal)
    regions = count - sum(int(np.count_nonzero(equal)) for equal in same) + _squares_less_cubes(same)
    share = (np.count_nonzero(alike) + np.count_nonzero(here & ~beside)) / count
    order = (next_to / borders, far / borders / values) if borders else (0.0, 0.0)
    return Evidence(values, float(share), regions / values, *order, unique=values == count and count > 1000)


def _ranks(data: np.ndarray) -> tuple[np.ndarray, int]:
    """Each voxel's place among the values that occur, from 1; 0 for the most common value; and how many others."""
    low, high = int(data.min()), int(data.max())
    if high - low < 1 << 22:  # a table is quicker than sorting
        index = (data.astype(np.int64) - low).astype(np.int32)
        counts = np.bincount(index.ravel(), minlength=high - low + 1)
    else:
        _, index, counts = np.unique(data, return_inverse=True, return_counts=True)
        index = index.reshape(data.shape).astype(np.int32)
    present = counts > 0
    background = int(counts.argmax())
    present[background] = False
    table = np.cumsum(present, dtype=np.int32)
    table[background] = 0
    return table[index], int(np.count_nonzero(present))


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last, and all but the first, along an axis."""
    whole = slice(None)
    low, high = [whole] * 3, [whole] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)


def _squares_less_cubes(same: list[np.ndarray]) -> int:
    """Squares of four equal voxels less cubes of eight, from which pairs are equal along each axis."""
    total = 0
    for a, b in combinations(range(3), 2):
        low, high = _ends(b)
        along, _ = _ends(a)
        square = same[a][low] & same[a][high] & same[b][along]
        total += int(np.count_nonzero(square))
        if (a, b) == (0, 1):
            low, high = _ends(2)
            total -= int(np.count_nonzero(square[low] & square[high] & same[2][:-1, :-1]))
    return total
