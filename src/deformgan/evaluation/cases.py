"""A registration case with a known truth, as the tensors that are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True, eq=False)
class TestCase:
    """A pair whose true map is known, on one grid of cubic voxels along the world axes.

    Args:
        name: Of its folder.
        fixed, moving: (1, 1, D, H, W) float32 in [0, 1].
        moving_true: What a perfect registration turns ``moving`` into.
        fixed_labels, moving_labels: (1, 1, D, H, W), integer.
        mask: (1, 1, D, H, W) bool, the brain in the fixed image.
        field: (1, 3, D, H, W) float32, the true pull-back displacement in voxels.
        meta: As in ``meta.json``.
    """

    __test__: ClassVar[bool] = False  # pytest: a case to test with, no test

    name: str
    fixed: Tensor
    moving: Tensor
    moving_true: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    mask: Tensor
    field: Tensor
    meta: dict[str, Any]
