"""Where along an axis most of a mask lies."""

from __future__ import annotations

import numpy as np
import pytest

from deformgan.preprocess.extent import areas_of, extent


def test_areas_are_those_of_the_planes_across_each_axis(rng: np.random.Generator) -> None:
    mask = rng.random((5, 6, 7)) < 0.4
    for axis, areas in enumerate(areas_of(mask)):
        assert areas.tolist() == [int(np.take(mask, plane, axis).sum()) for plane in range(mask.shape[axis])]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.0, 1.0), (2, 8)), ((0.001, 0.999), (2, 8)), ((0.1, 0.9), (3, 7)), ((0.4, 0.6), (4, 6))],
)
def test_it_reaches_from_one_share_to_the_other(shares: tuple[float, float], expected: tuple[int, int]) -> None:
    assert extent(np.array([0, 0, 5, 25, 20, 20, 25, 5, 0]), shares) == expected


def test_an_empty_mask_has_all_planes() -> None:
    assert extent(np.zeros(9, int), (0.1, 0.9)) == (0, 9)
