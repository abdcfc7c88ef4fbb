"""Two images that one mask cut: it is noticed, and its border is not compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Phantom

from deformgan.io.image import Image
from deformgan.preprocess.conform import conform_pair
from deformgan.preprocess.one_mask import without_shared_border
from deformgan.preprocess.scan import Scan
from deformgan.refine.weights import Weight
from deformgan.spatial.grid import Grid

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def scan(data: np.ndarray, affine: np.ndarray = AFFINE) -> Scan:
    return Scan.of(Image(data.astype(np.float32), Grid(data.shape, affine)))


def test_one_mask_is_noticed(phantom: Phantom) -> None:
    pair = scan(phantom.t2), scan(phantom.t1)
    for one, before in zip(without_shared_border(*pair), pair, strict=True):
        np.testing.assert_array_equal(one.within, phantom.labels > 0)
        assert one.content is before.content
        assert one.moved_by(np.diag([1.0, 1.0, 2.0, 1.0])).within is one.within


def test_some_voxels_may_be_empty_in_one_of_them(phantom: Phantom) -> None:
    inside = np.argwhere(phantom.labels > 0)
    few = phantom.t1.copy()
    few[tuple(inside[:: len(inside) // 100].T)] = 0
    fixed, moving = without_shared_border(scan(phantom.t2), scan(few))
    assert fixed.within is not None
    assert fixed.within is moving.within
    assert not fixed.within[few == 0].any()


@pytest.mark.parametrize("how", ["stripped apart", "moved", "another grid", "no background"])
def test_other_pairs_keep_their_borders(phantom: Phantom, how: str) -> None:
    fixed, moving = scan(phantom.t2), scan(phantom.t1)
    if how == "stripped apart":
        moving = scan(np.roll(phantom.t1, 1, 0))
    if how == "moved":
        shift = np.eye(4)
        shift[0, 3] = 0.5
        moving = moving.moved_by(shift)
    if how == "another grid":
        moving = scan(phantom.t1[:, :, :-1])
    if how == "no background":
        moving = replace(moving, content=replace(moving.content, zero_background=False))
    assert without_shared_border(fixed, moving) == (fixed, moving)


def test_its_border_is_no_edge(phantom: Phantom) -> None:
    plain = scan(phantom.t2), scan(phantom.t1)
    cut = conform_pair(*without_shared_border(*plain), shape=(48, 48, 48), spacing=3.0)
    whole = conform_pair(*plain, shape=(48, 48, 48), spacing=3.0)
    assert cut.fixed.within is not None
    assert cut.fixed.seen is None  # it has data all over what it shows
    inside, outside = cut.fixed.within > 0, cut.fixed.within == 0
    assert float(whole.fixed.continued[outside].max()) == 0
    assert float(cut.fixed.continued[outside].min()) > 0
    np.testing.assert_array_equal(cut.fixed.continued[inside], cut.fixed.tensor[inside])


def test_the_fixed_image_alone_leaves_it_out(phantom: Phantom) -> None:
    pair = scan(phantom.t2), scan(phantom.t1)
    cut = conform_pair(*without_shared_border(*pair), shape=(48, 48, 48), spacing=3.0)
    assert not cut.excluded  # the verdict was calibrated with borders
    left, ones = cut.not_compared, torch.ones(1, 1, 48, 48, 48)
    assert left.fixed is None
    assert left.moving is None
    assert cut.fixed.within is not None
    assert cut.moving.within is not None
    for lesions, within in ((left, cut.fixed.within), (left.exchanged(), cut.moving.within)):
        weight = Weight.of(ones, lesions)
        assert weight.moving is None
        assert bool((weight.fixed[within == 0] == 0).all())
        assert 0.5 < float(weight.fixed.sum() / within.sum()) < 0.9  # without the outermost voxels
    assert conform_pair(*pair, shape=(48, 48, 48), spacing=3.0).not_compared.borders == (None, None)
