"""Images that the other tools write and we read, to the last bit, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from grids import oblique

from deformgan.io.image import Image, load_exact
from peers.outcome import TO_LPS, Case, same_image

THEY_WRITE, THEY_READ = "images that it writes, we read", "images that we write, it reads"
GRID = oblique(14, (0.9, 1.25, 3.5), (7, 6, 5))
_TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_MGH_TYPES = ("uint8", "int16", "int32", "float32")
_ITK_ENDINGS = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".vtk", ".mrc", ".tif")


def cases() -> Iterator[Case]:
    """Every type of number in every kind of file that a tool writes."""
    for kind, ending, types in _NIBABEL:
        for dtype in types:
            name = f"{kind}, {dtype}, in {ending}"
            yield Case("nibabel", THEY_WRITE, name, partial(_nibabel_writes, kind, f"a{ending}", dtype))
    for ending in _ITK_ENDINGS:
        for dtype in _TYPES if ending in (".nii.gz", ".nrrd", ".mha") else ("int16", "float32"):
            yield Case("SimpleITK", THEY_WRITE, f"{dtype} in {ending}", partial(_simpleitk_writes, f"a{ending}", dtype))
    for peer, module, endings, write in _WRITERS:
        for ending in endings if find_spec(module) is not None else ():
            for dtype in ("uint8", "float32"):
                yield Case(peer, THEY_WRITE, f"{dtype} in {ending}", partial(_they_write, write, f"a{ending}", dtype))
    for peer, (module, read) in _READERS.items():
        for ending in (".nii", ".nii.gz") if find_spec(module) is not None else ():
            # ANTs itself keeps whole numbers in 32-bit floats
            for dtype in ("uint8", "int16", "uint16", "float32", *(() if peer == "antspyx" else ("int32",))):
                yield Case(peer, THEY_READ, f"{dtype} in {ending}", partial(_they_read, read, f"a{ending}", dtype))


def _values(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(4)
    if dtype.startswith("float"):
        return rng.normal(0, 300, GRID.shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, GRID.shape, dtype=dtype, endpoint=True)


def _nibabel_writes(kind: str, name: str, dtype: str, folder: Path) -> None:
    big = kind.endswith("big-endian")
    classes = {"NIfTI-1": nib.Nifti1Image, "NIfTI-2": nib.Nifti2Image, "pair": nib.Nifti1Pair, "MGH": nib.MGHImage}
    others = {"ANALYZE": nib.AnalyzeImage, "SPM99": nib.Spm99AnalyzeImage, "SPM2": nib.Spm2AnalyzeImage}
    make = {**classes, **others}[kind.split(",")[0]]
    data = _values("int16" if "scaled" in kind else dtype)
    image = make(data, GRID.affine, make.header_class(endianness=">") if big else None)
    if big:
        image.set_data_dtype(dtype)  # else it keeps that of the header
    if "scaled" in kind:
        image = make(data * 0.37 + 12.5, GRID.affine)
        image.set_data_dtype(dtype)
    image.to_filename(folder / name)
    theirs = nib.load(folder / name)
    same_image(load_exact(folder / name), np.asanyarray(theirs.dataobj), theirs.affine)
    if "scaled" not in kind:
        assert np.array_equal(load_exact(folder / name).data, data)


def _simpleitk() -> Any:
    import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

    return sitk


def _of_itk(image: Any) -> tuple[np.ndarray, np.ndarray]:
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3] = TO_LPS[:, None] * direction * np.array(image.GetSpacing())
    affine[:3, 3] = TO_LPS * np.array(image.GetOrigin())
    return _simpleitk().GetArrayFromImage(image).T, affine


def _simpleitk_writes(name: str, dtype: str, folder: Path) -> None:
    image = _simpleitk().GetImageFromArray(_values(dtype).T)
    lps = TO_LPS[:, None] * GRID.affine[:3, :3]
    image.SetSpacing(GRID.spacing.tolist())
    image.SetDirection((lps / GRID.spacing).ravel().tolist())
    image.SetOrigin((TO_LPS * GRID.affine[:3, 3]).tolist())
    _simpleitk().WriteImage(image, str(folder / name))
    ours = load_exact(folder / name)
    same_image(ours, *_of_itk(_simpleitk().ReadImage(str(folder / name))))
    same_image(ours, _values(dtype), GRID.affine)


def _they_write(write: Callable[[np.ndarray, Path], None], name: str, dtype: str, folder: Path) -> None:
    write(_values(dtype), folder / name)
    same_image(load_exact(folder / name), _values(dtype), GRID.affine)


def _ants_writes(data: np.ndarray, path: Path) -> None:
    import ants

    lps = TO_LPS[:, None] * GRID.affine[:3, :3] / GRID.spacing
    origin = (TO_LPS * GRID.affine[:3, 3]).tolist()
    ants.image_write(ants.from_numpy(data, origin=origin, spacing=GRID.spacing.tolist(), direction=lps), str(path))


def _surfa_writes(data: np.ndarray, path: Path) -> None:
    import surfa

    surfa.Volume(data, geometry=surfa.ImageGeometry(GRID.shape, vox2world=GRID.affine)).save(str(path))


def _fslpy_writes(data: np.ndarray, path: Path) -> None:
    from fsl.data.image import Image as FslImage

    FslImage(data, xform=GRID.affine).save(str(path))


def _they_read(read: Callable[[Path], tuple[np.ndarray, np.ndarray]], name: str, dtype: str, folder: Path) -> None:
    ours = Image(np.asfortranarray(_values(dtype)), GRID)
    ours.save(folder / name)
    same_image(ours, *read(folder / name))


def _nibabel_reads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    theirs = nib.load(path)
    return np.asanyarray(theirs.dataobj), theirs.affine


def _ants_reads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import ants

    image = ants.image_read(str(path), pixeltype=None)
    affine = np.eye(4)
    affine[:3, :3] = TO_LPS[:, None] * image.direction * np.array(image.spacing)
    affine[:3, 3] = TO_LPS * np.array(image.origin)
    return image.numpy(), affine


def _surfa_reads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import surfa

    image = surfa.load_volume(str(path))
    return np.asarray(image.data), image.geom.vox2world.matrix


def _fslpy_reads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from fsl.data.image import Image as FslImage

    image = FslImage(str(path))
    return np.asarray(image[:]), image.voxToWorldMat


_NIBABEL = (
    *(("NIfTI-1", ending, _TYPES) for ending in (".nii", ".nii.gz")),
    ("NIfTI-1, big-endian", ".nii", _TYPES),
    ("NIfTI-1, scaled", ".nii.gz", ("uint8", "int16")),
    ("NIfTI-2", ".nii.gz", _TYPES),
    ("pair", ".hdr", _TYPES),
    ("ANALYZE", ".hdr", ("uint8", "int16", "float32")),
    ("SPM99", ".hdr", ("uint8", "int16", "float32")),
    ("SPM99, scaled", ".hdr", ("int16",)),
    ("SPM2", ".hdr", ("uint8", "int16", "float32")),
    *(("MGH", ending, _MGH_TYPES) for ending in (".mgz", ".mgh")),
)
_WRITERS = (
    ("antspyx", "ants", (".nii", ".nii.gz", ".nrrd", ".mha"), _ants_writes),
    ("surfa", "surfa", (".nii.gz", ".mgz", ".mgh"), _surfa_writes),
    ("fslpy", "fsl", (".nii.gz", ".nii"), _fslpy_writes),
)
_READERS = {
    "nibabel": ("nibabel", _nibabel_reads),
    "SimpleITK": ("SimpleITK", lambda path: _of_itk(_simpleitk().ReadImage(str(path)))),
    "antspyx": ("ants", _ants_reads),
    "surfa": ("surfa", _surfa_reads),
    "fslpy": ("fsl", _fslpy_reads),
}
