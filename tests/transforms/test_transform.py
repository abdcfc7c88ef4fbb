"""The map in world millimetres: algebra, sampling and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from grids import CASES, some_image, some_transform
from hypothesis import given, settings
from hypothesis import strategies as st

from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.spatial import blockwise
from deformgan.spatial.field import affine_field, jacobian_determinant
from deformgan.spatial.grid import Grid
from deformgan.transforms.chain import Chain, chained
from deformgan.transforms.formats.itk import write_displacement
from deformgan.transforms.transform import Transform, load_transform

SHAPE = (18, 20, 16)
WORKING = Grid.centred(SHAPE, 3.0, np.array([2.0, -4.0, 6.0]))
# anisotropic, two axes swapped and one flipped; and slanted
SWAPPED = Grid((17, 26, 12), np.array([[0, 2.1, 0, -25], [-2.5, 0, 0, 15], [0, 0, 4.0, -18], [0, 0, 0, 1]]))


def _turn(degrees: float, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrix[:3, 3] = shift
    return matrix


SLANTED = SWAPPED.moved_by(_turn(15, (1, 2, 3)))


def _field(seed: int = 0, size: float = 1.5, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    field = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    return field * size / field.abs().max()


def _affine(seed: int, size: float = 0.15) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.uniform(-size, size, (3, 3))
    matrix[:3, 3] = rng.uniform(-6, 6, 3)
    return matrix


def _transform(seed: int = 0, size: float = 1.5, affine: np.ndarray | None = None) -> Transform:
    moving = WORKING.moved_by(_affine(seed) if affine is None else affine)
    return Transform.from_field(WORKING, moving, _field(seed, size))


def _points(n: int = 40, seed: int = 0) -> np.ndarray:
    inner = np.array(SHAPE) - 7
    return WORKING.to_world(np.random.default_rng(seed).uniform(3, inner + 3, (n, 3)))


def _image(grid: Grid = SWAPPED, seed: int = 0) -> Image:
    data = ndi.gaussian_filter(np.random.default_rng(seed).random(grid.shape), 1.0).astype(np.float32)
    return Image(data, grid, "moving")


def _voxels(grid: Grid) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3)


ONTO = pytest.mark.parametrize("onto", [WORKING, SWAPPED, SLANTED], ids=["working", "swapped", "slanted"])
MAPS = pytest.mark.parametrize(
    "transform",
    [Transform.identity(), Transform(_affine(3)), _transform(1, affine=_turn(0, (4, -3, 2))), _transform(2)],
    ids=["identity", "affine", "shifted field", "affine and field"],
)


# -- construction -----------------------------------------------------------------------------------


def test_field_is_read_as_the_contract_says() -> None:
    """Moving index = fixed index + u."""
    moving_grid, field = SLANTED.resized(SHAPE), _field(4)
    transform = Transform.from_field(WORKING, moving_grid, field)
    index = np.array([5, 7, 9])
    expected = moving_grid.to_world(index + field[0, :, 5, 7, 9].numpy())
    np.testing.assert_allclose(transform.map_points(WORKING.to_world(index)[None])[0], expected, atol=1e-4)


def test_affine_in_voxels_comes_after_the_field() -> None:
    moving_grid, field = SLANTED.resized(SHAPE), _field(4)
    matrix = np.array([[1.0, 0.1, 0, 2], [0, 0.9, 0, 1], [0, 0, 1.1, -1], [0, 0, 0, 1]])
    transform = Transform.from_field(WORKING, moving_grid, field, matrix)
    index = np.array([5, 7, 9])
    there = matrix[:3, :3] @ (index + field[0, :, 5, 7, 9].numpy()) + matrix[:3, 3]
    np.testing.assert_allclose(
        transform.map_points(WORKING.to_world(index)[None])[0], moving_grid.to_world(there), atol=1e-4
    )


def test_coarser_field_is_the_same_map() -> None:
    """A linear displacement on the half grid, in its own voxels, moves points as the full one does."""
    matrix = torch.tensor([[[1.05, 0.02, 0.0, -0.4], [0.0, 0.97, 0.03, 0.5], [0.01, 0.0, 1.02, 0.3]]])
    full = affine_field(matrix, SHAPE)
    half = full.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).mean((-1, -2, -3)) / 2
    moving = WORKING.moved_by(_affine(1))
    a, b = (Transform.from_field(WORKING, moving, f) for f in (full, half))
    np.testing.assert_allclose(b.map_points(_points()), a.map_points(_points()), atol=1e-3)
    assert b.grid is not None
    assert b.grid.shape == (9, 10, 8)


def test_what_makes_no_transform() -> None:
    with pytest.raises(ValueError, match="invertible"):
        Transform(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="needs its grid"):
        Transform(np.eye(4), np.zeros((2, 2, 2, 3)))
    with pytest.raises(ValueError, match="on a grid of shape"):
        Transform(np.eye(4), np.zeros((2, 2, 2, 3)), WORKING)
    with pytest.raises(ValueError, match="of one shape"):
        Transform.from_field(WORKING, SWAPPED, _field())
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        Transform.identity().map_points(np.zeros(3))


def test_torch_displacement_is_taken(rng: np.random.Generator) -> None:
    disp = rng.normal(size=(*SHAPE, 3))
    a, b = Transform(np.eye(4), disp, WORKING), Transform(np.eye(4), torch.from_numpy(disp).requires_grad_(), WORKING)
    np.testing.assert_array_equal(a.map_points(_points()), b.map_points(_points()))


# -- volumes ----------------------------------------------------------------------------------------


@MAPS
@ONTO
def test_displacement_is_what_points_do(transform: Transform, onto: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 2000)
    disp = transform.displacement(onto)
    assert disp.shape == (*onto.shape, 3)
    assert disp.dtype == np.float32
    world = onto.to_world(_voxels(onto))
    np.testing.assert_allclose(disp.reshape(-1, 3), transform.map_points(world) - world, atol=2e-4)


@MAPS
@ONTO
def test_apply_agrees_with_scipy(transform: Transform, onto: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 2000)
    image = _image()
    moved = transform.apply(image, onto)
    assert moved.grid == onto
    where = image.grid.to_index(transform.map_points(onto.to_world(_voxels(onto))))
    expected = ndi.map_coordinates(image.data, where.T, order=1, mode="nearest")
    outside = (where < -0.5) | (where > np.array(image.grid.shape) - 0.5)
    expected[outside.any(1)] = 0
    close_call = (np.abs(where + 0.5) < 1e-3) | (np.abs(where - np.array(image.grid.shape) + 0.5) < 1e-3)
    sure = ~close_call.any(1)
    assert sure.mean() > 0.9
    np.testing.assert_allclose(moved.data.reshape(-1)[sure], expected[sure], atol=1e-4)
    assert not outside.any(1).all()


@MAPS
@ONTO
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32"])
def test_labels_keep_values_and_dtype(transform: Transform, onto: Grid, dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = np.array([0, 3, 17, 200, 251]).astype(dtype)
    labels = Image(rng.choice(values, SWAPPED.shape), SWAPPED)
    moved = transform.apply(labels, onto, "nearest")
    assert moved.data.dtype == dtype
    where = labels.grid.to_index(transform.map_points(onto.to_world(_voxels(onto))))
    nearest = np.floor(where + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < labels.grid.shape)).all(1)
    sure = (np.abs(where + 0.5 - np.rint(where + 0.5)) > 1e-3).all(1) | (np.abs(where - nearest) < 1e-3).all(1)
    clipped = np.clip(nearest, 0, np.array(labels.grid.shape) - 1)
    expected = np.where(inside, labels.data[tuple(clipped.T)], 0)
    np.testing.assert_array_equal(moved.data.reshape(-1)[sure], expected[sure])


@MAPS
@ONTO
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_the_label_with_the_largest_share_is_taken(transform: Transform, onto: Grid, dtype: str) -> None:
    values = np.array([0, 3, 17, 200, 251]).astype(dtype)
    labels = Image(np.random.default_rng(1).choice(values, SWAPPED.shape), SWAPPED)
    moved = transform.apply_labels(labels, onto)
    assert moved.data.dtype == dtype
    where = labels.grid.to_index(transform.map_points(onto.to_world(_voxels(onto))))
    shares = np.stack([ndi.map_coordinates((labels.data == v) * 1.0, where.T, order=1, mode="nearest") for v in values])
    outside = ((where < -0.5) | (where > np.array(labels.grid.shape) - 0.5)).any(1)
    close_call = np.diff(np.sort(shares, 0)[-2:], axis=0)[0] < 1e-3
    edge = ((np.abs(where + 0.5) < 1e-3) | (np.abs(where - np.array(labels.grid.shape) + 0.5) < 1e-3)).any(1)
    sure = ~close_call & ~edge
    assert sure.mean() > 0.9
    expected = np.where(outside, 0, values[shares.argmax(0)])
    np.testing.assert_array_equal(moved.data.reshape(-1)[sure], expected[sure])


@pytest.mark.parametrize("wide", [np.uint32, np.int64, np.float64])
def test_labels_beyond_32_bits_are_told_apart(wide: type) -> None:
    """Numbers that agree in their lower or upper half, as a key of 32 bits might have them."""
    values = np.array([0, 2**31 - 1, 2**31 + 7, 2**32 - 1] if wide is np.uint32 else [0, 7, 2**32 + 7, 2**40], wide)
    labels = Image(np.random.default_rng(2).choice(values, SHAPE), WORKING)
    np.testing.assert_array_equal(Transform.identity().apply_labels(labels, WORKING).data, labels.data)


def test_a_label_that_no_share_is_large_enough_for_is_not_lost() -> None:
    data = np.zeros(SHAPE, np.uint16)
    data[4, 4, 4], data[6:10, 6:10, 6:10] = 300, 7
    shift = WORKING.affine.copy()
    shift[:3, 3] = WORKING.affine[:3, :3] @ (0.4, 0.4, 0.4)  # the lone voxel's share is 0.6³
    shift[:3, :3] = np.eye(3)
    moved = Transform(shift).apply_labels(Image(data, WORKING), WORKING).data
    assert (moved == 300).sum() == 1
    assert set(np.unique(moved)) == {0, 7, 300}


def test_a_border_between_labels_lies_where_each_has_half() -> None:
    """A ball turned by 30 degrees keeps its outline better than with the nearest voxels."""
    centre = (np.array(SHAPE) - 1) / 2
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) - centre
    ball = Image((np.linalg.norm(index, axis=-1) < 7.3).astype(np.uint8), WORKING)
    turn, about = np.eye(4), np.eye(4)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn[:2, :2] = [[c, -s], [s, c]]
    about[:3, 3] = WORKING.to_world(centre[None])[0]
    turned = Transform(about @ turn @ np.linalg.inv(about))
    wrong = {how: (turned.apply(ball, WORKING, how).data != ball.data).sum() for how in ("label", "nearest")}
    assert wrong["label"] < 0.8 * wrong["nearest"]


def test_cubic_is_sharper_than_linear_and_exact_on_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 2000)
    image = _image(WORKING)
    np.testing.assert_allclose(Transform.identity().apply(image, WORKING, "cubic").data, image.data, atol=1e-5)
    i, j, k = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in SHAPE], indexing="ij")
    wave = Image(np.sin(0.7 * i) + np.cos(0.6 * j) * np.sin(0.5 * k), WORKING)
    shift = np.eye(4)
    shift[:3, 3] = 1.5, 1.2, -0.9  # 0.5, 0.4, -0.3 voxels
    expected = np.sin(0.7 * (i + 0.5)) + np.cos(0.6 * (j + 0.4)) * np.sin(0.5 * (k - 0.3))
    errors = {
        how: np.abs(Transform(shift).apply(wave, WORKING, how).data - expected)[3:-3, 3:-3, 3:-3].max()
        for how in ("linear", "cubic")
    }
    assert errors["cubic"] < 0.25 * errors["linear"]


def test_identity_returns_the_image_itself() -> None:
    image = _image()
    np.testing.assert_allclose(Transform.identity().apply(image, image.grid).data, image.data, atol=1e-5)
    assert np.abs(Transform.identity().displacement(SLANTED)).max() == 0


def test_far_away_is_zero() -> None:
    far = np.eye(4)
    far[:3, 3] = 1e4
    assert np.abs(Transform(far).apply(_image(), WORKING).data).max() == 0


def test_read_only_and_integer_images() -> None:
    data = (_image().data * 1000).astype(np.int16)
    data.setflags(write=False)
    moved = _transform().apply(Image(data, SWAPPED), WORKING)
    assert moved.data.dtype == np.float32
    np.testing.assert_allclose(moved.data, _transform().apply(Image(data.astype(np.float32), SWAPPED), WORKING).data)


def test_unknown_interpolation() -> None:
    with pytest.raises(UsageError, match="sinc"):
        Transform.identity().apply(_image(), WORKING, "sinc")


# -- Jacobian ---------------------------------------------------------------------------------------


@ONTO
def test_jacobian_of_an_affine(onto: Grid) -> None:
    matrix = _affine(5)
    np.testing.assert_allclose(Transform(matrix).jacobian(onto), np.linalg.det(matrix[:3, :3]), rtol=1e-5)


def test_jacobian_is_of_the_complete_map() -> None:
    transform = _transform(3, 1.0)
    expected = jacobian_determinant(_field(3, 1.0))[0].numpy() * np.linalg.det(transform.affine[:3, :3])
    np.testing.assert_allclose(transform.jacobian(WORKING), expected, atol=1e-3)
    assert transform.jacobian(SLANTED).shape == SLANTED.shape


def test_jacobian_is_the_ratio_of_volumes() -> None:
    """Its sum over the fixed voxels of an object is the object's volume in moving space."""
    transform = _transform(6, 1.0)
    fine = WORKING.resized((36, 40, 32))
    inner = np.zeros(fine.shape, bool)
    inner[12:-12, 12:-12, 12:-12] = True
    volume = transform.jacobian(fine)[inner].sum() * abs(np.linalg.det(fine.affine[:3, :3]))
    # the same region measured by moving many points and counting the cells they leave (finite elements)
    low, high = np.array([11.5] * 3), np.array(fine.shape) - 12.5
    cells = 12
    grid = np.stack(
        np.meshgrid(*[np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)], indexing="ij"), -1
    )
    moved = transform.map_points(fine.to_world(grid.reshape(-1, 3))).reshape(grid.shape)
    edges = [np.diff(moved, axis=a)[tuple(slice(0, cells) for _ in range(3))] for a in range(3)]
    measured = np.abs(np.linalg.det(np.stack(edges, -1))).sum()
    assert volume == pytest.approx(measured, rel=0.03)


# -- algebra ----------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.floats(0, 1.0))
@settings(max_examples=15)
def test_inverse_undoes_the_map(seed: int, size: float) -> None:
    transform = _transform(seed, size)
    inverse = transform.inverse()
    assert inverse.residual_mm is not None
    assert inverse.residual_mm < 1.0  # between voxels and at the border of a rough field
    back = inverse.map_points(transform.map_points(_points()))
    # both are linear between their voxels, so they are inverse to within the curvature of the field
    np.testing.assert_allclose(back, _points(), atol=0.35)
    assert np.abs(back - _points()).mean() < 0.06


@given(st.integers(0, 500), st.floats(0, 1.5))
@settings(max_examples=15)
def test_points_move_with_the_image(seed: int, size: float) -> None:
    transform = _transform(seed, size)
    np.testing.assert_allclose(transform.apply_points(transform.map_points(_points())), _points(), atol=1e-3)


@given(st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=15)
def test_affines_compose_and_invert_exactly(a: int, b: int) -> None:
    first, second = Transform(_affine(a)), Transform(_affine(b))
    np.testing.assert_allclose((first @ second).map_points(_points()), first.map_points(second.map_points(_points())))
    np.testing.assert_allclose((first @ first.inverse()).affine, np.eye(4), atol=1e-10)
    assert first.inverse().residual_mm is None


@given(st.integers(0, 500), st.sampled_from(["affine first", "affine last"]))
@settings(max_examples=15)
def test_affine_with_a_field_composes_exactly(seed: int, order: str) -> None:
    field, affine = _transform(seed), Transform(_affine(seed + 1))
    outer, inner = (field, affine) if order == "affine first" else (affine, field)
    expected = outer.map_points(inner.map_points(_points()))
    np.testing.assert_allclose((outer @ inner).map_points(_points()), expected, atol=1e-3)


@given(st.integers(0, 500))
@settings(max_examples=10)
def test_fields_compose(seed: int) -> None:
    outer, inner = _transform(seed, 1.0), _transform(seed + 1, 1.0)
    both = outer @ inner
    assert both.grid is not None
    voxels = both.grid.to_world(_voxels(both.grid)[::7])
    # exact on the voxels of the common grid, linear between them
    np.testing.assert_allclose(both.map_points(voxels), outer.map_points(inner.map_points(voxels)), atol=2e-3)
    np.testing.assert_allclose(both.map_points(_points()), outer.map_points(inner.map_points(_points())), atol=0.35)


def test_composition_covers_both_fields_at_the_finer_resolution() -> None:
    fine = Grid.centred((20, 20, 20), 1.0, np.array([25.0, 0.0, 0.0]))
    outer = Transform(np.eye(4), np.full((20, 20, 20, 3), 0.5), fine)
    inner = Transform(np.eye(4), np.zeros((*SHAPE, 3)), WORKING)
    grid = (outer @ inner).grid
    assert grid is not None
    np.testing.assert_allclose(grid.spacing, 1.0)
    corners = grid.to_index(np.stack([fine.to_world(_voxels(fine)).max(0), WORKING.to_world(np.zeros(3))]))
    assert (corners >= -1e-6).all()
    assert (corners <= np.array(grid.shape) - 1 + 1e-6).all()


def test_transform_after_its_inverse_stays_on_the_inverses_grid() -> None:
    transform = _transform(2, 1.0)
    back = transform.inverse()
    both = back @ transform
    assert both.grid is not None
    assert back.grid is not None
    assert both.grid.shape == back.grid.shape  # widened once, by as far as the field reaches
    np.testing.assert_allclose(both.map_points(_points()), _points(), atol=0.35)


def test_inverse_of_a_folding_map_says_so() -> None:
    disp = np.zeros((*SHAPE, 3), np.float32)
    disp[..., 0] = 15 * np.sin(np.arange(SHAPE[0]) * np.pi / 2)[:, None, None]
    residual = Transform(np.eye(4), disp, WORKING).inverse().residual_mm
    assert residual is not None
    assert residual > 1.0


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_the_stated_residual_is_the_measured_one(size: float) -> None:
    transform = _transform(5, size)
    inverse = transform.inverse()
    everywhere = WORKING.to_world(np.random.default_rng(0).uniform(0, np.array(SHAPE) - 1, (5000, 3)))
    missed = np.linalg.norm(inverse.map_points(transform.map_points(everywhere)) - everywhere, axis=1).max()
    assert inverse.residual_mm is not None
    assert missed <= 1.1 * inverse.residual_mm


def test_a_field_that_leaves_its_grid_far_behind_is_not_said_to_be_inverted() -> None:
    grid = Grid.centred((6, 7, 8), 1e-3, np.zeros(3))
    disp = np.random.default_rng(0).choice([-9e5, 9e5], (6, 7, 8, 3)).astype(np.float32)
    residual = Transform(np.eye(4), disp, grid).inverse().residual_mm
    assert residual is not None
    assert residual > 1e5


def test_two_fields_far_apart_are_refused_before_memory_is_taken() -> None:
    near, far = (Grid.centred((4, 4, 4), 1e-2, np.full(3, place)) for place in (0.0, 1e4))
    one, two = (Transform(np.eye(4), np.zeros((4, 4, 4, 3), np.float32), grid) for grid in (near, far))
    with pytest.raises(InputError, match="of memory"):
        two @ one
    assert np.allclose(chained([one, two]).map_points(np.ones((1, 3))), 1)  # kept apart they take none


def test_two_small_fields_never_make_a_huge_one() -> None:
    fine, coarse = Grid.centred((4, 4, 4), 1.0, np.zeros(3)), Grid.centred((40, 40, 40), 10.0, np.zeros(3))
    one, two = (Transform(np.eye(4), np.zeros((*grid.shape, 3), np.float32), grid) for grid in (fine, coarse))
    with pytest.raises(InputError, match="they themselves have"):
        two @ one
    assert (one @ two).disp_mm is not None


def _chain() -> tuple[list[Transform], Chain]:
    maps = [_transform(seed, 1.5, _affine(seed, 0.05)) for seed in (21, 22, 23)]
    chain = chained(maps)
    assert isinstance(chain, Chain)
    return maps, chain


@ONTO
def test_a_chain_takes_positions_through_each_map_in_turn(onto: Grid) -> None:
    maps, chain = _chain()
    points = onto.to_world(_voxels(onto))
    expected = maps[2].map_points(maps[1].map_points(maps[0].map_points(points)))
    np.testing.assert_allclose(chain.map_points(points), expected, atol=1e-9)
    moved = chain.displacement(onto).reshape(-1, 3) + points
    np.testing.assert_allclose(moved, expected, atol=1e-3)
    np.testing.assert_allclose(chain.apply_points(expected), points, atol=0.01)
    image = _image()
    pulled = chain.apply(image, onto).data
    at = image.grid.to_index(expected)
    inside = ((at >= 0) & (at <= np.array(image.grid.shape) - 1)).all(1)
    exact = ndi.map_coordinates(image.data, at.T, order=1)
    np.testing.assert_allclose(pulled.reshape(-1)[inside], exact[inside], atol=1e-3)


def test_a_chains_jacobian_and_inverse() -> None:
    _, chain = _chain()
    inner = WORKING.padded((-5, -5, -5))
    step, points = 0.01, inner.to_world(_voxels(inner))
    edges = [
        (chain.map_points(points + step * e) - chain.map_points(points - step * e)) / (2 * step) for e in np.eye(3)
    ]
    numeric = np.linalg.det(np.stack(edges, -1))
    assert np.abs(chain.jacobian(inner).reshape(-1) - numeric).mean() < 0.05
    back = chain.inverse()
    assert np.abs(back.map_points(chain.map_points(points)) - points).mean() < 0.3
    assert back.residual_mm is not None
    assert np.allclose(chain.flattened().map_points(points), chain.map_points(points), atol=1.0)


def test_maps_without_fields_are_made_one() -> None:
    assert isinstance(chained([Transform(_affine(1)), _transform(2), Transform(_affine(3))]), Transform)
    assert isinstance(chained([]), Transform)


def test_a_chain_keeps_its_parts_in_h5(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    _, chain = _chain()
    chain.save(tmp_path / "c.h5")
    loaded = load_transform(tmp_path / "c.h5")
    assert isinstance(loaded, Chain)
    np.testing.assert_allclose(loaded.map_points(_points()), chain.map_points(_points()), atol=1e-4)
    chain.save(tmp_path / "w.nii.gz", WORKING)
    points = WORKING.to_world(_voxels(WORKING))
    np.testing.assert_allclose(
        load_transform(tmp_path / "w.nii.gz").map_points(points), chain.map_points(points), atol=1e-3
    )


def test_images_are_taken_as_people_have_them(tmp_path: Path) -> None:
    import nibabel as nib

    image, transform = _image(), _transform(6)
    theirs = nib.Nifti1Image(image.data, image.grid.affine)
    onto = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), WORKING.affine)
    expected = transform.apply(image, WORKING).data
    # their headers hold 32-bit floats
    np.testing.assert_allclose(transform.apply(theirs, onto).data, expected, atol=1e-5)
    nib.save(theirs, tmp_path / "a.nii.gz")
    nib.save(onto, tmp_path / "b.nii.gz")
    np.testing.assert_allclose(transform.apply(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz").data, expected, atol=1e-5)


# -- files ------------------------------------------------------------------------------------------


@ONTO
def test_saved_map_is_complete(tmp_path: Path, onto: Grid) -> None:
    transform = _transform(7)
    transform.save(tmp_path / "w.nii.gz", onto)
    loaded = load_transform(tmp_path / "w.nii.gz")
    assert loaded.grid == onto
    np.testing.assert_allclose(loaded.displacement(onto), transform.displacement(onto), atol=1e-4)


@pytest.mark.parametrize("linear", [np.eye(4), _turn(25), _affine(3)], ids=["shift", "turn", "affine"])
def test_the_inverse_of_a_loaded_map_lies_where_the_moving_content_is(tmp_path: Path, linear: np.ndarray) -> None:
    far = linear.copy()
    far[:3, 3] += 120, -40, 60  # headers that place the images far from each other
    transform = _transform(4, 1.0, far)
    transform.save(tmp_path / "w.nii.gz")
    inverse = load_transform(tmp_path / "w.nii.gz").inverse()
    back = inverse.map_points(transform.map_points(_points()))
    np.testing.assert_allclose(back, _points(), atol=0.35)
    assert np.abs(back - _points()).mean() < 0.06
    assert inverse.residual_mm is not None
    assert inverse.residual_mm < 1.0  # between voxels and at the border of a rough field


def test_a_broken_field_still_loads(tmp_path: Path) -> None:
    """One whose nearest affine has no inverse keeps its shift alone."""
    index = np.indices(SHAPE).transpose(1, 2, 3, 0)
    flat = (-WORKING.to_world(index)).astype(np.float32) + np.float32(5)  # every position goes to one point
    write_displacement(tmp_path / "w.nii.gz", flat, WORKING)
    loaded = load_transform(tmp_path / "w.nii.gz")
    np.testing.assert_array_equal(loaded.affine[:3, :3], np.eye(3))
    np.testing.assert_allclose(loaded.map_points(_points()), 5, atol=1e-3)


def test_saved_on_its_own_grid_by_default(tmp_path: Path) -> None:
    _transform(7).save(tmp_path / "w.nii.gz")
    assert load_transform(tmp_path / "w.nii.gz").grid == WORKING


def test_affine_files(tmp_path: Path) -> None:
    transform = Transform(_affine(8))
    transform.save(tmp_path / "a.txt")
    np.testing.assert_allclose(load_transform(tmp_path / "a.txt").affine, transform.affine, atol=1e-12)
    transform.save(tmp_path / "a.nii.gz", WORKING)
    np.testing.assert_allclose(
        load_transform(tmp_path / "a.nii.gz").map_points(_points()), transform.map_points(_points()), atol=1e-3
    )


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a field"):
        _transform().save(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no grid of its own"):
        Transform.identity().save(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match="unknown ending"):
        _transform().save(tmp_path / "a.xfm")
    with pytest.raises(InputError, match="does not exist"):
        load_transform(tmp_path / "none.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())
def test_large_integer_volumes_are_sampled_a_few_slices_at_a_time(
    fixed: Grid, moving: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = some_transform()
    image = Image(some_image(moving).data.round().astype(np.int16), moving)
    whole = transform.apply(image, fixed).data
    monkeypatch.setattr(blockwise, "_WHOLE_VOXELS", 0)
    monkeypatch.setattr(blockwise, "_SPARE_SLICES", 1)
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 2 * fixed.shape[0] * fixed.shape[1])
    slices = []
    taken = blockwise.sample
    monkeypatch.setattr(blockwise, "sample", lambda source, at: slices.append(source.shape[1]) or taken(source, at))
    np.testing.assert_allclose(transform.apply(image, fixed).data, whole, atol=2e-3)
    assert len(slices) > 5
    assert min(slices) < moving.shape[2]
