"""Which format a transform file is in, by its ending and contents, and the way in and out of it.

Every reader gives parts in the order in which a fixed position meets them: 4×4 matrices and displacement fields with
their grids, fixed to moving, world mm (RAS+).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import read_nifti_header
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import flirt, fnirt, itk, itk_h5, itk_mat, lta, mgz
from deformgan.transforms.formats.checks import linear_plus_ramp, read_bytes
from deformgan.transforms.formats.itk_h5 import Part

FORMATS = ("itk", "fsl", "fsl-relative", "fsl-absolute", "freesurfer")
_M3Z = "convert it first: mri_warp_convert --inm3z {0} --outmgzwarp warp.mgz"
_GEOMETRY = "--{0} IMAGE in convert, {0}= in Python"


_FNIRT = ("fnirt", "fnirt-relative", "fnirt-absolute")
_FIELDS = {
    None: "itk-field",
    "itk": "itk-field",
    "fsl": "fnirt-relative",
    "fsl-relative": "fnirt-relative",
    "fsl-absolute": "fnirt-absolute",
}
_TEXTS = {None: "itk-text", "itk": "itk-text"}
_WARPS = {None: "mgz", "freesurfer": "mgz"}
_WRITTEN: dict[str, dict[str | None, str]] = {
    ".nii.gz": _FIELDS,
    ".nii": _FIELDS,
    ".h5": {None: "itk-h5", "itk": "itk-h5"},
    ".txt": _TEXTS,
    ".tfm": _TEXTS,
    ".mat": {"itk": "itk-mat", "fsl": "flirt"},
    ".lta": {None: "lta", "freesurfer": "lta"},
    ".mgz": _WARPS,
    ".mgh": _WARPS,
}


class Map(Protocol):
    """What is written: ``x ↦ affine · (x + disp(x))``, a `deformgan.transforms.transform.Transform`."""

    @property
    def affine(self) -> np.ndarray:
        """4×4 ``fixed_to_moving``; the whole map where there is no field."""
        ...

    @property
    def disp_mm(self) -> np.ndarray | None:
        """None where there is no field."""
        ...

    @property
    def grid(self) -> Grid | None:
        """The grid that a field gets if none is named."""
        ...

    @property
    def parts(self) -> list[Part]:
        """Every matrix and field, in the order in which a fixed position meets them."""
        ...

    def displacement(self, onto: Grid) -> np.ndarray:
        """The complete map minus identity, (D, H, W, 3) world mm."""
        ...


@dataclass(frozen=True)
class _Geometry:
    """The grids of the two images, for the formats that cannot do without."""

    path: Path
    fixed: Grid | None
    moving: Grid | None

    def need(self, role: str) -> Grid:
        grid = getattr(self, role)
        if grid is None:
            message = f"{self.path} needs the geometry of the {role} image, which its format does not hold"
            raise UsageError(message, f"name that image: {_GEOMETRY.format(role)}")
        return grid


# -- reading ---------------------------------------------------------------------------------------------------------


def read(
    path: str | Path, *, file_format: str | None = None, fixed: Grid | None = None, moving: Grid | None = None
) -> list[Part]:
    """Read a transform of any format.

    Args:
        file_format: One of `FORMATS` where ending and contents leave a choice.
        fixed, moving: The grids of the images, for FSL.

    Raises:
        UsageError: a geometry or h5py is missing, or an unknown ``file_format``.
        InputError: the file is missing, damaged or of no known format.
    """
    kind = detect(path, file_format)
    return _READERS[kind](path, _Geometry(Path(path), fixed, moving))


def needs(path: str | Path, file_format: str | None = None) -> frozenset[str]:
    """Whose geometry reading a file takes: of ``fixed`` and ``moving`` none, one or both.

    Raises:
        InputError: the file is missing or of no known format.
    """
    roles = {"flirt": ("fixed", "moving"), **dict.fromkeys(_FNIRT, ("moving",))}
    return frozenset(roles.get(detect(path, file_format), ()))


def detect(path: str | Path, file_format: str | None = None) -> str:
    """The name of a file's format, a key of the readers' table.

    Raises:
        UsageError: unknown ``file_format``.
        InputError: the file is missing or of no known format.
    """
    _check_format(file_format)
    name = Path(path).name.lower()
    if name.endswith((".nii.gz", ".nii")):
        return _detect_nifti(path, file_format)
    if name.endswith((".mat", ".txt", ".tfm")):
        return _detect_affine(path)
    endings = {".h5": "itk-h5", ".hdf5": "itk-h5", ".lta": "lta", ".mgz": "mgz", ".mgh": "mgz"}
    for ending, kind in endings.items():
        if name.endswith(ending):
            return kind
    if name.endswith(".m3z"):
        raise InputError(f"{path} is a FreeSurfer .m3z morph, which is not read", _M3Z.format(path))
    raise InputError(f"{path} is no transform file by its ending", f"known endings: {', '.join(_WRITTEN)}")


def _detect_affine(path: str | Path) -> str:
    start = read_bytes(path, "an affine transform", "give an affine of ITK, ANTs or FLIRT").lstrip()
    if b"\0" in start[:128]:
        return "itk-mat"
    # a matrix of FLIRT's starts with a number
    return "flirt" if start[:1].isdigit() or start[:1] in (b"-", b"+", b".") else "itk-text"


def _detect_nifti(path: str | Path, file_format: str | None) -> str:
    header = read_nifti_header(path)
    shape, intent = header.get_data_shape(), int(header["intent_code"])
    if intent in fnirt.COEFFICIENT_INTENTS:
        raise fnirt.coefficients(path)
    if len(shape) == 4 and shape[3] == 3:
        if file_format in ("fsl-relative", "fsl-absolute"):
            return file_format.replace("fsl", "fnirt")
        if file_format == "fsl" or (file_format is None and intent == fnirt.FIELD_INTENT):
            return "fnirt"
        hint = "if it is a warp field of FSL, say so: --from-format fsl in convert, file_format= in Python"
        raise InputError(f"{path} is not a displacement field of ITK: its shape is {tuple(shape)}", hint)
    return "itk-field"


_READERS: dict[str, Callable[[str | Path, _Geometry], list[Part]]] = {
    "itk-field": lambda path, _: [itk.read_displacement(path)],
    "itk-text": lambda path, _: [itk.read_affine(path)],
    "itk-mat": lambda path, _: [itk_mat.read_mat(path)],
    "itk-h5": lambda path, _: itk_h5.read_h5(path),
    "flirt": lambda path, of: [flirt.read_flirt(path, of.need("fixed"), of.need("moving"))],
    "fnirt": lambda path, of: [fnirt.read_warp(path, of.need("moving"))],
    "fnirt-relative": lambda path, of: [fnirt.read_warp(path, of.need("moving"), absolute=False)],
    "fnirt-absolute": lambda path, of: [fnirt.read_warp(path, of.need("moving"), absolute=True)],
    "lta": lambda path, _: [lta.read_lta(path)],
    "mgz": lambda path, _: [mgz.read_warp(path)],
}


# -- writing ---------------------------------------------------------------------------------------------------------


def write(
    path: str | Path,
    transform: Map,
    *,
    file_format: str | None = None,
    onto: Grid | None = None,
    moving: Grid | None = None,
) -> None:
    """Write a map; the ending of ``path`` says in which format.

    Args:
        file_format: One of `FORMATS` where the ending leaves a choice.
        onto: The fixed image's grid, on which fields are written; default for ITK: the field's own.
        moving: The moving image's grid, for FSL and FreeSurfer.

    Raises:
        UsageError: a geometry or h5py is missing, a field into a format for affines, an unknown ending or format.
        InputError: the folder cannot be written to.
    """
    kind = target(path, file_format)
    # FSL and FreeSurfer take a field for one on the voxels of the image, which the map's own grid need not be
    own = transform.grid if kind in ("itk-field", "itk-h5") else None
    of = _Geometry(Path(path), onto or own, moving)
    if kind in _AFFINE_WRITERS:
        if transform.disp_mm is not None:
            hint = "use .nii.gz, .h5 or .mgz, or write its affine part alone: --affine-part, nearest_affine()"
            raise UsageError(f"cannot write {path}: this transform has a field", hint)
        _AFFINE_WRITERS[kind](path, transform.affine, of)
    elif kind == "itk-h5":
        itk_h5.write_h5(path, _composite(transform, onto))
    else:
        if kind != "itk-field":
            of.need("moving")
            of.need("fixed")
        if of.fixed is None:
            hint = "name the fixed image (onto= in Python, --fixed in convert), or use .txt"
            raise UsageError(f"cannot write {path}: an affine has no grid of its own", hint)
        _FIELD_WRITERS[kind](path, transform.displacement(of.fixed), of.fixed, of)


def target(path: str | Path, file_format: str | None = None) -> str:
    """The name of the format that a new file gets.

    Raises:
        UsageError: an ending that is unknown, does not go with ``file_format`` or leaves a choice.
    """
    _check_format(file_format)
    name = Path(path).name.lower()
    ending = next((one for one in (*_WRITTEN, ".m3z") if name.endswith(one)), None)
    if ending is None:
        raise UsageError(f"cannot write {path}: unknown ending", f"use one of {', '.join(_WRITTEN)}")
    if ending == ".m3z":
        hint = "write warp.mgz, which FreeSurfer 8 takes in its place"
        raise UsageError(f"cannot write {path}: .m3z is not written", hint)
    if ending == ".mat" and file_format is None:
        if not name.endswith("genericaffine.mat"):
            raise UsageError(
                f"cannot write {path}: ANTs and FLIRT both use .mat",
                "say which: --to-format itk or --to-format fsl (file_format= in Python)",
            )
        file_format = "itk"
    kinds = _WRITTEN[ending]
    if file_format not in kinds:
        others = [one for one, formats in _WRITTEN.items() if file_format in formats]
        raise UsageError(f"cannot write {path}: {file_format} has no {ending} transforms", f"use {', '.join(others)}")
    return kinds[file_format]


def _composite(transform: Map, onto: Grid | None) -> list[Part]:
    parts = transform.parts
    fields = [part for part in parts if not isinstance(part, np.ndarray)]
    if onto is None or not fields or (len(fields) == 1 and onto == fields[0][1]):
        return parts
    # the field alone, elsewhere: x + r(x) = A⁻¹(x + d(x))
    back = np.linalg.inv(transform.affine)
    ramp = (back - np.eye(4)) @ onto.affine
    return [(linear_plus_ramp(transform.displacement(onto), back[:3, :3], ramp, onto), onto), transform.affine]


def _check_format(file_format: str | None) -> None:
    if file_format is not None and file_format not in FORMATS:
        raise UsageError(f"unknown format {file_format!r}", f"use one of {', '.join(FORMATS)}")


_AFFINE_WRITERS: dict[str, Callable[[str | Path, np.ndarray, _Geometry], None]] = {
    "itk-text": lambda path, matrix, _: itk.write_affine(path, matrix),
    "itk-mat": lambda path, matrix, _: itk_mat.write_mat(path, matrix),
    "flirt": lambda path, matrix, of: flirt.write_flirt(path, matrix, of.need("fixed"), of.need("moving")),
    "lta": lambda path, matrix, of: lta.write_lta(path, matrix, of.need("fixed"), of.need("moving")),
}
_FIELD_WRITERS: dict[str, Callable[[str | Path, np.ndarray, Grid, _Geometry], None]] = {
    "itk-field": lambda path, disp, grid, _: itk.write_displacement(path, disp, grid),
    "fnirt-relative": lambda path, disp, grid, of: fnirt.write_warp(path, disp, grid, of.need("moving")),
    "fnirt-absolute": lambda path, disp, grid, of: fnirt.write_warp(path, disp, grid, of.need("moving"), absolute=True),
    "mgz": lambda path, disp, grid, of: mgz.write_warp(path, disp, grid, of.need("moving")),
}
