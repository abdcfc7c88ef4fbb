"""The files that nibabel and nitransforms carry in their packages for tests of their own."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from grids import inner_points

from deformgan.io.image import load_exact, load_image
from deformgan.io.time_series import is_series, load_series
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import load_transform
from peers.outcome import TO_LPS, Case, same_image, same_points

IMAGES = "images that it carries"
TRANSFORMS = "transforms that it carries"
_NOT_IMAGES = (".py", ".pyc", ".rst", ".m", ".txt", ".bin", ".bin.gz", ".gitignore")
_SPACE = Grid.centred((40, 40, 40), 4.0, np.array([0.0, 0.0, 0.0]))


def cases() -> Iterator[Case]:
    """A case for each file; those that are no images of any kind, such as programs, are not asked."""
    for place in ("tests", "nicom/tests"):
        folder = _package("nibabel") / place / "data"
        for path in sorted(one for one in folder.iterdir() if one.is_file() and not one.name.endswith(_NOT_IMAGES)):
            yield Case("nibabel", IMAGES, path.name, partial(_image, path))
    folder = _package("nitransforms") / "tests" / "data"
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        yield Case("nitransforms", TRANSFORMS, path.name, partial(_transform, path))


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _image(path: Path, folder: Path) -> None:
    if b"DICM" in _start(path):
        return _dicom(path, folder)
    there = folder / path.name
    for one in _with_companions(path):
        (folder / one.name).write_bytes(one.read_bytes())
    theirs = nib.load(there) if _known(there) else None
    if theirs is not None and theirs.ndim == 4 and path.name.endswith((".nii", ".nii.gz")):
        return _series(there, theirs)
    if theirs is not None and theirs.ndim == 4:
        for number in range(theirs.shape[3]):
            ours = load_image(there, volume=number)
            same_image(ours, np.asanyarray(theirs.dataobj)[..., number], theirs.affine)
        return None
    ours = load_exact(there)
    assert theirs is not None, "read, though nibabel does not read it"
    data = np.asanyarray(theirs.dataobj)
    # SPM writes NaN where it knows nothing; here that is background
    return same_image(ours, np.where(np.isnan(data), ours.data.min(), data), theirs.affine)


def _start(path: Path) -> bytes:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.endswith(".dcm.gz") else data)[128:132]


def _with_companions(path: Path) -> list[Path]:
    """A file and what lies beside it for it: headers and voxels in two files."""
    stem = path.name.split(".")[0]
    return [one for one in path.parent.iterdir() if one.is_file() and one.name.split(".")[0] == stem]


def _known(path: Path) -> bool:
    try:
        nib.load(path)
    except Exception:  # nibabel raises whatever a damaged file makes it stumble over
        return False
    return True


def _series(path: Path, theirs: nib.spatialimages.SpatialImage) -> None:
    assert is_series(path)
    ours = list(load_series(path))
    assert len(ours) == theirs.shape[3]
    for number, volume in enumerate(ours):
        same_image(volume, np.asanyarray(theirs.dataobj)[..., number], theirs.affine)


def _dicom(path: Path, folder: Path) -> None:
    """A series of one file, in a folder of its own: SimpleITK is the judge."""
    import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

    data = path.read_bytes()
    target = folder / path.name.removesuffix(".gz")
    target.write_bytes(gzip.decompress(data) if path.name.endswith(".gz") else data)
    ours = load_exact(folder)
    theirs = sitk.ReadImage(str(target))
    same_image(ours, sitk.GetArrayFromImage(theirs).T, ours.grid.affine)
    for index in ((0, 0, 0), tuple(n - 1 for n in ours.grid.shape)):
        same_points(ours.grid.to_world(np.array(index)), np.array(theirs.TransformIndexToPhysicalPoint(index)) * TO_LPS)


def _transform(path: Path, folder: Path) -> None:
    from nitransforms import io

    there = folder / path.name
    there.write_bytes(path.read_bytes())
    points = inner_points(_SPACE)
    if "warp_fsl" in path.name:
        return _fsl_warp(there)
    fixed, moving = _grids_of_flirt(path) if path.name.endswith(".fsl") else (None, None)
    ours = load_transform(there, fixed=fixed, moving=moving)
    if path.name.endswith(".lta"):
        matrix = _lta_to_ras(path)
    elif path.name.endswith(".fsl"):
        matrix = io.fsl.FSLLinearTransform.from_filename(path).to_ras(_nibabel(moving), _nibabel(fixed))
    elif path.name.endswith(".h5"):
        chain = io.itk.ITKCompositeH5.from_filename(path)
        assert not isinstance(chain[0], nib.Nifti1Image)
        matrix = np.linalg.multi_dot([np.eye(4), *[one.to_ras() for one in chain][::-1], np.eye(4)])
    else:
        matrix = io.itk.ITKLinearTransform.from_filename(path).to_ras()
    return same_points(ours.map_points(points), points @ matrix[:3, :3].T + matrix[:3, 3])


def _lta_to_ras(path: Path) -> np.ndarray:
    from nitransforms.io.lta import FSLinearTransform

    return FSLinearTransform.from_filename(path).to_ras()


def _grids_of_flirt(path: Path) -> tuple[Grid, Grid]:
    """The two images that a matrix of FLIRT's belongs to, as the .lta of the same map beside it describes them."""
    from nitransforms.io.lta import FSLinearTransform

    there = next(one for one in (path.with_suffix(".lta"), path.with_suffix(".fs.lta")) if one.exists())
    lta = FSLinearTransform.from_filename(there)
    return _grid(lta["dst"]), _grid(lta["src"])


def _grid(geometry: object) -> Grid:
    d, h, w = (int(n) for n in geometry["volume"])
    return Grid((d, h, w), np.asarray(geometry.as_affine(), np.float64))


def _nibabel(grid: Grid) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)


def _fsl_warp(path: Path) -> None:
    """A whole field of 18 MB: nitransforms reads it on the grid of the field itself."""
    from nitransforms.io.fsl import FSLDisplacementsField

    theirs = FSLDisplacementsField.from_filename(path)
    shape = theirs.shape[:3]
    grid = Grid((shape[0], shape[1], shape[2]), theirs.affine)
    ours = load_transform(path, moving=grid, file_format="fsl-relative")
    index = np.random.default_rng(2).integers(0, shape, (500, 3))
    world = grid.to_world(index)
    disp = np.asarray(theirs.dataobj).reshape((*shape, 3))[tuple(index.T)]
    same_points(ours.map_points(world), world + disp)
