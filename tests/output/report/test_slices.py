"""Slices are smoothed, eroded and taken apart as by `scipy.ndimage`."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from deformgan.output.report.slices import eroded, filled, parts, smoothed, without_specks

SHAPES = [(41, 57), (5, 60), (3, 2), (1, 1)]


def masks(shape: tuple[int, int], share: float) -> np.ndarray:
    """Seven slices of a random pattern with pieces and holes of many sizes."""
    noise = np.random.default_rng(7).random((7, *shape))
    rough = np.stack([ndimage.gaussian_filter(one, 1.2) for one in noise])
    return rough > np.quantile(rough, 1 - share)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.6])
def test_a_gaussian(shape: tuple[int, int], sigma: float) -> None:
    image = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(smoothed(image, sigma), ndimage.gaussian_filter(image, sigma))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_erosion(shape: tuple[int, int], times: int) -> None:
    for mask in masks(shape, 0.9):
        np.testing.assert_array_equal(eroded(mask, times), ndimage.binary_erosion(mask, iterations=times))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_holes_and_specks(shape: tuple[int, int], share: float) -> None:
    several = masks(shape, share) if share else np.zeros((7, *shape), bool)
    numbers = parts(several)
    assert sorted(np.unique(numbers[several])) == list(range(1, numbers.max() + 1))
    for mask, found, whole, kept in zip(several, numbers, filled(several), without_specks(several, 0.1), strict=True):
        expected, count = ndimage.label(mask)
        np.testing.assert_array_equal(found > 0, mask)
        assert len(set(zip(found[mask], expected[mask], strict=True))) == count == len(np.unique(found[mask]))
        np.testing.assert_array_equal(whole, ndimage.binary_fill_holes(mask))
        sizes = np.bincount(expected.ravel(), minlength=count + 1)
        np.testing.assert_array_equal(kept, mask & (sizes >= 0.1 * mask.sum())[expected])


def test_a_winding_line_is_one_part() -> None:
    rows, columns = np.indices((61, 61))
    snake = (rows % 2 == 0) | (columns == np.where(rows % 4 == 1, 60, 0))
    assert parts(snake[None]).max() == 1
    assert parts(snake.T[None]).max() == 1
    assert parts(np.eye(9, dtype=bool)[None]).max() == 9


def test_the_page_does_without_scipy() -> None:
    code = (
        "import sys, deformgan.output.report.page; print([name for name in sys.modules if name.startswith('scipy.')])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
