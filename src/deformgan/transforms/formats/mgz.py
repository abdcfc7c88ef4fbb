"""FreeSurfer's warps in ``.mgz``, as SynthMorph and ``mri_warp_convert --outmgzwarp`` write them.

A big-endian MGH volume of three frames on the fixed image's grid whose version says "warp", followed by tags: one says
where the two images lie, one whether the frames are displacements or positions, in RAS or in voxels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import fortran_chunks, write_stream
from deformgan.io.untrusted import MAX_VOXELS, fill, opened
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Format, field_between
from deformgan.transforms.formats.checks import checked_field, linear_plus_ramp
from deformgan.transforms.formats.freesurfer import from_grid, to_grid

_WARP_VERSION = (3 << 8) | 1  # intent "warp map" above the version of the format
_FLOAT = 3
_HEADER_BYTES = 284
_TAG_GEOMETRY, _TAG_WARP = 10, 13
_WITHOUT_LENGTH = (1, 2, 10, 11, 12, 20)
_TAG_OLD_MATRIX = 30  # its length has 32 bits, all others' 64
_GEOMETRY = ">i3i15f512s"
_ABS_VOXELS, _DISP_VOXELS, _ABS_RAS, _DISP_RAS = range(4)
_MOST_TAGS = 1 << 20
_HINT = "give a warp as mri_synthmorph or mri_warp_convert --outmgzwarp writes it"


def write_warp(path: str | Path, disp_mm: np.ndarray, grid: Grid, moving: Grid) -> None:
    """Write a displacement, (D, H, W, 3) float32 in world mm (RAS+), on the fixed ``grid``, as RAS displacements.

    Args:
        path: Ends in ``.mgz`` or ``.mgh``.
        moving: The grid of the moving image, which FreeSurfer's tools want to know.
    """
    if not str(path).endswith((".mgz", ".mgh")):
        raise UsageError(f"cannot write {path}: unknown ending", "use .mgz")
    sizes, directions, middle = from_grid(grid)
    place = np.concatenate([sizes, directions.T.ravel(), middle])
    start = struct.pack(">7i", _WARP_VERSION, *grid.shape, 3, _FLOAT, 1) + struct.pack(">h15f", 1, *place)
    tags = struct.pack(">5f", 0, 0, 0, 0, max(sizes * grid.shape))
    tags += struct.pack(">i", _TAG_GEOMETRY) + _pack(moving) + _pack(grid)
    tags += struct.pack(">iqiif", _TAG_WARP, 12, _DISP_RAS, 1, 0.0)

    def chunks() -> Iterator[np.ndarray]:
        for chunk in fortran_chunks(np.asarray(disp_mm, np.float32)):
            yield chunk.astype(">f4")
        yield np.frombuffer(tags, np.uint8)

    write_stream(path, start.ljust(_HEADER_BYTES, b"\0"), (chunk.view(np.uint8) for chunk in chunks()))


def _pack(grid: Grid) -> bytes:
    sizes, directions, middle = from_grid(grid)
    return struct.pack(_GEOMETRY, 1, *grid.shape, *sizes, *directions.T.ravel(), *middle, b"")


def read_warp(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Read a warp: (D, H, W, 3) float32 in world mm (RAS+), Fortran order, and the fixed grid.

    Raises:
        InputError: missing, truncated, damaged, an image instead of a warp, or not finite.
    """
    with opened(path) as (stream, most_bytes):
        version, d, h, w, frames, kind, _, placed, *place = struct.unpack(">7ih15f", _exactly(stream, 90))
        _exactly(stream, _HEADER_BYTES - 90)
        if version & 0xFF != 1:
            raise InputError(f"{path} is not a FreeSurfer volume", _HINT)
        if version >> 8 != _WARP_VERSION >> 8 or frames != 3 or kind != _FLOAT:
            raise InputError(f"{path} is an image, not a warp: nothing in it says how its numbers are meant", _HINT)
        shape = (d, h, w)
        if min(shape) < 1 or prod(shape) * 3 > MAX_VOXELS or prod(shape) * 12 + _HEADER_BYTES > most_bytes:
            raise InputError(f"{path} is truncated: its header claims {shape} voxels", "copy it again")
        if not placed:
            raise InputError(f"{path} does not say where its voxels lie", _HINT)
        grid = _unpack(shape, place, path)
        values = np.empty((*shape, 3), ">f4", order="F")
        fill(values, stream)
        tags = stream.read(_MOST_TAGS)
    if not values.dtype.isnative:
        values = values.byteswap(inplace=True).view(np.float32)
    meaning, moving = _read_tags(tags, path)
    checked_field(values, path)
    if meaning == _DISP_RAS:
        return values, grid
    if meaning == _ABS_RAS:
        return linear_plus_ramp(values, np.eye(3), -grid.affine, grid), grid
    if moving is None:
        raise InputError(f"{path} is in voxels and does not say of which volume", _HINT)
    to_world = moving.affine
    ramp = to_world - grid.affine if meaning == _DISP_VOXELS else -grid.affine
    ramp[:3, 3] = to_world[:3, 3] - grid.affine[:3, 3]
    return linear_plus_ramp(values, to_world[:3, :3], ramp, grid), grid


def _exactly(stream: Any, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the header ends early")
    return data


def _unpack(shape: Any, place: Any, path: str | Path) -> Grid:
    numbers = np.array(place, np.float64)
    return to_grid(np.array(shape), numbers[:3], numbers[3:12].reshape(3, 3).T, numbers[12:], str(path))


def _read_tags(tags: bytes, path: str | Path) -> tuple[int, Grid | None]:
    """What the frames mean, and the moving image's grid where it is given."""
    meaning, moving, at = None, None, 20  # after five scan parameters
    try:
        while at + 4 <= len(tags) and meaning is None:
            (tag,) = struct.unpack_from(">i", tags, at)
            at += 4
            if tag == 0:
                break
            if tag == _TAG_GEOMETRY:
                valid, *rest = struct.unpack_from(_GEOMETRY, tags, at)
                moving = _unpack(rest[:3], rest[3:18], path) if valid else None
                at += 2 * struct.calcsize(_GEOMETRY)
                continue
            if tag in _WITHOUT_LENGTH:
                break  # of unknown length: nothing behind it can be found
            (length,) = struct.unpack_from(">i" if tag == _TAG_OLD_MATRIX else ">q", tags, at)
            at += 4 if tag == _TAG_OLD_MATRIX else 8
            if tag == _TAG_WARP:
                (meaning,) = struct.unpack_from(">i", tags, at)
            if length < 0:
                break
            at += length
    except struct.error as error:
        raise InputError(f"{path} is truncated: {error}", "copy it again") from error
    if meaning is None or meaning not in range(4):
        raise InputError(f"{path} does not say how its numbers are meant", _HINT)
    return meaning, moving


FORMAT = Format(
    name="mgz",
    read=lambda path, _: [read_warp(path)],
    write=lambda path, transform, of: write_warp(path, *field_between(transform, of)),
    reads=(".mgz", ".mgh"),
    writes=(".mgz", ".mgh"),
    asked_as=("freesurfer",),
)
