"""FreeSurfer's files: .lta against nitransforms and nibabel, .mgz against nibabel and bytes written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from grids import CASES, PLAIN, SLANTED, THICK, inner_voxels, some_transform
from nitransforms.io.lta import FSLinearTransform, VolumeGeometry

from deformgan.errors import InputError, UsageError
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import lta, mgz
from deformgan.transforms.formats.freesurfer import from_grid, to_grid
from deformgan.transforms.transform import Transform, load_transform

AFFINE = some_transform().affine
TO_LPS = np.array([-1.0, -1.0, 1.0])
cases = pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())


def _image(grid: Grid) -> nib.MGHImage:
    return nib.MGHImage(np.zeros(grid.shape, np.uint8), grid.affine)


@cases
def test_geometry_is_nibabels(fixed: Grid, moving: Grid) -> None:
    header = _image(fixed).header
    sizes, directions, middle = from_grid(fixed)
    np.testing.assert_allclose(sizes, header["delta"], rtol=1e-6)
    np.testing.assert_allclose(directions.T, header["Mdc"], atol=1e-6)
    np.testing.assert_allclose(middle, header["Pxyz_c"], atol=1e-4)
    assert to_grid(np.array(fixed.shape), sizes, directions, middle, "g") == fixed


# -- .lta -------------------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("voxels", [False, True], ids=["RAS", "voxels"])
def test_lta_agrees_with_nitransforms(tmp_path: Path, fixed: Grid, moving: Grid, voxels: bool) -> None:
    lta.write_lta(tmp_path / "a.lta", AFFINE, fixed, moving, voxels=voxels)
    np.testing.assert_allclose(lta.read_lta(tmp_path / "a.lta"), AFFINE, atol=1e-9)
    theirs = FSLinearTransform.from_filename(tmp_path / "a.lta")
    np.testing.assert_allclose(theirs["src"].as_affine(), moving.affine, atol=1e-4)
    np.testing.assert_allclose(theirs["dst"].as_affine(), fixed.affine, atol=1e-4)
    points = inner_voxels(fixed)
    ras = theirs.to_ras()  # it keeps matrices as float32
    np.testing.assert_allclose(points @ ras[:3, :3].T + ras[:3, 3], Transform(AFFINE).map_points(points), atol=2e-3)


@cases
def test_we_read_the_lta_of_nitransforms(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    FSLinearTransform.from_ras(AFFINE, _image(moving), _image(fixed)).to_filename(tmp_path / "a.lta")
    np.testing.assert_allclose(load_transform(tmp_path / "a.lta").affine, AFFINE, atol=1e-9)


def test_lta_by_hand(tmp_path: Path) -> None:
    """Source voxel i is destination voxel i + 1 of a grid twice as fine: the map back, in the world."""
    moving, fixed = Grid((4, 4, 4), np.diag([2.0, 2, 2, 1])), Grid((8, 8, 8), np.diag([1.0, 1, 1, 1]))
    text = ["type = 0", "nxforms = 1", "mean = 0 0 0", "sigma = 1", "1 4 4", "1 0 0 1", "0 1 0 0", "0 0 1 0", "0 0 0 1"]
    for which, grid in (("src", moving), ("dst", fixed)):
        text += [f"{which} volume info", *str(VolumeGeometry.from_image(_image(grid))).splitlines()]
    (tmp_path / "a.lta").write_text("# made by hand\n" + "\n".join(text))
    # world x → voxel x - 1 of the source → world 2 (x - 1)
    mapped = load_transform(tmp_path / "a.lta").map_points(np.array([[5.0, 3.0, 1.0]]))
    np.testing.assert_allclose(mapped, [[8.0, 6.0, 2.0]], atol=1e-12)


def _lta(tmp_path: Path, voxels: bool = False) -> tuple[Path, str]:
    lta.write_lta(tmp_path / "a.lta", AFFINE, PLAIN, THICK, voxels=voxels)
    return tmp_path / "a.lta", (tmp_path / "a.lta").read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("type      = 0", "type      = 14", "REGISTER_DAT.*lta_convert"),
        ("type      = 0", "type      = x", "not a FreeSurfer"),
        ("nxforms   = 1", "nxforms   = 2", "2 transforms"),
        ("1 4 4", "1 3 3", "not a FreeSurfer"),
        ("valid = 1", "valid = 0", "does not say of which src volume"),
        ("src volume info", "volume info", "does not say of which src volume"),
        ("voxelsize = ", "voxelsize = 1 ", "damaged"),
        ("voxelsize = ", "voxelsize = nan ", "damaged"),
        ("volume = 40", "volume = -4", "damaged"),
        ("xras   = ", "xrax   = ", "damaged"),
    ],
)
def test_damaged_ltas(tmp_path: Path, old: str, new: str, says: str) -> None:
    path, text = _lta(tmp_path, voxels=True)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        load_transform(path)


def test_truncated_ltas(tmp_path: Path) -> None:
    path, text = _lta(tmp_path)
    lines = text.splitlines()
    for count in range(9):
        path.write_text("\n".join(lines[:count]))
        with pytest.raises(InputError, match="not a FreeSurfer"):
            load_transform(path)
    path.write_text(text.replace(lines[5], "0 0 0 0"))
    with pytest.raises(InputError, match="singular"):
        load_transform(path)


# -- .mgz -------------------------------------------------------------------------------------------------------------


@cases
def test_warp_is_a_volume_of_ras_displacements(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    """nibabel reads the volume once the version no longer says "warp"."""
    transform = some_transform()
    transform.save(tmp_path / "w.mgh", fixed, moving=moving)
    data = bytearray((tmp_path / "w.mgh").read_bytes())
    assert struct.unpack(">i", data[:4]) == ((3 << 8) | 1,)
    data[:4] = struct.pack(">i", 1)
    (tmp_path / "v.mgh").write_bytes(data)
    volume = nib.load(tmp_path / "v.mgh")
    np.testing.assert_allclose(volume.affine, fixed.affine, atol=1e-4)
    np.testing.assert_allclose(volume.get_fdata(), transform.displacement(fixed), atol=1e-5)


@cases
@pytest.mark.parametrize("meaning", range(4), ids=["abs-crs", "disp-crs", "abs-ras", "disp-ras"])
def test_every_meaning_of_a_warp(tmp_path: Path, fixed: Grid, moving: Grid, meaning: int) -> None:
    """The four of FreeSurfer, each worked out here as its source defines it."""
    transform = some_transform()
    transform.save(tmp_path / "w.mgz", fixed, moving=moving)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in fixed.shape], indexing="ij"), -1)
    world = fixed.to_world(voxels)
    there = world + transform.displacement(fixed)
    values = [moving.to_index(there), moving.to_index(there) - voxels, there, there - world][meaning]
    path = _rewritten(tmp_path / "w.mgz", tmp_path / "v.mgz", values, meaning)
    read, grid = mgz.read_warp(path)
    assert grid == fixed
    np.testing.assert_allclose(read, transform.displacement(fixed), atol=1e-3)
    points = inner_voxels(fixed)
    np.testing.assert_allclose(load_transform(path).map_points(points), transform.map_points(points), atol=1e-3)


def _rewritten(source: Path, target: Path, values: np.ndarray, meaning: int) -> Path:
    """The file with other numbers, and another word on what they mean."""
    import gzip

    data = bytearray(gzip.decompress(source.read_bytes()))
    data[284 : 284 + 4 * values.size] = values.astype(">f4").tobytes(order="F")
    assert data[-24:-12] == struct.pack(">iq", 13, 12)
    data[-12:-8] = struct.pack(">i", meaning)
    target.write_bytes(gzip.compress(bytes(data), 1))
    return target


def test_tags_before_ours_are_stepped_over(tmp_path: Path) -> None:
    some_transform().save(tmp_path / "w.mgh", PLAIN, moving=THICK)
    data = (tmp_path / "w.mgh").read_bytes()
    place = 284 + 12 * np.prod(PLAIN.shape) + 20
    before = (
        struct.pack(">iq", 41, 7) + b"UNKNOWN" + struct.pack(">ii", 30, 5) + b"12345" + struct.pack(">iqf", 43, 4, 3)
    )
    (tmp_path / "v.mgh").write_bytes(data[:place] + before + data[place:])
    for read, expected in zip(mgz.read_warp(tmp_path / "v.mgh"), mgz.read_warp(tmp_path / "w.mgh"), strict=True):
        assert np.all(read == expected)


def test_nifti_with_intent_1006_is_in_ras_as_for_itk(tmp_path: Path) -> None:
    """FreeSurfer writes its warps so, and ITK turns their vectors on reading."""
    transform = some_transform()
    image = nib.Nifti1Image(transform.displacement(PLAIN)[..., None, :], PLAIN.affine)
    image.header["intent_code"] = 1006
    image.to_filename(tmp_path / "w.nii.gz")
    voxels = inner_voxels(PLAIN)
    ours = load_transform(tmp_path / "w.nii.gz").map_points(voxels)
    np.testing.assert_allclose(ours, transform.map_points(voxels), atol=1e-3)
    judge = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "w.nii.gz"), sitk.sitkVectorFloat64))
    theirs = np.array([judge.TransformPoint(p) for p in (voxels * TO_LPS).tolist()]) * TO_LPS
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def _bytes(at: int, new: bytes) -> object:
    return lambda data: data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_bytes(0, struct.pack(">i", 1)), "an image, not a warp"),
        (_bytes(0, b"abcd"), "not a FreeSurfer volume"),
        (_bytes(4, struct.pack(">i", 0)), "claims"),
        (_bytes(4, struct.pack(">3i", 2000, 2000, 2000)), "claims"),
        (_bytes(16, struct.pack(">i", 4)), "an image, not a warp"),
        (_bytes(20, struct.pack(">i", 0)), "an image, not a warp"),
        (_bytes(28, struct.pack(">h", 0)), "does not say where"),
        (_bytes(30, struct.pack(">f", np.nan)), "damaged"),
        (_bytes(30, struct.pack(">f", 0)), "singular"),
        (_bytes(284, struct.pack(">f", np.inf)), "infinite"),
        (_bytes(-12, struct.pack(">i", 7)), "how its numbers are meant"),
        (lambda data: data[:-24], "how its numbers are meant"),
        (lambda data: data[:100], "truncated"),
        (lambda data: data[:5000], "truncated"),
        (lambda data: data[:-600], "truncated|how its numbers are meant"),
    ],
)
def test_damaged_warps(tmp_path: Path, damage: object, says: str) -> None:
    some_transform().save(tmp_path / "w.mgh", PLAIN, moving=THICK)
    data = (tmp_path / "w.mgh").read_bytes()
    end = len(data)
    new = damage(data)
    (tmp_path / "v.mgh").write_bytes(new if len(new) <= end else new[:end])
    with pytest.raises(InputError, match=says):
        load_transform(tmp_path / "v.mgh")


def test_what_freesurfer_files_cannot_do(tmp_path: Path) -> None:
    transform = some_transform()
    with pytest.raises(UsageError, match="geometry of the moving image"):
        transform.save(tmp_path / "w.mgz", PLAIN)
    with pytest.raises(UsageError, match="has a field"):
        transform.save(tmp_path / "w.lta", PLAIN, moving=SLANTED)
    with pytest.raises(UsageError, match=r"\.m3z is not written — write warp\.mgz"):
        transform.save(tmp_path / "w.m3z", PLAIN, moving=SLANTED)
    with pytest.raises(UsageError, match=r"freesurfer has no \.nii\.gz transforms — use \.lta, \.mgz"):
        transform.save(tmp_path / "w.nii.gz", PLAIN, moving=SLANTED, file_format="freesurfer")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "w.m3z").write_bytes(b"")
    with pytest.raises(InputError, match="mri_warp_convert --inm3z"):
        load_transform(tmp_path / "w.m3z")
