"""Series of volumes on one grid (fMRI, diffusion): read whole, taken volume by volume, written as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import fortran_chunks, header_bytes, nifti_header, storable, write_stream
from deformgan.io.image import Image, checked_affine
from deformgan.io.nifti_header import header_affine
from deformgan.io.untrusted import read_nifti, read_nifti_header
from deformgan.io.values import finite, scaled
from deformgan.spatial.grid import Grid

# vectors, tensors and the like: resampling them would leave them pointing the wrong way
_VECTOR_INTENTS = (1004, 1005, 1006, 1007, 2003, 2004, 2006)
_KEPT = ("descrip", "aux_file", "intent_code", "intent_name", "toffset", "cal_min", "cal_max")
_MM, _UNITS_OF_TIME = 2, 0b111000  # the affine that is written counts in mm, whatever that of the series did


@dataclass(frozen=True, eq=False)
class Series:
    """Volumes on one grid.

    Args:
        data: (D, H, W, T), unscaled.
        grid: Where the voxels lie.
        header: The file's nibabel header.
        name: What messages call it.
    """

    data: np.ndarray
    grid: Grid
    header: Any
    name: str

    def __len__(self) -> int:
        return self.data.shape[3]

    def __iter__(self) -> Iterator[Image]:
        """The volumes, their values scaled as the header says and exact, as `deformgan.io.image.load_exact` has them.

        Raises:
            InputError: a volume holds infinity, or NaN inside its content.
        """
        for number in range(len(self)):
            values = finite(scaled(self.data[..., number], self.header, exact=True), self.name)
            yield Image(values, self.grid, self.name)


def is_series(path: str | Path) -> bool:
    """Whether a NIfTI file holds several volumes; files of other formats are not asked.

    Raises:
        InputError: missing, no NIfTI image, or its voxels hold vectors, tensors or colours.
    """
    if not str(path).endswith((".nii", ".nii.gz")):
        return False
    header = read_nifti_header(path)
    shape = [int(n) for n in header.get_data_shape()]
    if header.get_data_dtype().fields is not None:
        raise InputError(f"{path} holds colours, not one real number a voxel", "give a scalar image")
    several = any(n > 1 for n in shape[3:])
    if any(n > 1 for n in shape[4:]) or (several and int(header["intent_code"]) in _VECTOR_INTENTS):
        hint = "vectors would have to be rotated with the image; give a scalar image or a 4-D series"
        raise InputError(f"{path} is a vector image: its shape is {tuple(shape)}", hint)
    return several


def load_series(path: str | Path) -> Series:
    """Read a 4-D NIfTI file.

    Raises:
        InputError: missing, truncated, not a series of real numbers (see `is_series`), or with a singular affine.
    """
    if not is_series(path):
        raise InputError(f"{path} holds one volume, not several", "load it as an image")

    def check(header: Any) -> None:
        if header.get_data_dtype().kind not in "iufb" or min(header.get_data_shape()[:3]) < 2:
            raise InputError(f"{path} is no series of 3-D volumes of real numbers", "give a scalar image")

    data, header = read_nifti(path, check)
    d, h, w, count = data.shape[:4]
    data = data.reshape((d, h, w, count), order="F")
    shape = (d, h, w)
    grid = Grid(shape, checked_affine(header_affine(header, shape, str(path)), str(path)))
    return Series(data, grid, header, str(path))


def write_series(path: str | Path, volumes: Iterator[Image], count: int, like: Any) -> None:
    """Write volumes as they come: one at a time is in memory.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        volumes: ``count`` images of one grid and type.
        like: A header whose repetition time, units, description, intent and display range are kept. Its slice timing
            is not: the slices are others now.

    Raises:
        UsageError: another ending, or the folder is missing.
        InputError: the folder is read-only or the disk is full.
    """
    if not str(path).endswith((".nii", ".nii.gz")):
        raise UsageError(f"cannot write {path}: unknown ending", "use .nii or .nii.gz")
    first = next(volumes)
    dtype = storable(first.data).dtype
    header = nifti_header((*first.grid.shape, count), dtype, first.grid.affine)
    for field in _KEPT:
        header[field] = like[field]
    header["xyzt_units"] = _MM | (int(like["xyzt_units"]) & _UNITS_OF_TIME)
    header["pixdim"][4] = like["pixdim"][4]

    def chunks() -> Iterator[np.ndarray]:
        yield from fortran_chunks(first.data)
        for volume in volumes:
            yield from fortran_chunks(volume.data)

    write_stream(path, header_bytes(header), chunks())
