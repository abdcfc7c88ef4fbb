"""FSL's files: against nitransforms, against numbers worked out by hand, and back again."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from grids import CASES, PLAIN, SLANTED, THICK, flipped, inner_points, inner_voxels, some_image, some_transform
from nitransforms.io.fsl import FSLDisplacementsField, FSLLinearTransform

from deformgan.errors import InputError, UsageError
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import fnirt
from deformgan.transforms.formats.flirt import scaled_voxels, world_to_fsl
from deformgan.transforms.transform import Transform, load_transform

AFFINE = some_transform().affine
cases = pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())
# as radiological files are stored: x runs to the left
LAS = Grid((5, 6, 7), np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]))
RAS = Grid((9, 6, 7), np.array([[2.0, 0, 0, -10], [0, 1.5, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]))


def _image(grid: Grid) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)


# -- coordinates ------------------------------------------------------------------------------------------------------


def test_fsl_counts_from_the_left_by_hand() -> None:
    """Voxel (1, 2, 3): 2, 3 and 9 mm; where x runs to the right it is counted from the last of nine voxels."""
    np.testing.assert_allclose(scaled_voxels(LAS) @ (1, 2, 3, 1), (2, 3, 9, 1))
    np.testing.assert_allclose(scaled_voxels(RAS) @ (1, 2, 3, 1), ((8 - 1) * 2, 3, 9, 1))
    np.testing.assert_allclose(world_to_fsl(LAS) @ (28, -4, 20, 1), (2, 3, 9, 1))


# -- FLIRT ------------------------------------------------------------------------------------------------------------


def test_a_flirt_matrix_by_hand(tmp_path: Path) -> None:
    """FLIRT moves the moving image by 4 mm of its x: where x is stored towards the left, to the left in the world."""
    (tmp_path / "shift.mat").write_text("1 0 0 4\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    las = load_transform(tmp_path / "shift.mat", fixed=LAS, moving=LAS)
    np.testing.assert_allclose(las.map_points(np.zeros((1, 3))), [[4, 0, 0]], atol=1e-12)  # read from 4 mm to the right
    # the same matrix between images stored to the right is the same in the world: FSL flips both
    ras = load_transform(tmp_path / "shift.mat", fixed=RAS, moving=RAS)
    np.testing.assert_allclose(ras.map_points(np.zeros((1, 3))), [[4, 0, 0]], atol=1e-12)
    # the last voxel of one (x = 6) and the first of the other (x = 30) lie at FSL's 0
    mixed = load_transform(tmp_path / "shift.mat", fixed=RAS, moving=LAS)
    np.testing.assert_allclose(mixed.map_points(np.array([[6.0, 0, 0]])), [[30 + 4, 0, 0]], atol=1e-12)


@cases
def test_flirt_matrices_agree_with_nitransforms(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    Transform(AFFINE).save(tmp_path / "a.mat", fixed, moving=moving, file_format="fsl")
    theirs = FSLLinearTransform.from_string((tmp_path / "a.mat").read_text())
    np.testing.assert_allclose(
        theirs.to_ras(_image(moving), _image(fixed)), AFFINE, atol=1e-4
    )  # its affines are float32
    FSLLinearTransform.from_ras(AFFINE, _image(moving), _image(fixed)).to_filename(tmp_path / "b.mat")
    ours = load_transform(tmp_path / "b.mat", fixed=fixed, moving=moving)
    points = inner_points(fixed)
    np.testing.assert_allclose(ours.map_points(points), Transform(AFFINE).map_points(points), atol=1e-3)


# -- warp fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fixed", "moving"), [(LAS, LAS), (RAS, RAS), (RAS, LAS)])
def test_a_warp_field_by_hand(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    """A shift by (1, 2, 3) mm in the world: x counts to the left in FSL, and its 0 is another voxel in each image."""
    shift = np.eye(4)
    shift[:3, 3] = 1, 2, 3
    Transform(shift).save(tmp_path / "w.nii.gz", fixed, moving=moving, file_format="fsl")
    Transform(shift).save(tmp_path / "a.nii.gz", fixed, moving=moving, file_format="fsl-absolute")
    warp = nib.load(tmp_path / "w.nii.gz")
    assert warp.shape == (*fixed.shape, 3)
    assert int(warp.header["intent_code"]) == 2006
    rightmost = {LAS: 30.0, RAS: 6.0}  # where FSL's x is 0
    expected = (rightmost[moving] - rightmost[fixed] - 1, 2, 3)
    np.testing.assert_allclose(warp.get_fdata(), np.broadcast_to(expected, warp.shape), atol=1e-4)
    # voxel (1, 2, 3) of the fixed image
    x, y, z = fixed.to_world(np.array([1, 2, 3]))
    there = (rightmost[moving] - (x + 1), y + 2 + 7, z + 3 - 11)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii.gz").get_fdata()[1, 2, 3], there, atol=1e-4)


def test_warp_fields_agree_with_nitransforms(tmp_path: Path) -> None:
    """Its reader knows one case: both images stored as FSL counts, on one grid."""
    grid = flipped(PLAIN, (0,))
    transform = some_transform()
    transform.save(tmp_path / "w.nii.gz", grid, moving=grid, file_format="fsl")
    theirs = FSLDisplacementsField.from_filename(tmp_path / "w.nii.gz")
    np.testing.assert_allclose(theirs.get_fdata(), transform.displacement(grid), atol=1e-4)
    image = nib.Nifti1Image(transform.displacement(grid), grid.affine)
    FSLDisplacementsField.to_filename(image, tmp_path / "v.nii.gz")
    ours = load_transform(tmp_path / "v.nii.gz", moving=grid, file_format="fsl")
    np.testing.assert_allclose(ours.displacement(grid), transform.displacement(grid), atol=1e-3)


@cases
@pytest.mark.parametrize("kind", ["fsl", "fsl-absolute"])
def test_warp_fields_come_back(tmp_path: Path, fixed: Grid, moving: Grid, kind: str) -> None:
    """Relative or absolute is found out, also where the images' axes run against each other."""
    transform, voxels = some_transform(), inner_voxels(fixed)
    transform.save(tmp_path / "w.nii.gz", fixed, moving=moving, file_format=kind)
    back = load_transform(tmp_path / "w.nii.gz", moving=moving)
    np.testing.assert_allclose(back.map_points(voxels), transform.map_points(voxels), atol=1e-3)
    image = some_image(moving)
    moved, expected = (one.apply(image, fixed).data for one in (back, transform))
    assert (np.abs(moved - expected) < 0.02).mean() > 0.999


@cases
def test_a_warp_field_is_sampled_as_applywarp_does(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    """FSL's own arithmetic, written out: voxel → FSL mm of the fixed image, plus warp, → voxel of the moving image."""
    transform = some_transform()
    transform.save(tmp_path / "w.nii.gz", fixed, moving=moving, file_format="fsl")
    warp = nib.load(tmp_path / "w.nii.gz")
    index = np.stack(np.meshgrid(*[np.arange(2, n - 2, 4) for n in fixed.shape], indexing="ij"), -1).reshape(-1, 3)
    position = index * nib.affines.voxel_sizes(warp.affine)
    if np.linalg.det(warp.affine) > 0:
        position[:, 0] = (fixed.shape[0] - 1) * fixed.spacing[0] - position[:, 0]
    read = (position + warp.get_fdata()[tuple(index.T)]) / moving.spacing
    if np.linalg.det(moving.affine) > 0:
        read[:, 0] = moving.shape[0] - 1 - read[:, 0]
    expected = transform.map_points(fixed.to_world(index))
    np.testing.assert_allclose(moving.to_world(read), expected, atol=1e-3)


# -- what is missing or damaged ---------------------------------------------------------------------------------------


def test_geometry_must_be_given(tmp_path: Path) -> None:
    transform = some_transform()
    for words in ({"file_format": "fsl"}, {"onto": PLAIN, "file_format": "fsl"}):
        with pytest.raises(UsageError, match="geometry of the moving image"):
            transform.save(tmp_path / "w.nii.gz", **words)
        with pytest.raises(UsageError, match=r"geometry of the (moving|fixed) image"):
            Transform(AFFINE).save(tmp_path / "a.mat", **words)
    with pytest.raises(UsageError, match="ANTs and FLIRT both use"):
        Transform(AFFINE).save(tmp_path / "a.mat", PLAIN, moving=THICK)
    with pytest.raises(UsageError, match="has a field"):
        transform.save(tmp_path / "a.mat", PLAIN, moving=THICK, file_format="fsl")
    with pytest.raises(UsageError, match=r"fsl has no \.h5"):
        transform.save(tmp_path / "a.h5", PLAIN, moving=THICK, file_format="fsl")
    assert list(tmp_path.iterdir()) == []
    Transform(AFFINE).save(tmp_path / "a.mat", PLAIN, moving=THICK, file_format="fsl")
    with pytest.raises(UsageError, match="geometry of the moving image"):
        load_transform(tmp_path / "a.mat", fixed=PLAIN)
    with pytest.raises(UsageError, match="geometry of the fixed image"):
        load_transform(tmp_path / "a.mat", moving=PLAIN)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", "not a FLIRT matrix"),
        ("1 0 0\n0 1 0\n0 0 1\n0 0 0\n", "not a FLIRT matrix"),
        ("1 0 0 0\n0 1 0 x\n0 0 1 0\n0 0 0 1\n", "not a FLIRT matrix"),
        ("1 0 0 0\n0 1 0 nan\n0 0 1 0\n0 0 0 1\n", "not finite"),
        ("1 0 0 0\n1 0 0 0\n0 0 1 0\n0 0 0 1\n", "singular"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 1 1\n", "last row"),
        ("1 " * 600000, "too long"),
    ],
)
def test_damaged_flirt_matrices(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.mat").write_text(text)
    with pytest.raises(InputError, match=says):
        load_transform(tmp_path / "a.mat", fixed=PLAIN, moving=THICK)


def test_damaged_warp_fields(tmp_path: Path) -> None:
    path = tmp_path / "w.nii.gz"
    some_transform().save(path, PLAIN, moving=SLANTED, file_format="fsl")
    data = path.read_bytes()
    for length in (5, 100, len(data) // 2, len(data) - 4):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            load_transform(path, moving=SLANTED)
    image = nib.Nifti1Image(np.full((4, 4, 4, 3), np.inf, np.float32), np.eye(4))
    image.header["intent_code"] = 2006
    image.to_filename(path)
    with pytest.raises(InputError, match="infinite"):
        load_transform(path, moving=SLANTED)


def test_what_is_no_warp_field(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4))
    for intent in fnirt.COEFFICIENT_INTENTS:
        image.header["intent_code"] = intent
        image.to_filename(tmp_path / "c.nii.gz")
        with pytest.raises(InputError, match="fnirtfileutils"):
            load_transform(tmp_path / "c.nii.gz", moving=PLAIN)
    image.header["intent_code"] = 0
    image.to_filename(tmp_path / "c.nii.gz")
    with pytest.raises(InputError, match=r"not a displacement field of ITK.*--from-format fsl"):
        load_transform(tmp_path / "c.nii.gz", moving=PLAIN)
    some_transform().save(tmp_path / "w.nii.gz", PLAIN)
    itk = load_transform(tmp_path / "w.nii.gz", file_format="fsl")  # 5-D is never FSL's
    np.testing.assert_allclose(itk.displacement(PLAIN), some_transform().displacement(PLAIN), atol=1e-4)
