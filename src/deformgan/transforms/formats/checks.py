"""What every transform format needs: text of a sane size, matrices that can be inverted, vector volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deformgan.errors import InputError
from deformgan.io.image import checked_affine
from deformgan.io.nifti_header import header_affine
from deformgan.io.untrusted import read_nifti, read_small
from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid

_MOST_MM = 1e6  # a kilometre; what moves further is no displacement in millimetres


def read_text(path: str | Path, kind: str, hint: str) -> str:
    """A text file's contents.

    Args:
        kind: What the file should be, for messages.
        hint: What to do if it is not that.

    Raises:
        InputError: missing, unreadable, not text, or far too long for a transform.
    """
    data = read_bytes(path, kind, hint)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not {kind}", hint) from error


def read_bytes(path: str | Path, kind: str, hint: str) -> bytes:
    """A small file's contents; arguments and errors as `read_text`, but for text."""
    try:
        return read_small(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not {kind}: it is too long", hint) from error


def checked_matrix(matrix: np.ndarray, path: str | Path) -> np.ndarray:
    """A 4×4 matrix as float64.

    Raises:
        InputError: not finite, last row other than 0 0 0 1, singular, or beyond any map between two images.
    """
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all():
        raise InputError(f"{path} is damaged: its matrix is not finite", "write it again")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError(f"{path} is no affine transform: its last row is not 0 0 0 1", "write it again")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.abs(matrix).max() > _MOST_MM or 0 < lengths.min() < 1 / _MOST_MM:
        raise InputError(f"{path} cannot be used: its matrix magnifies or moves beyond any image", "write it again")
    if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise InputError(f"{path} cannot be used: its matrix is singular", "write it again")
    return np.vstack([matrix[:3], [0.0, 0.0, 0.0, 1.0]])


def read_vectors(path: str | Path, middle: tuple[int, ...], hint: str) -> tuple[np.ndarray, Grid, int]:
    """Read a NIfTI volume of 3-vectors.

    Args:
        middle: The axes between space and vectors: () for 4-D files, (1,) for 5-D ones.
        hint: What to do if it is something else.

    Returns:
        (D, H, W, 3) float32 in the file's own convention, Fortran order; its grid; its intent code.

    Raises:
        InputError: unreadable (see `deformgan.io.untrusted.read_nifti`), of another shape or type, or not finite.
    """

    def check(header: Any) -> None:
        shape = header.get_data_shape()
        if len(shape) != 4 + len(middle) or shape[3:] != (*middle, 3) or header.get_data_dtype().kind != "f":
            raise InputError(f"{path} is not a displacement field: its shape is {tuple(map(int, shape))}", hint)

    data, header = read_nifti(path, check)
    shape = (data.shape[0], data.shape[1], data.shape[2])
    field = data.reshape((*shape, 3), order="F").astype(np.float32, copy=False)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite([slope, intercept]).all() and slope != 0 and (slope, intercept) != (1, 0):
        field = field * np.float32(slope) + np.float32(intercept)
    checked_field(field, path)
    grid = Grid(shape, checked_affine(header_affine(header, shape, str(path)), str(path)))
    return field, grid, int(header["intent_code"])


def checked_field(field: np.ndarray, path: str | Path) -> None:
    """Raise `InputError` where a field holds NaN, infinity or a kilometre."""
    low, high = float(field.min()), float(field.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path} holds NaN or infinite displacements", "make the transform again")
    if max(-low, high) > _MOST_MM:
        raise InputError(f"{path} holds displacements of {max(-low, high):.1g} mm", "make the transform again")


def linear_plus_ramp(vectors: np.ndarray, linear: np.ndarray, ramp: np.ndarray, grid: Grid) -> np.ndarray:
    """``linear · v + ramp · i`` for the vector ``v`` of each voxel ``i``: from one convention of vectors to another.

    Args:
        vectors: (D, H, W, 3) float32, quickest in Fortran order.
        linear: 3×3.
        ramp: 4×4, from voxel index; its last row does not count.

    Returns:
        (D, H, W, 3) float32, Fortran order.
    """
    return blockwise.resampled_whole(torch.from_numpy(vectors.T), grid, grid, ramp, linear).numpy().T
