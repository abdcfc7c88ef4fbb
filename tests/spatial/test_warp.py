"""Sampling through fields: against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp, warp_points

SHAPE = (9, 11, 8)

pytestmark = pytest.mark.usefixtures("either_way")


def _random(generator: torch.Generator, size: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(1, 1, *SHAPE, generator=generator)
    return image, (torch.rand(1, 3, *SHAPE, generator=generator) - 0.5) * 2 * size


def _positions(field: torch.Tensor) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) for n in field.shape[2:]], indexing="ij")) + field[0].numpy()


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_zero_field_changes_nothing(generator: torch.Generator, mode: str) -> None:
    image, field = _random(generator)
    torch.testing.assert_close(warp(image, 0 * field, mode), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_whole_voxel_shift_is_exact(generator: torch.Generator, mode: str) -> None:
    image, field = _random(generator)
    field = torch.tensor([2.0, -1.0, 3.0]).view(1, 3, 1, 1, 1).expand_as(field)
    moved = warp(image, field, mode)
    torch.testing.assert_close(moved[..., :7, 1:, :5], image[..., 2:, :-1, 3:], atol=1e-5, rtol=0)
    assert moved[..., 7:, :, :].abs().max() < 1e-5  # from outside: zero


@pytest.mark.parametrize(("padding", "scipy_mode"), [("border", "nearest"), ("zeros", "grid-constant")])
def test_linear_agrees_with_scipy(generator: torch.Generator, padding: str, scipy_mode: str) -> None:
    image, field = _random(generator, 3)
    expected = ndi.map_coordinates(image[0, 0].numpy(), _positions(field), order=1, mode=scipy_mode)
    np.testing.assert_allclose(warp(image, field, padding=padding)[0, 0].numpy(), expected, atol=2e-5)


def test_nearest_keeps_labels_and_dtype(generator: torch.Generator) -> None:
    _, field = _random(generator, 3)
    labels = torch.randint(0, 2000, (1, 1, *SHAPE), generator=generator)
    moved = warp(labels, field, "nearest", "border")
    assert moved.dtype == labels.dtype
    where = np.rint(_positions(field)).astype(int)
    where = [np.clip(where[a], 0, SHAPE[a] - 1) for a in range(3)]
    np.testing.assert_array_equal(moved[0, 0].numpy(), labels[0, 0].numpy()[tuple(where)])


def test_cubic_reproduces_quadratics() -> None:
    """Catmull-Rom interpolates polynomials of degree 2 exactly, which linear interpolation does not."""
    i, j, k = np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij")
    image = torch.from_numpy(0.1 * i**2 - 0.05 * i * j + 0.2 * k**2 - j).float()[None, None]
    field = torch.tensor([0.3, -0.4, 0.25]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    x, y, z = i + 0.3, j - 0.4, k + 0.25
    expected = 0.1 * x**2 - 0.05 * x * y + 0.2 * z**2 - y
    inner = (slice(2, -3),) * 3
    np.testing.assert_allclose(warp(image, field, "cubic")[0, 0].numpy()[inner], expected[inner], atol=1e-4)
    assert np.abs(warp(image, field)[0, 0].numpy()[inner] - expected[inner]).max() > 1e-2


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_cubic_is_the_sum_over_64_neighbours(generator: torch.Generator, padding: str) -> None:
    """Keys' kernel (a = -1/2) written out, also across and beyond the border."""
    image = torch.rand(1, 1, 5, 6, 4, generator=generator)
    field = 3 * torch.randn(1, 3, 5, 6, 4, generator=generator)
    where = _positions(field)
    weights = []
    for axis, n in enumerate((5, 6, 4)):
        taps = np.arange(-20, n + 20)  # the image goes on as zeros or as its border
        away = np.abs(where[axis][..., None] - taps)
        near = 1.5 * away**3 - 2.5 * away**2 + 1
        far = -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
        kernel = np.where(away <= 1, near, np.where(away < 2, far, 0))
        onto = np.clip(taps, 0, n - 1)[:, None] == np.arange(n)
        if padding == "zeros":
            onto &= ((taps >= 0) & (taps < n))[:, None]
        weights.append(kernel @ onto)
    expected = np.einsum("abcx,abcy,abcz,xyz->abc", *weights, image[0, 0].numpy())
    np.testing.assert_allclose(warp(image, field, "cubic", padding)[0, 0].numpy(), expected, atol=1e-5)


def test_cubic_outside_zeros_or_border() -> None:
    image = torch.ones(1, 1, *SHAPE)
    far = torch.full((1, 3, *SHAPE), 30.0)
    assert warp(image, far, "cubic").abs().max() == 0
    torch.testing.assert_close(warp(image, far, "cubic", "border"), image)


def test_field_on_another_grid_addresses_the_images_voxels(generator: torch.Generator) -> None:
    image, _ = _random(generator)
    field = torch.zeros(1, 3, 4, 5, 6)
    torch.testing.assert_close(warp(image, field), image[..., :4, :5, :6], atol=1e-5, rtol=0)


def test_one_image_for_a_batch_of_fields(generator: torch.Generator) -> None:
    image, field = _random(generator)
    both = torch.cat([field, -field])
    out = warp(image, both)
    torch.testing.assert_close(out[1:], warp(image, -field))
    torch.testing.assert_close(out[:1], warp(image, field))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_gradient_reaches_image_and_field(generator: torch.Generator, mode: str) -> None:
    """Against finite differences, at positions away from the kinks of the interpolation."""
    image = torch.rand(1, 1, 5, 5, 5, generator=generator, requires_grad=True)
    field = (torch.rand(1, 3, 5, 5, 5, generator=generator) * 0.6 + 0.2).requires_grad_()
    weight = torch.rand(1, 1, 5, 5, 5, generator=generator)
    (warp(image, field, mode, "border") * weight).sum().backward()
    for tensor, at in ((image, (0, 0, 2, 2, 2)), (field, (0, 1, 2, 1, 2))):
        step = 1e-2
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                tensor[at] += sign * step
                values.append(float((warp(image, field, mode, "border") * weight).sum()))
                tensor[at] -= sign * step
        assert tensor.grad is not None
        assert float(tensor.grad[at]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=5e-3)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="linear, nearest or cubic"):
        warp(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2), "sinc")


def test_points_go_where_the_image_is_pulled_from(generator: torch.Generator) -> None:
    _, field = _random(generator)
    points = torch.tensor([[2.0, 3.0, 4.0], [0.0, 0.0, 0.0], [3.5, 2.25, 1.75]])
    moved = warp_points(points, field)
    torch.testing.assert_close(moved[0], points[0] + field[0, :, 2, 3, 4], atol=1e-5, rtol=0)
    u = [ndi.map_coordinates(c.numpy(), points.T.numpy(), order=1) for c in field[0]]
    np.testing.assert_allclose(moved.numpy(), points.numpy() + np.stack(u, 1), atol=1e-5)


def test_halved_field_moves_the_halved_image_alike(generator: torch.Generator) -> None:
    """A smooth image warped then halved is nearly the halved image warped by the halved field."""
    shape = (32, 32, 32)
    i, j, k = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
    image = torch.from_numpy(np.sin(5 * i) + np.cos(4 * j) * k).float()[None, None]
    field = torch.tensor([2.0, -1.0, 1.5]).view(1, 3, 1, 1, 1) * torch.from_numpy(np.cos(3 * j)).float()

    def halved(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=0.5, mode="trilinear")

    small = warp(halved(image), resize(field.expand(1, 3, *shape), (16, 16, 16)), padding="border")
    whole = halved(warp(image, field.expand(1, 3, *shape), padding="border"))
    inner = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    assert (small - whole)[inner].abs().max() < 0.02


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_threads_do_not_change_the_result(mode: str) -> None:
    """A single volume is cut into one block a thread; values and gradients are those of the whole."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 2, 12, 9, 10, generator=generator)
    field = torch.randn(1, 3, 12, 9, 10, generator=generator).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            moved = warp(image, field, mode)
            results.append((moved.detach(), torch.autograd.grad(moved.square().sum(), field)[0]))
    finally:
        torch.set_num_threads(threads)
    for moved, gradient in results[1:]:
        assert torch.equal(moved, results[0][0])
        assert torch.equal(gradient, results[0][1])
