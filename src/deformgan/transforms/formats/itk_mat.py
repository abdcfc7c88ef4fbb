"""ITK's binary affine, ANTs' ``0GenericAffine.mat``: two matrices in a MATLAB level 4 file. LPS outside, RAS+ inside.

Level 4 is a header of five integers, a name and the numbers; read here by hand, for untrusted files should
meet as little code as possible.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.transforms.formats.base import Format, matrix_alone
from deformgan.transforms.formats.checks import read_bytes
from deformgan.transforms.formats.itk_linear import WRITTEN_AS, checked_kind, in_order, to_parameters

_MOST_NUMBERS = 64  # in a matrix; an affine has 12
_MOST_NAME = 128
_FIXED = "fixed"


def write_mat(path: str | Path, matrix: np.ndarray) -> None:
    """Write a 4×4 fixed-to-moving matrix (world mm, RAS+) as ANTs reads it."""
    with atomic(path) as partial:
        partial.write_bytes(_block(WRITTEN_AS, to_parameters(matrix)) + _block(_FIXED, np.zeros(3)))


def read_mat(path: str | Path) -> np.ndarray:
    """Read ITK's binary matrices, one or a composite: 4×4 fixed-to-moving matrix in world mm (RAS+).

    Raises:
        InputError: missing, truncated, not of this format, several transforms that are no composite, not affine, not
            finite, or singular.
    """
    hint = "give a .mat file as ANTs writes it"
    data = read_bytes(path, "an ITK binary transform", hint)
    parts: list[tuple[str, np.ndarray, np.ndarray]] = []
    at = 0
    try:
        while at < len(data):
            name, values, at = _read_block(data, at, path)
            if name == _FIXED and parts:
                parts[-1] = (*parts[-1][:2], values)
            else:
                parts.append((name, values, np.zeros(0)))
    except (struct.error, ValueError) as error:
        raise InputError(f"{path} is not an ITK binary transform, or it is truncated: {error}", hint) from error
    return in_order(parts, path)


def _block(name: str, values: np.ndarray) -> bytes:
    start = struct.pack("<5i", 0, values.size, 1, 0, len(name) + 1)
    return start + name.encode("ascii") + b"\0" + values.astype("<f8").tobytes()


def _read_block(data: bytes, at: int, path: str | Path) -> tuple[str, np.ndarray, int]:
    """Name, numbers and the position after one matrix."""
    order = "<" if struct.unpack_from("<i", data, at)[0] in (0, 10) else ">"
    kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", data, at)
    # thousands: byte order; tens: number format (0 double, 1 single); units: full matrix
    kinds = {0: "<f8", 10: "<f4"} if order == "<" else {1000: ">f8", 1010: ">f4"}
    if kind not in kinds or imaginary or not 0 < length <= _MOST_NAME:
        raise ValueError("an unknown block")
    begin = at + 20 + length
    name = data[at + 20 : begin].rstrip(b"\0").decode("ascii", "replace")
    if rows < 0 or columns < 0 or rows * columns > _MOST_NUMBERS:
        if name.endswith("_3_3"):
            checked_kind(name, path)  # says what to do with fields and splines
        raise ValueError(f"a matrix of {rows}×{columns}")
    dtype = np.dtype(kinds[kind])
    end = begin + rows * columns * dtype.itemsize
    if end > len(data):
        raise ValueError("the numbers end early")
    return name, np.frombuffer(data[begin:end], dtype).astype(np.float64), end


FORMAT = Format(
    name="itk-mat",
    read=lambda path, _: [read_mat(path)],
    write=lambda path, transform, _: write_mat(path, matrix_alone(path, transform)),
    reads=(".mat", ".txt", ".tfm"),
    writes=(".mat",),
    asked_as=("itk",),
    by_itself=False,
    claims=lambda found: found.is_binary,
)
