"""When a brain's values are seen in a window: in CT, and not in MRI."""

from __future__ import annotations

import numpy as np
import pytest

from deformgan.preprocess.windows import window_of

AIR = -1000.0


@pytest.fixture
def brain(rng: np.random.Generator) -> np.ndarray:
    """Values of a brain in CT, in units above water."""
    return rng.normal(32, 8, 50_000).astype(np.float32)


def test_a_brain_in_ct_is_seen_between_its_own_values_and_some_more(brain: np.ndarray) -> None:
    window = window_of(brain, AIR)
    assert window is not None
    low, high = np.quantile(brain, (0.05, 0.95))
    assert window[0] == pytest.approx(low - 0.5 * (high - low), rel=1e-3)
    assert window[1] == pytest.approx(high + 0.5 * (high - low), rel=1e-3)


def test_bone_in_a_heads_middle_does_not_widen_it(brain: np.ndarray) -> None:
    head = np.concatenate([brain, np.full(len(brain) // 5, 900, np.float32)])
    assert window_of(head, AIR) is None
    window = window_of(head, AIR, with_bone=True)
    assert window is not None
    assert AIR / 10 < window[0] < 20
    assert 45 < window[1] < 100


@pytest.mark.parametrize("with_bone", [False, True])
def test_in_mri_there_is_none(rng: np.random.Generator, with_bone: bool) -> None:
    tissues = rng.choice(np.array([180, 550, 800], np.float32), 50_000)
    assert window_of(tissues + rng.normal(0, 20, tissues.shape), 0.0, with_bone=with_bone) is None


@pytest.mark.parametrize("values", [np.empty(0, np.float32), np.full(100, 7.0, np.float32)])
def test_nothing_and_one_value_have_none(values: np.ndarray) -> None:
    assert window_of(values, AIR) is None
