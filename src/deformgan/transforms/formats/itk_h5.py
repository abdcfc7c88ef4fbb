"""ITK's HDF5 transforms, ``Composite.h5``: affines and displacement fields in a row. LPS outside, RAS+ inside.

A composite applies its *last* transform to a position first. Needs h5py, which the extra ``itk`` installs.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import atomic
from deformgan.io.image import checked_affine
from deformgan.io.untrusted import MAX_VOXELS, open_plain
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Format, Map, Part
from deformgan.transforms.formats.checks import checked_field, linear_plus_ramp
from deformgan.transforms.formats.itk_h5_data import member, numbers, text
from deformgan.transforms.formats.itk_linear import LPS, WRITTEN_AS, checked_kind, to_matrix, to_parameters

_GROUP = "TransformGroup"
_COMPOSITE = "CompositeTransform"
_FIELD = "DisplacementFieldTransform"
_MOST_TRANSFORMS = 64
_PARAMETERS = ("TransformParameters", "TranformParameters")  # ITK misspelt it for years
_FIXED = ("TransformFixedParameters", "TranformFixedParameters")
_HINT = "give a .h5 file as ITK and ANTs write it"


def write_h5(path: str | Path, parts: Sequence[Part]) -> None:
    """Write transforms as ITK, SimpleITK and ANTs read them; a composite where there are several.

    Args:
        parts: In the order in which a fixed position meets them: 4×4 matrices, and fields, (D, H, W, 3) float32 with
            their grid, all in world mm (RAS+). Fields are stored as float32, everything else as float64.

    Raises:
        UsageError: h5py is not installed.
    """
    h5py = _h5py()
    # in memory first: HDF5's library does not survive a disk that fills up, and takes the process with it. The name
    # is its own, for two threads that write at once may not have one of the same name open
    with h5py.File(f"transform-{uuid.uuid4().hex}", "w", driver="core", backing_store=False) as file:
        group = file.create_group(_GROUP)
        if len(parts) > 1:
            _name(group.create_group("0"), f"{_COMPOSITE}_double_3_3", h5py)
        # the last in the file is the first to be applied
        for number, part in enumerate(reversed(parts), start=int(len(parts) > 1)):
            one = group.create_group(str(number))
            if isinstance(part, np.ndarray):
                _name(one, WRITTEN_AS, h5py)
                one[_PARAMETERS[0]], one[_FIXED[0]] = to_parameters(part), np.zeros(3)
            else:
                _name(one, f"{_FIELD}_double_3_3", h5py)
                _write_field(one, *part)
        file.flush()
        image = file.id.get_file_image()
    with atomic(path) as partial:
        partial.write_bytes(image)


def _name(group: Any, kind: str, h5py: Any) -> None:
    group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))


def _write_field(group: Any, disp_mm: np.ndarray, grid: Grid) -> None:
    lps = LPS @ grid.affine
    spacing = grid.spacing
    direction = lps[:3, :3] / spacing
    group[_FIXED[0]] = np.concatenate([grid.shape, lps[:3, 3], spacing, direction.ravel()]).astype(np.float64)
    stored = group.create_dataset(_PARAMETERS[0], (disp_mm.size,), np.float32)
    # components fastest, then the first axis: slice by slice, so that no second copy is made
    plane = 3 * grid.shape[0] * grid.shape[1]
    for k in range(grid.shape[2]):
        values = disp_mm[:, :, k].transpose(1, 0, 2) * np.array([-1, -1, 1], np.float32)
        stored[k * plane : (k + 1) * plane] = values.ravel()


def read_h5(path: str | Path) -> list[Part]:
    """Read a composite or a single transform; arguments of `write_h5`: what a fixed position meets first is first.

    Raises:
        UsageError: h5py is not installed.
        InputError: missing, not such a file, truncated, larger than it can be, links to other files, a kind of
            transform that is neither affine nor a displacement field, not finite, or singular.
    """
    h5py = _h5py()
    try:
        open_plain(path).close()
        with h5py.File(path, "r") as file:
            return _read(file, Path(path), h5py)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # h5py raises any of these for a file that is damaged
        raise InputError(f"{path} is not an ITK transform in HDF5, or it is damaged: {error}", _HINT) from error


def _read(file: Any, path: Path, h5py: Any) -> list[Part]:
    group = member(file, _GROUP, h5py.Group, path, h5py)
    if group is None or not 0 < len(group) <= _MOST_TRANSFORMS:
        raise InputError(f"{path} holds no ITK transforms", _HINT)
    parts: list[Part] = []
    for number in range(len(group)):
        one = member(group, str(number), h5py.Group, path, h5py)
        if one is None:
            raise InputError(f"{path} is damaged: transform {number} is missing", "write it again")
        kind = text(one, "TransformType", path, h5py)
        if not kind:
            raise InputError(f"{path} is damaged: a transform without a type", "write it again")
        if kind.startswith(_COMPOSITE):
            if number:
                raise InputError(f"{path} holds a composite within a composite", "write it flat")
            continue
        fixed = numbers(one, _FIXED, path, h5py, most=64)
        if kind.startswith(_FIELD):
            parts.append(_read_field(one, np.asarray(fixed, np.float64), path, h5py))
        else:
            checked_kind(kind, path)
            parts.append(to_matrix(kind, numbers(one, _PARAMETERS, path, h5py, most=64), fixed, path))
    if not parts:
        raise InputError(f"{path} holds no ITK transforms", _HINT)
    return parts[::-1]


def _read_field(group: Any, fixed: np.ndarray, path: Path, h5py: Any) -> tuple[np.ndarray, Grid]:
    damaged = InputError(f"{path} is damaged: its displacement field has no sound geometry", "write it again")
    if fixed.shape != (18,) or not np.isfinite(fixed).all() or (fixed[:3] < 1).any() or (fixed[:3] % 1).any():
        raise damaged
    if prod(fixed[:3]) > MAX_VOXELS:
        raise damaged
    shape = (int(fixed[0]), int(fixed[1]), int(fixed[2]))
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    grid = Grid(shape, checked_affine(LPS @ affine, str(path)))
    values = numbers(group, _PARAMETERS, path, h5py, most=3 * prod(shape))
    if values.size != 3 * prod(shape):
        raise InputError(f"{path} is damaged: {values.size} numbers for a field of {shape} voxels", "write it again")
    field = np.asfortranarray(
        values.astype(np.float32, copy=False).reshape((3, *shape), order="F").transpose(1, 2, 3, 0)
    )
    checked_field(field, path)
    np.negative(field[..., :2], out=field[..., :2])
    return field, grid


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UsageError(".h5 transforms need h5py", "pip install 'deformgan[itk]', or use .nii.gz") from error
    return h5py


def composite(transform: Map, onto: Grid | None) -> list[Part]:
    """The parts to write: those of the map, or, where its one field is wanted on another grid, these."""
    parts = transform.parts
    fields = [part for part in parts if not isinstance(part, np.ndarray)]
    if onto is None or not fields or (len(fields) == 1 and onto == fields[0][1]):
        return parts
    # the field alone, elsewhere: x + r(x) = A⁻¹(x + d(x))
    back = np.linalg.inv(transform.affine)
    ramp = (back - np.eye(4)) @ onto.affine
    return [(linear_plus_ramp(transform.displacement(onto), back[:3, :3], ramp, onto), onto), transform.affine]


FORMAT = Format(
    name="itk-h5",
    read=lambda path, _: read_h5(path),
    write=lambda path, transform, of: write_h5(path, composite(transform, of.fixed)),
    reads=(".h5", ".hdf5"),
    writes=(".h5",),
    asked_as=("itk",),
)
