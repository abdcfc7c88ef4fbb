"""The figures of an affine map against maps that are put together of known parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deformgan.spatial.affine import affine_figures


def composed(rotation: np.ndarray, scales: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag(scales)
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize("seed", range(12))
def test_rotation_scales_and_shift_are_told_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(rng.normal(size=3))
    scales = tuple(sorted(rng.uniform(0.5, 2, 3), reverse=True))
    centre, shift = rng.normal(0, 40, (2, 3))
    figures = affine_figures(composed(turn.as_matrix(), scales, tuple(shift)), centre)
    assert figures["rotation_degrees"] == pytest.approx(np.degrees(turn.magnitude()), abs=1e-3)
    assert figures["scales"] == pytest.approx(scales, abs=1e-5)
    moved = turn.as_matrix() @ (np.array(scales) * centre) + shift
    assert figures["shift_mm"] == pytest.approx(float(np.linalg.norm(moved - centre)), abs=1e-3)


def test_a_mirrored_map_has_the_rotation_nearest_to_it() -> None:
    """A mirror across the axis of the smallest scale: what is left of it without that axis is not turned."""
    figures = affine_figures(composed(np.diag([1.0, 1.0, -1.0]), (1.2, 1.0, 0.8), (0, 0, 0)), np.zeros(3))
    assert figures["rotation_degrees"] == pytest.approx(0, abs=1e-3)
    assert figures["scales"] == pytest.approx([1.2, 1.0, 0.8])
