"""One person's mirror image fits less well than the image itself; where it fits better, a header has left as right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Phantom
from tiny import write_tiny_model

import deformgan
from deformgan.align.handedness import mirrored_agreement
from deformgan.io.image import Image
from deformgan.preprocess.scan import Scan
from deformgan.quality.result import MIRRORED, SURELY_MIRRORED, Quality
from deformgan.spatial.grid import Grid

QUALITY = Quality(0, 1, 1, 1, 2, 0.3, 0.4, ())

pytestmark = pytest.mark.searches


def image(data: np.ndarray, affine: np.ndarray) -> Image:
    return Image(np.asfortranarray(data), Grid(data.shape, affine), "image")


@pytest.fixture
def lopsided(phantom: Phantom) -> Phantom:
    """The phantom with a large cyst and a calcified lobe on one side."""
    t1, t2 = phantom.t1.copy(), phantom.t2.copy()
    for block, dark, bright in (((12, 20), 0.1, 1.0), ((24, 32), 0.9, 0.1)):
        box = (slice(9, 16), slice(*block), slice(12, 22))
        t1[box], t2[box] = dark, bright
    return replace(phantom, t1=t1, t2=t2)


def mirrored(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The header that shows the same voxels with left and right exchanged, in the same place."""
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = 2 * (affine @ [*(np.array(shape) - 1) / 2, 1])[0]
    return turn @ affine


@pytest.mark.parametrize("shift", [0.0, 9.0, 60.0])
def test_the_images_tell_left_from_right(lopsided: Phantom, shift: float) -> None:
    fixed = Scan.of(image(lopsided.t2, lopsided.affine))
    start = np.eye(4)
    start[:3, 3] = shift
    moved = start @ lopsided.affine
    right = mirrored_agreement(fixed, Scan.of(image(lopsided.t1, moved)), start)
    wrong = mirrored_agreement(fixed, Scan.of(image(lopsided.t1, mirrored(moved, lopsided.t1.shape))), start)
    assert right[0] > MIRRORED * right[1]
    assert wrong[1] > MIRRORED * wrong[0]


def test_what_is_symmetric_says_nothing(phantom: Phantom) -> None:
    halves = [data + data[::-1] for data in (phantom.t2, phantom.t1)]
    one, other = (Scan.of(image(data, phantom.affine)) for data in halves)
    plain, swapped = mirrored_agreement(one, other, np.eye(4))
    assert swapped == pytest.approx(plain, rel=0.02)


def test_a_mirrored_header_is_never_a_pass(lopsided: Phantom, tmp_path: Path) -> None:
    model = deformgan.load_model(write_tiny_model(tmp_path / "weights"))
    affine = mirrored(lopsided.affine, lopsided.t1.shape)
    given = {"model": model, "refine_steps": 0}
    right = deformgan.register(image(lopsided.t2, lopsided.affine), image(lopsided.t1, lopsided.affine), **given)
    wrong = deformgan.register(image(lopsided.t2, lopsided.affine), image(lopsided.t1, affine), **given)
    assert right.quality.mirror_ratio < 1
    assert not right.quality.is_mirrored
    assert wrong.quality.verdict != "pass"
    assert any("mirrored left to right" in why for why in (*wrong.quality.reasons, *wrong.quality.doubts))
    assert "left and right are exchanged" in wrong.quality.causes[0]


def test_the_more_it_fits_the_surer_it_is() -> None:
    assert QUALITY.with_sides((0.4, 0.39)).verdict == "pass"
    assert QUALITY.with_sides((0.4, 0.4 * (MIRRORED + 0.01))).verdict == "look"
    assert QUALITY.with_sides((0.4, 0.4 * (SURELY_MIRRORED + 0.01))).verdict == "fail"
    assert QUALITY.with_sides((0.01, 0.02), None) is QUALITY
    # of two looks the one that speaks most for the mirror image counts
    assert QUALITY.with_sides((0.4, 0.39), (0.3, 0.4)).verdict == "fail"
    assert QUALITY.with_sides((0.4, 0.39), (0.3, 0.3)).mirror_ratio == 1.0
