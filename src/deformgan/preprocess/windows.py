"""The window of values that a brain in CT is seen in: between air and bone, 1000 units each away, it is one grey."""

from __future__ import annotations

import numpy as np

_SAMPLE = 100_000  # values that are enough for quantiles
# quantiles of a brain's values, beyond which bone and air at its mask's border lie; what is between them as a share of
# the upper one above the background, at most .06 in CT, .6 and more in T1, T2 and FLAIR; and what is kept beyond them
_BRAIN = (0.05, 0.95), 0.15, 0.5
_WITH_BONE = (0.25, 0.75), 0.05, 1.5  # the same of a head's middle


def window_of(values: np.ndarray, background_value: float, *, with_bone: bool = False) -> tuple[float, float] | None:
    """The range in which a brain's values lie, where that is as narrow as in CT, whose air lies 1000 below it.

    None where they take up a good share of what is above the background already, as in MRI.

    Args:
        values: Of the brain, in any order.
        background_value: Of the air.
        with_bone: Whether bone is among them, as in the middle of a head.
    """
    if not values.size:
        return None
    within, least, margin = _WITH_BONE if with_bone else _BRAIN
    low, high = (float(q) for q in np.quantile(values[:: max(1, len(values) // _SAMPLE)].astype(np.float32), within))
    if low == high or high - low >= least * (high - background_value):
        return None
    return low - margin * (high - low), high + margin * (high - low)
