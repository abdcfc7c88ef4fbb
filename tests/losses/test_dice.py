"""Soft Dice beside its definition and MONAI's."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss

from deformgan.losses import soft_dice


def test_hard_masks_have_the_dice_of_their_sets() -> None:
    a, b = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    a[..., :2], b[..., 1:] = 1, 1
    assert float(soft_dice(a, b, 0.0)) == pytest.approx(2 * 16 / (32 + 48))


def test_agrees_with_monai() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 5, 6, 4), torch.rand(2, 3, 5, 6, 4)
    theirs = 1 - DiceLoss(squared_pred=True, smooth_nr=0.7, smooth_dr=0.7, reduction="none")(a, b)
    torch.testing.assert_close(soft_dice(a, b, 0.7), theirs.reshape(2, 3))


def test_soft_masks_agree_best_with_themselves() -> None:
    torch.manual_seed(0)
    a = torch.rand(1, 2, 6, 6, 6)
    assert torch.allclose(soft_dice(a, a), torch.ones(1, 2))
    assert bool((soft_dice(a, a.round()) < 1).all())


def test_empty_channels_agree() -> None:
    assert float(soft_dice(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))) == 1
