"""Which format a transform file is in, by its ending and contents, and the way in and out of it."""

from __future__ import annotations

from pathlib import Path

from deformgan.errors import InputError, UsageError
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import flirt, fnirt, itk, itk_h5, itk_mat, lta, mgz
from deformgan.transforms.formats.base import Contents, Format, Geometry, Map, Part

# where endings leave a choice, the first that claims a file, or may be written without being asked for, is taken
REGISTRY: tuple[Format, ...] = (
    itk.FIELD,
    *fnirt.FORMATS,
    itk_h5.FORMAT,
    itk_mat.FORMAT,
    flirt.FORMAT,
    itk.TEXT,
    lta.FORMAT,
    mgz.FORMAT,
)
FORMATS = tuple(dict.fromkeys(asked for one in REGISTRY for asked in one.asked_as))
_ENDINGS = tuple(dict.fromkeys(ending for one in REGISTRY for ending in one.writes))
_WITH_SIMPLEITK = "make a file of ITK of it: python -c \"import SimpleITK as sitk; sitk.{1}(sitk.{0}, '{2}')\""
_AFNI = (
    'make a file of ITK of it: python -c "from nitransforms import linear; '
    "linear.load({0!r}, fmt='afni', reference='FIXED.nii.gz', moving='MOVING.nii.gz')"
    ".to_filename('affine.tfm', fmt='itk')\""
)
_M3Z = "convert it first: mri_warp_convert --inm3z {0} --outmgzwarp warp.mgz"
_OTHERS = (
    ((".nrrd", ".nhdr", ".mha", ".mhd"), _WITH_SIMPLEITK.format("ReadImage({0!r})", "WriteImage", "warp.nii.gz")),
    ((".xfm",), _WITH_SIMPLEITK.format("ReadTransform({0!r})", "WriteTransform", "affine.tfm")),
    ((".afni", ".1d", ".afni-array"), _AFNI),
    ((".x5",), "write it as ITK's with the tool that made it: .tfm, or a 5-D .nii.gz field"),
)
_ANTS_AFFINE = "genericaffine.mat"  # how ANTs calls its own, which says whose a .mat is


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
    return detect(path, file_format).read(path, Geometry(Path(path), fixed, moving))


def _other(path: str | Path) -> str:
    """The next thing to try with a file of an ending that is not read."""
    name = Path(path).name.lower()
    known = f"known endings: {', '.join(_ENDINGS)}"
    return next((say.format(str(path)) for endings, say in _OTHERS if name.endswith(endings)), known)


def needs(path: str | Path, file_format: str | None = None) -> frozenset[str]:
    """Whose geometry reading a file takes: of ``fixed`` and ``moving`` none, one or both.

    Raises:
        InputError: the file is missing or of no known format.
    """
    return frozenset(detect(path, file_format).needs)


def detect(path: str | Path, file_format: str | None = None) -> Format:
    """A file's format.

    Raises:
        UsageError: unknown ``file_format``.
        InputError: the file is missing or of no known format.
    """
    _check_format(file_format)
    name = Path(path).name.lower()
    if name.endswith(".m3z"):
        raise InputError(f"{path} is a FreeSurfer .m3z morph, which is not read", _M3Z.format(path))
    possible = [one for one in REGISTRY if name.endswith(one.reads or "/")]
    if len(possible) == 1:
        return possible[0]
    found = Contents(path, file_format)
    for one in possible:
        if one.claims(found):
            return one
    raise InputError(f"{path} is no transform file by its ending", _other(path))


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
    assert kind.write is not None
    kind.write(path, transform, Geometry(Path(path), onto, moving))


def target(path: str | Path, file_format: str | None = None) -> Format:
    """The format that a new file gets.

    Raises:
        UsageError: an ending that is unknown, does not go with ``file_format`` or leaves a choice.
    """
    _check_format(file_format)
    name = Path(path).name.lower()
    if name.endswith(".m3z"):
        hint = "write warp.mgz, which FreeSurfer 8 takes in its place"
        raise UsageError(f"cannot write {path}: .m3z is not written", hint)
    ending = next((one for one in _ENDINGS if name.endswith(one)), None)
    if ending is None:
        raise UsageError(f"cannot write {path}: unknown ending", f"use one of {', '.join(_ENDINGS)}")
    possible = [one for one in REGISTRY if ending in one.writes]
    if file_format is None and name.endswith(_ANTS_AFFINE):
        file_format = "itk"
    if file_format is None:
        by_ending = [one for one in possible if one.by_itself]
        if not by_ending:
            words = " or ".join(f"--to-format {one.asked_as[0]}" for one in possible)
            hint = f"say which: {words} (file_format= in Python)"
            raise UsageError(f"cannot write {path}: ANTs and FLIRT both use {ending}", hint)
        return by_ending[0]
    asked = [one for one in possible if file_format in one.asked_as]
    if not asked:
        others = dict.fromkeys(e for one in REGISTRY if file_format in one.asked_as for e in one.writes)
        raise UsageError(f"cannot write {path}: {file_format} has no {ending} transforms", f"use {', '.join(others)}")
    return asked[0]


def _check_format(file_format: str | None) -> None:
    if file_format is not None and file_format not in FORMATS:
        raise UsageError(f"unknown format {file_format!r}", f"use one of {', '.join(FORMATS)}")
