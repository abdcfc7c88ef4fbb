"""A result that is no pass says what probably went wrong and what to try, of the images at hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Phantom

from deformgan.io.image import Image
from deformgan.preprocess.scan import Scan
from deformgan.quality import Quality, explained
from deformgan.spatial.grid import Grid

FAILED = Quality(0, 1, 1, 1, 2, 0.4, 0.3, ("the edges of the images agree little",), coverage_percent=100.0)
PHANTOM_MM = 4.0


def scan(data: np.ndarray, spacing: tuple[float, ...] = (PHANTOM_MM,) * 3, at: float = 0.0) -> Scan:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = at
    return Scan.of(Image(np.asfortranarray(data), Grid(data.shape, affine), "image"))


def first(fixed: Scan, moving: Scan, quality: Quality = FAILED, **more: object) -> str:
    return explained(quality, fixed, moving, **more).causes[0]  # type: ignore[arg-type]


def test_a_pass_needs_no_cause(phantom: Phantom) -> None:
    passed = Quality(0, 1, 1, 1, 2, 0.3, 0.4, ())
    assert explained(passed, scan(phantom.t2), scan(phantom.t1)) is passed


def test_left_for_right_comes_first(phantom: Phantom) -> None:
    mirrored = FAILED.with_sides((0.4, 0.5))
    assert "left and right" in first(scan(phantom.t2), scan(phantom.t1, at=50.0), mirrored)


def test_partial_coverage(phantom: Phantom) -> None:
    slab = phantom.t1[:, :, 14:22]
    assert "partial coverage" in first(scan(phantom.t2), scan(slab))
    seen = Quality(0, 1, 1, 1, 2, 0.4, 0.3, ("no",), coverage_percent=31.0)
    assert "31 %" in first(scan(phantom.t2), scan(phantom.t1), seen)


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0])
def test_another_scale(phantom: Phantom, factor: float) -> None:
    small = scan(phantom.t2, (2.0,) * 3)
    other = scan(phantom.t1, (2.0 * factor,) * 3)
    assert "differ in size" in first(small, other)


def test_a_head_onto_a_brain(phantom: Phantom, rng: np.random.Generator) -> None:
    noisy = (phantom.t1 + 0.05 * rng.random(phantom.t1.shape)).astype(np.float32)
    assert "give --moving-mask" in first(scan(phantom.t2), scan(noisy))
    assert any("both images show more" in why for why in explained(FAILED, scan(noisy), scan(noisy)).causes)


def test_a_region_is_no_head(rng: np.random.Generator) -> None:
    region = scan((1 + rng.random((20, 20, 20))).astype(np.float32))
    causes = explained(FAILED, region, region).causes
    assert "fixed image shows a region alone" in causes[0]
    assert not any("more than a brain" in why for why in causes)


def test_thick_slices(phantom: Phantom) -> None:
    thick = phantom.t1[:, :, ::2].repeat(3, 0).repeat(3, 1)
    assert "slices of 8.0 mm" in first(scan(phantom.t2), scan(thick, (4 / 3, 4 / 3, 8.0)))


def test_far_apart_unless_the_start_was_searched(phantom: Phantom) -> None:
    pair = scan(phantom.t2), scan(phantom.t1, at=40.0)
    assert "69 mm apart" in first(*pair)
    said = first(*pair, searched=True, subject="other")
    assert "two people" in said
    assert "--transform" not in said  # it was searched already


def test_there_is_always_something_to_try(phantom: Phantom) -> None:
    assert "--transform joint" in first(scan(phantom.t2), scan(phantom.t1))
    assert "--model" in first(scan(phantom.t2), scan(phantom.t1), searched=True)


def test_a_better_place_elsewhere_is_no_pass() -> None:
    good = replace(FAILED, reasons=())
    assert good.with_place(0.30, 0.31).verdict == "pass"
    assert good.with_place(0.20, 0.31).verdict == "look"
    assert "another place" in good.with_place(0.20, 0.31).doubts[0]
    assert good.with_place(0.02, 0.04).verdict == "pass"  # neither says anything
    assert FAILED.with_place(0.20, 0.31) is FAILED
