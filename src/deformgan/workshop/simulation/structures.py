"""The structures that S tells apart: FreeSurfer's ids, grouped, the left and the right half of the brain kept apart."""

from __future__ import annotations

import numpy as np

BACKGROUND, HEAD = 0, 1
_SINGLE: dict[str, tuple[int, ...]] = {
    "cerebrospinal fluid": (24,),
    "third ventricle": (14, 72),
    "fourth ventricle": (15,),
    "brainstem": (16, 85),
}
# the ids of the left part, and those of the right one; choroid plexus counts as ventricle, lesions as white matter
_PAIRED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "white matter": ((2, 25, 30), (41, 57, 62)),
    "cortex": ((3,), (42,)),
    "lateral ventricle": ((4, 5, 31, 136, 137), (43, 44, 63, 163, 164)),
    "cerebellar white matter": ((7,), (46,)),
    "cerebellar cortex": ((8,), (47,)),
    "thalamus": ((9, 10), (48, 49)),
    "caudate": ((11,), (50,)),
    "putamen": ((12,), (51,)),
    "pallidum": ((13,), (52,)),
    "hippocampus": ((17,), (53,)),
    "amygdala": ((18,), (54,)),
    "accumbens": ((26,), (58,)),
    "ventral diencephalon": ((28,), (60,)),
}
STRUCTURES: tuple[str, ...] = (
    "background",
    "head",
    *_SINGLE,
    *(f"{side} {name}" for name in _PAIRED for side in ("left", "right")),
)
_FIRST_PAIRED = 2 + len(_SINGLE)
MIRRORED: tuple[int, ...] = tuple(
    i if i < _FIRST_PAIRED else _FIRST_PAIRED + ((i - _FIRST_PAIRED) ^ 1) for i in range(len(STRUCTURES))
)
"""For each structure, the one on the other side of the mirror."""


def structure_of_ids(largest: int = 1023) -> np.ndarray:
    """For every FreeSurfer id up to ``largest``, the index into `STRUCTURES`, uint8; an id nobody listed is head."""
    table = np.full(max(largest, 1023) + 1, HEAD, np.uint8)
    table[0] = BACKGROUND
    for i, ids in enumerate(_SINGLE.values()):
        table[list(ids)] = 2 + i
    for i, sides in enumerate(_PAIRED.values()):
        for side, ids in enumerate(sides):
            table[list(ids)] = _FIRST_PAIRED + 2 * i + side
    return table
