"""The grouping of FreeSurfer's ids: sides belong together, and nothing is forgotten."""

from __future__ import annotations

import numpy as np

from deformgan.workshop.simulation.contrasts import _LEFT, _RIGHT_TO_LEFT
from deformgan.workshop.simulation.structures import BACKGROUND, HEAD, MIRRORED, STRUCTURES, structure_of_ids


def test_mirroring_twice_changes_nothing() -> None:
    assert [MIRRORED[MIRRORED[i]] for i in range(len(STRUCTURES))] == list(range(len(STRUCTURES)))


def test_the_mirror_exchanges_left_and_right_alone() -> None:
    swap = {"left": "right", "right": "left"}
    for i, name in enumerate(STRUCTURES):
        side, _, rest = name.partition(" ")
        assert STRUCTURES[MIRRORED[i]] == (f"{swap[side]} {rest}" if side in swap else name)


def test_the_right_twin_of_an_id_is_the_mirrored_structure() -> None:
    table = structure_of_ids()
    known = {right: left for right, left in _RIGHT_TO_LEFT.items() if table[left] != HEAD}
    assert len(known) > 15
    assert all(table[right] == MIRRORED[table[left]] for right, left in known.items())


def test_the_ids_a_contrast_exists_for_are_brain_unless_they_are_head() -> None:
    table = structure_of_ids()
    ventricle, white = STRUCTURES.index("left lateral ventricle"), STRUCTURES.index("left white matter")
    assert (table[4], table[2], table[0], table[511]) == (ventricle, white, BACKGROUND, HEAD)
    assert all(table[i] == HEAD for name in ("bone", "soft") for i in _LEFT[name])


def test_large_ids_have_a_place() -> None:
    assert np.array_equal(structure_of_ids(2035)[1024:], np.full(1012, HEAD))
