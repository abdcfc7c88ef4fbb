"""The working grid: the same anatomy however its file lies, nothing lost, intensities in range."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from conftest import Phantom
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from deformgan.align.start import find_start
from deformgan.errors import InputError
from deformgan.io.image import Image, load_image
from deformgan.preprocess.conform import Conformed, conform, conform_pair
from deformgan.preprocess.foreground import find_content
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid

SHAPE = (32, 36, 28)


def _image(phantom: Phantom, scale: float = 1000.0) -> Image:
    return Image((phantom.t1 * scale).astype(np.float32), Grid(phantom.t1.shape, phantom.affine))


def _reoriented(image: Image, codes: str) -> Image:
    raw = nib.Nifti1Image(image.data, image.grid.affine)
    turned = raw.as_reoriented(ornt_transform(io_orientation(raw.affine), axcodes2ornt(codes)))
    return Image(np.asarray(turned.dataobj), Grid(turned.shape, turned.affine))


def _rotated(image: Image, degrees: float) -> Image:
    """The same object in the same place, scanned with a slanted grid (resampled by SciPy)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    grid = Grid.centred((56, 56, 56), 4.0, np.zeros(3))
    affine = np.eye(4)
    affine[:3, :3] = turn @ grid.affine[:3, :3]
    affine[:3, 3] = image.grid.centre_mm + turn @ grid.affine[:3, 3]
    matrix = image.grid.world_to_index @ affine
    data, brain = (ndi.affine_transform(image.data, matrix[:3, :3], matrix[:3, 3], (56,) * 3, order=o) for o in (1, 0))
    data *= brain > 0  # skull-stripped again, as linear interpolation leaves a faint rim
    return Image(data, Grid((56, 56, 56), affine))


def test_what_comes_out(phantom: Phantom) -> None:
    out = conform(_image(phantom), SHAPE, 5.0)
    assert out.tensor.shape == out.mask.shape == (1, 1, *SHAPE)
    assert out.tensor.dtype == out.mask.dtype == torch.float32
    assert out.tensor.is_contiguous()
    assert (float(out.tensor.min()), float(out.tensor.max())) == (0.0, 1.0)
    assert set(out.mask.unique().tolist()) == {0.0, 1.0}
    assert (out.tensor[out.mask == 0] == 0).all()
    np.testing.assert_allclose(out.grid.affine[:3, :3], 5 * np.eye(3))
    world = phantom.affine[:3, :3] @ np.array(np.nonzero(phantom.t1)).mean(1) + phantom.affine[:3, 3]
    np.testing.assert_allclose(out.grid.centre_mm, world, atol=1e-6)


def test_voxels_lie_where_the_grid_says(phantom: Phantom) -> None:
    """Without smoothing (finer working grid) the tensor is SciPy's linear interpolation, rescaled."""
    image = _image(phantom)
    out = conform(image, (64, 64, 64), 3.3)
    voxels = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), -1)
    where = np.moveaxis(image.grid.to_index(out.grid.to_world(voxels)), -1, 0)
    expected = ndi.map_coordinates(image.data, where, order=1)
    inside = out.mask[0, 0].numpy() > 0
    ours = out.tensor[0, 0].numpy()
    scale = np.median(ours[inside] / expected[inside])
    white = ours[inside] < 1
    np.testing.assert_allclose(ours[inside][white], (expected * scale)[inside][white], atol=1e-4)
    assert 1 / scale == pytest.approx(np.quantile(expected[inside], 0.998), rel=0.01)


@pytest.mark.parametrize("codes", ["LPS", "LIA", "PSR", "SAL", "RAS", "IRP"])
def test_orientation_of_the_file_does_not_matter(phantom: Phantom, codes: str) -> None:
    image = _image(phantom)
    a, b = conform(image, SHAPE, 5.0), conform(_reoriented(image, codes), SHAPE, 5.0)
    assert a.grid == b.grid
    torch.testing.assert_close(a.tensor, b.tensor, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.mask, b.mask)


def test_slanted_grid_shows_the_same_anatomy(phantom: Phantom) -> None:
    image = _image(phantom)
    a = conform(image, SHAPE, 5.0)
    b = conform(_rotated(image, 25), SHAPE, 5.0, grid=a.grid)
    assert np.corrcoef(a.tensor.flatten(), b.tensor.flatten())[0, 1] > 0.97
    assert float((a.mask * b.mask).sum() / torch.maximum(a.mask, b.mask).sum()) > 0.93
    flipped = conform(_rotated(image, -25), SHAPE, 5.0)
    np.testing.assert_allclose(flipped.grid.centre_mm, a.grid.centre_mm, atol=2.0)


def test_anisotropic_voxels(phantom: Phantom) -> None:
    image = _image(phantom)
    thick = Image(image.data[:, :, ::2], Grid((40, 44, 18), image.grid.affine @ np.diag([1.0, 1, 2, 1])))
    a, b = conform(image, SHAPE, 5.0), conform(thick, SHAPE, 5.0, centre_mm=conform(image, SHAPE, 5.0).grid.centre_mm)
    assert a.grid == b.grid
    assert np.corrcoef(a.tensor.flatten(), b.tensor.flatten())[0, 1] > 0.95


def test_downsampling_does_not_alias() -> None:
    """A checkerboard at the voxel size turns grey, not into stripes."""
    data = (np.indices((60, 60, 60)).sum(0) % 2 + 1).astype(np.float32) * 100
    data[:5] = data[-5:] = data[:, :5] = data[:, -5:] = data[:, :, :5] = data[:, :, -5:] = 0
    out = conform(Image(data, Grid((60, 60, 60), np.eye(4))), (24, 24, 24), 2.5)
    inner = out.tensor[0, 0, 7:-7, 7:-7, 7:-7]
    assert float(inner.std() / inner.mean()) < 0.05
    raw = data[10:50:3, 10:50:3, 10:50:3]
    assert raw.std() / raw.mean() > 0.3


def test_same_voxels_are_not_interpolated(phantom: Phantom) -> None:
    """An image already at the working spacing keeps its values: the grid is laid on its voxels."""
    image = _image(phantom)
    out = conform(image, (42, 46, 38), 4.0)
    corner = np.rint(image.grid.to_index(out.grid.to_world(np.zeros(3)))).astype(int)
    np.testing.assert_allclose(image.grid.to_index(out.grid.to_world(np.zeros(3))), corner, atol=1e-6)
    ours = out.tensor[0, 0].numpy()
    block = ours[tuple(slice(-c, -c + n) for c, n in zip(corner, image.data.shape, strict=True))]
    white = np.sort(image.data[image.data > 0])[int(0.998 * ((image.data > 0).sum() - 1))]
    np.testing.assert_allclose(block, np.clip(image.data / white, 0, 1), atol=1e-6)


def test_spacing_grows_until_the_content_fits(phantom: Phantom) -> None:
    out = conform(_image(phantom), SHAPE, 2.0)
    assert out.grid.spacing[0] > 2.0
    full = conform(_image(phantom), (64, 64, 64), 4.0)
    volume, full_volume = (float(c.mask.sum()) * c.grid.spacing[0] ** 3 for c in (out, full))
    assert volume == pytest.approx(full_volume, rel=0.02)


def test_spacing_follows_a_small_brain_but_not_a_part_of_one(phantom: Phantom) -> None:
    image = _image(phantom)
    small = Image(image.data, Grid(image.grid.shape, np.diag([0.3, 0.3, 0.3, 1.0]) @ image.grid.affine))
    adult, child = conform(image, SHAPE, 5.0), conform(small, SHAPE, 5.0)
    torch.testing.assert_close(child.mask, conform(small, SHAPE, float(child.grid.spacing[0])).mask)
    filled = [float(one.mask.mean()) for one in (adult, child)]
    assert filled[1] > 0.8 * filled[0]
    middle = image.data.shape[0] // 2
    part = Image(image.data[middle:], Grid(image.data[middle:].shape, image.grid.affine))
    assert conform(part, (32, 52, 44), 4.0).grid.spacing[0] == 4.0


def test_given_grid_is_kept_whatever_the_content(phantom: Phantom) -> None:
    grid = Grid.centred((10, 11, 12), 3.0, np.array([1.0, 2.0, 3.0]))
    assert conform(_image(phantom), grid=grid).grid is grid


def _started(fixed: Image, moving: Image, spacing: float) -> tuple[Conformed, Conformed]:
    """Conformed from where headers or contents' centres place the images."""
    scans = Scan.of(fixed), Scan.of(moving)
    pair = conform_pair(*scans, find_start(*scans, "deform").fixed_to_moving, SHAPE, spacing)
    return pair.fixed, pair.moving


def test_pair_has_one_spacing_and_two_centres(phantom: Phantom) -> None:
    image = _image(phantom)
    big = Grid(image.grid.shape, np.diag([1.5, 1.5, 1.5, 1.0]) @ image.grid.affine)
    away = np.eye(4)
    away[:3, 3] = (30, 0, 0)
    a, b = _started(image, Image(image.data, big.moved_by(away)), 5.0)
    np.testing.assert_allclose(a.grid.spacing, b.grid.spacing)
    assert a.grid.spacing[0] > 5.0  # the larger one set it
    centre = find_content(image).centre_mm(image.grid)
    np.testing.assert_allclose(b.grid.centre_mm - a.grid.centre_mm, 1.5 * centre + (30, 0, 0) - centre, atol=1e-6)


@pytest.mark.parametrize("degrees", [30.0, 75.0, 180.0])
def test_a_turned_header_makes_no_coarser_grid(phantom: Phantom, degrees: float) -> None:
    """The corners of a brain's box reach far out when it is turned; the brain does not, nor where the start leads."""
    image = _image(phantom)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zyx", [degrees, 20, -10], degrees=True).as_matrix()
    turned = Image(image.data, image.grid.moved_by(turn))
    spacing = conform(image, SHAPE, 3.0).grid.spacing[0]
    assert spacing > 3.0
    for start, fixed, moving in ((turn, image, turned), (np.linalg.inv(turn), turned, image)):
        if fixed is turned:  # along the world's axes, whatever the header says
            spacing = conform(turned, SHAPE, 3.0).grid.spacing[0]
        pair = conform_pair(Scan.of(fixed), Scan.of(moving), start, SHAPE, 3.0)
        assert pair.fixed.grid.spacing[0] == pytest.approx(spacing, rel=0.03)
        assert float((pair.fixed.mask != pair.moving.mask).float().mean()) < 0.02


def test_what_is_not_in_the_middle_of_its_extent_moves_the_grid_before_it_makes_it_coarser(phantom: Phantom) -> None:
    image = _image(phantom)
    data = np.pad(image.data, 12)
    x, y, z = (n // 2 for n in data.shape)
    data[:x, y - 1 : y + 2, z - 1 : z + 2] = image.data.max()  # a thin tail to one side
    long = Image(data, image.grid.padded((12, 12, 12)))
    content = find_content(long)
    corners, centre = content.corners_mm(long.grid)[:, 0], content.centre_mm(long.grid)
    length = int(np.ceil(np.ptp(corners) / 4)) + 1
    assert np.abs(corners - centre[0]).max() > 2 * (length + 2)  # around the centre it does not fit
    out = conform(long, (length, 48, 40), 4.0)
    assert out.grid.spacing[0] == 4.0
    assert np.abs(corners - out.grid.centre_mm[0]).max() <= 2 * length + 1e-6
    assert conform(long, (length, 48, 40), 4.0, centre).grid.spacing[0] > 4.0  # a centre that is given stays


def _textured(phantom: Phantom, seed: int) -> tuple[Image, Image]:
    """Two contrasts of one object, in place."""
    texture = 1 + 0.2 * ndi.gaussian_filter(np.random.default_rng(seed).normal(size=phantom.t1.shape), 1.5)
    grid = Grid(phantom.t1.shape, phantom.affine)
    return Image((phantom.t2 * texture).astype(np.float32), grid), Image(
        (phantom.t1 * texture).astype(np.float32), grid
    )


@pytest.mark.parametrize("part", [slice(12, None), slice(0, 24)])
@pytest.mark.parametrize("swapped", [False, True])
def test_good_headers_are_kept_where_coverage_differs(phantom: Phantom, part: slice, swapped: bool) -> None:
    whole, other = _textured(phantom, 3)
    data = other.data[:, :, part]
    to_whole = np.eye(4)
    to_whole[2, 3] = part.start
    cut = Image(data, Grid(data.shape, other.grid.affine @ to_whole))
    pair = (cut, whole) if swapped else (whole, cut)
    own = [conform(image, SHAPE, 5.0).grid.centre_mm for image in pair]
    assert np.linalg.norm(own[0] - own[1]) > 7
    a, b = _started(*pair, 6.0)
    assert a.grid == b.grid


@pytest.mark.parametrize("offset_mm", [(10.0, 0.0, 0.0), (-20.0, 15.0, 30.0), (0.0, 0.0, 120.0)])
def test_contents_are_centred_where_headers_are_off(phantom: Phantom, offset_mm: tuple[float, ...]) -> None:
    fixed, moving = _textured(phantom, 3)
    move = np.eye(4)
    move[:3, 3] = offset_mm
    a, b = _started(fixed, Image(moving.data, moving.grid.moved_by(move)), 6.0)
    np.testing.assert_allclose(b.grid.centre_mm - a.grid.centre_mm, offset_mm, atol=1.0)


def test_no_overlap_is_refused_and_a_little_is_not(phantom: Phantom) -> None:
    image = _image(phantom)
    size = np.array(image.grid.shape) * image.grid.spacing

    def away(share: float) -> Image:
        move = np.eye(4)
        move[:3, 3] = size * share
        return Image(image.data, image.grid.moved_by(move), "far.nii")

    with pytest.raises(InputError, match=r"far\.nii do not overlap"):
        _started(image, away(1.01), 6.0)
    _started(image, away(0.9), 6.0)


def test_z_scored_images_keep_their_contrast(phantom: Phantom) -> None:
    """Zero background, half of the brain below it."""
    brain = phantom.t1 > 0
    scored = np.where(brain, (phantom.t1 - phantom.t1[brain].mean()) / phantom.t1[brain].std(), 0).astype(np.float32)
    grid = Grid(phantom.t1.shape, phantom.affine)
    out = conform(Image(scored, grid), SHAPE, 4.0)
    plain = conform(Image(phantom.t1, grid), SHAPE, 4.0)
    assert float((out.mask * plain.mask).sum() / plain.mask.sum()) > 0.97
    both = (out.mask * plain.mask).bool()
    assert np.corrcoef(out.tensor[both], plain.tensor[both])[0, 1] > 0.99
    assert (out.tensor[out.mask == 0] == 0).all()


def test_negative_flat_background(phantom: Phantom) -> None:
    grid = Grid(phantom.t1.shape, phantom.affine)
    a = conform(Image((phantom.t1 * 2000 - 1000).astype(np.float32), grid), SHAPE, 5.0)
    b = conform(Image(phantom.t1, grid), SHAPE, 5.0)
    torch.testing.assert_close(a.tensor, b.tensor, atol=2e-3, rtol=0)


@pytest.mark.parametrize("zeroed", [0.0, 0.5])
def test_noisy_air_is_not_foreground(phantom: Phantom, rng: np.random.Generator, zeroed: float) -> None:
    """Whole-head scans have noise around the head, also where half of it is exactly zero."""
    noise = np.abs(rng.normal(0, 0.02, phantom.t1.shape)) * (rng.random(phantom.t1.shape) >= zeroed)
    # bright CSF: the threshold between air and head is then unmistakable
    image = Image((phantom.t2 + noise).astype(np.float32), Grid(phantom.t1.shape, phantom.affine))
    out = conform(image, SHAPE, 5.0)
    clean = conform(Image(phantom.t2, image.grid), SHAPE, 5.0, grid=out.grid)
    overlap = float((out.mask * clean.mask).sum() * 2 / (out.mask.sum() + clean.mask.sum()))
    assert overlap > 0.9
    assert float(out.tensor[clean.mask == 0].mean()) < 0.05


def test_outlier_voxels_do_not_darken_the_image(phantom: Phantom) -> None:
    image = _image(phantom)
    spiky = image.data.copy()
    spiky[20, 20, 20] = 1e6
    a, b = conform(image, (42, 46, 38), 4.0), conform(Image(spiky, image.grid), (42, 46, 38), 4.0)
    assert float((a.tensor - b.tensor).abs().median()) < 0.01
    assert float((a.tensor - b.tensor).abs().mean()) < 0.01


def test_binary_image(phantom: Phantom) -> None:
    out = conform(Image((phantom.labels > 0).astype(np.uint8), Grid(phantom.t1.shape, phantom.affine)), SHAPE, 5.0)
    assert float(out.tensor[out.mask > 0].min()) > 0.5
    assert float(out.tensor.max()) == 1


def test_grid_beside_the_content_is_empty(phantom: Phantom) -> None:
    out = conform(_image(phantom), grid=Grid.centred((8, 8, 8), 2.0, np.full(3, 500.0)))
    assert float(out.tensor.abs().max()) == float(out.mask.max()) == 0


def test_sparkles_alone_are_the_foreground() -> None:
    """All but a few single voxels are alike: no compact object, and no histogram to split but at the top."""
    data = np.full((20, 20, 20), 7, np.int16)
    data[4:16:4, 4:16:4, 4:16:4] = 100
    out = conform(Image(data, Grid(data.shape, np.eye(4))), (11, 11, 11), 1.0)
    assert int(out.mask.sum()) == 27
    assert float(out.tensor[out.mask > 0].min()) == 1


def test_integers_and_read_only_data(phantom: Phantom) -> None:
    data = (phantom.t1 * 255).astype(np.uint8)
    data.setflags(write=False)
    out = conform(Image(data, Grid(data.shape, phantom.affine)), SHAPE, 5.0)
    assert float(out.tensor.max()) == 1


def test_patients_fit_and_fill_the_default_grid(shared_data: Path) -> None:
    folder = shared_data / "BraTS2021_01484"
    fixed, moving = (load_image(folder / f"{c}.nii.gz") for c in ("t2", "t1"))
    pair = conform_pair(Scan.of(fixed), Scan.of(moving))
    a, b = pair.fixed, pair.moving
    assert a.tensor.shape == (1, 1, 112, 128, 96)
    assert a.grid.spacing[0] == pytest.approx(1.5, rel=0.06)
    volume = np.count_nonzero(fixed.data) * abs(np.linalg.det(fixed.grid.affine[:3, :3]))
    assert float(a.mask.sum()) * a.grid.spacing[0] ** 3 == pytest.approx(volume, rel=0.02)
    assert 0.2 < float(b.tensor[b.mask > 0].mean()) < 0.8


# shares of the grid's 96 mm: .625 twice, then so coarse that nothing is gained, and .35
@pytest.mark.parametrize(
    ("side", "voxel", "expected"), [(60, 0.5, 1.042), (60, 1.25, 1.25), (60, 2.0, 1.5), (33.6, 2.1, 0.583)]
)
def test_what_is_cut_off_and_small_is_seen_as_finely_as_its_image(side: float, voxel: float, expected: float) -> None:
    """As an animal's head whose neck is cut, or a region of a brain; much less than half of a brain is an animal's."""
    count = round(side / voxel)
    at = (np.indices((count,) * 3) + 0.5) * voxel - side / 2
    data = 2.0 + np.sin(at / 5).prod(0)
    image = Image(data.astype(np.float32), Grid(data.shape, np.diag([voxel] * 3 + [1.0])), "region")
    assert find_content(image).field_of_view.is_limited
    grid = conform(image, (64, 64, 64), 1.5).grid
    np.testing.assert_allclose(grid.spacing, expected, rtol=0.02)


@pytest.mark.parametrize("shown", [np.s_[9:10, 9:10, 9:10], np.s_[9:10], np.s_[9:10, 9:10], np.s_[9:12, 9:12, 9:12]])
def test_a_few_voxels_or_one_plane_of_them_are_refused(shown: tuple, rng: np.random.Generator) -> None:
    data = np.zeros((20, 20, 20), np.float32)
    data[shown] = rng.uniform(1, 2, data[shown].shape)
    with pytest.raises(InputError, match="speck shows too little to be aligned"):
        Scan.of(Image(data, Grid(data.shape, np.eye(4)), "speck"))
