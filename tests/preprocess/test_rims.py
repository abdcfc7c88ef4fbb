"""Padding around an image's own air is no content, whatever its value; what is no padding stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Phantom, make_phantom
from scipy import ndimage

from deformgan.io.image import Image
from deformgan.preprocess.foreground import find_content
from deformgan.preprocess.rims import grown, without_rims
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid


def image(data: np.ndarray) -> Image:
    return Image(np.asfortranarray(data), Grid(data.shape, np.diag([4.0, 4.0, 4.0, 1.0])), "image")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def in_air(phantom: Phantom, air: float, scale: float) -> np.ndarray:
    return np.where(phantom.labels > 0, air + scale * (0.2 + phantom.t1), air).astype(np.float32)


@pytest.mark.parametrize("rim", [0, -1, 255, 32767, -3024])
@pytest.mark.parametrize("width", [3, 8])
def test_a_rim_of_any_value_around_flat_air(phantom: Phantom, rim: float, width: int) -> None:
    data = np.pad(in_air(phantom, 1000, 800), width, constant_values=rim)
    content = Scan.of(image(data)).content
    np.testing.assert_array_equal(content.mask, np.pad(phantom.labels > 0, width))
    assert content.zero_background
    assert content.background_value == 1000


def test_a_ct_keeps_its_air_where_the_tube_does_not_reach(phantom: Phantom) -> None:
    x, y = np.meshgrid(*[np.linspace(-1, 1, n) for n in phantom.labels.shape[:2]], indexing="ij")
    data = np.where((x**2 + y**2 < 0.97)[:, :, None], in_air(phantom, -1024, 900), -3024)
    content = Scan.of(image(data.astype(np.int16))).content
    assert dice(content.mask, phantom.labels > 0) > 0.99
    assert content.background_value == -1024


def test_noise_in_the_air_stays_noise(phantom: Phantom, rng: np.random.Generator) -> None:
    noise = 15 * rng.standard_normal(phantom.labels.shape)
    plain = in_air(phantom, -1000, 900) + noise
    scan = Scan.of(image(np.pad(plain, 6, constant_values=-3024).astype(np.float32)))
    assert not scan.content.zero_background
    assert scan.content.background_value == pytest.approx(-1000, abs=5)
    assert scan.image.data[:4].std() == pytest.approx(15, rel=0.2)
    assert dice(scan.content.mask, np.pad(find_content(image(plain)).mask, 6)) > 0.99


@pytest.mark.parametrize("degrees", [10, 20, 45])
def test_corners_that_a_rotation_left(phantom: Phantom, degrees: float) -> None:
    data = in_air(phantom, -1024, 900)
    turned = ndimage.rotate(data, degrees, reshape=False, order=1, cval=0)
    brain = ndimage.rotate((phantom.labels > 0).astype(float), degrees, reshape=False, order=1) > 0.2
    assert dice(Scan.of(image(turned)).content.mask, brain) > 0.95


def test_air_amid_the_values_of_the_brain(phantom: Phantom, rng: np.random.Generator) -> None:
    scores = np.where(phantom.labels > 0, rng.standard_normal(phantom.labels.shape), 0)
    data = np.pad(scores + 1000, 6, constant_values=0).astype(np.float32)
    assert dice(Scan.of(image(data)).content.mask, np.pad(phantom.labels > 0, 6)) > 0.99


@pytest.mark.parametrize("value", [5.0, 0.25, -9.0, 4095.0])
def test_one_background_of_any_value(phantom: Phantom, value: float, rng: np.random.Generator) -> None:
    data = np.where(phantom.labels > 0, rng.standard_normal(phantom.labels.shape), value).astype(np.float32)
    np.testing.assert_array_equal(find_content(image(data)).mask, phantom.labels > 0)


def test_what_is_no_padding_stays(phantom: Phantom, rng: np.random.Generator) -> None:
    plain = make_phantom(texture=0.0)
    slab = np.zeros_like(phantom.t2)
    slab[:, :, 12:24] = phantom.t2[:, :, 12:24]
    low = rng.integers(0, 5, phantom.t1.shape) * (phantom.labels == 0)  # noise with zeros, as 8 bits have it
    for data in (phantom.t1, phantom.t2, plain.t1, plain.t2, slab, (100 * phantom.t1 + low).astype(np.float32)):
        given = image(data)
        assert without_rims(given) is given


def test_flat_air_beside_the_soft_tissue_of_ct_is_no_padding(rng: np.random.Generator) -> None:
    """Bone makes the range of values so wide that skin and brain are as near each other as air's noise is."""
    off = np.linalg.norm(np.moveaxis(np.indices((60, 60, 60)), 0, -1) - 29.5, axis=-1)
    tissue = np.where((off > 19) & (off < 23), 900, 30 + rng.normal(0, 8, off.shape))
    given = image(np.where(off < 26, tissue, -1000).astype(np.float32))
    assert without_rims(given) is given
    np.testing.assert_array_equal(find_content(given).mask, off < 26)


def test_a_mask_grows_along_the_axes() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    for times in (1, 2, 3):
        np.testing.assert_array_equal(grown(mask, times), ndimage.binary_dilation(mask, iterations=times))
