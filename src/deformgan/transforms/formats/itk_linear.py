"""The affine and rigid transforms of ITK as 4×4 matrices, whatever file they are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.transforms.formats.checks import checked_matrix

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
WRITTEN_AS = "AffineTransform_double_3_3"
# kind → numbers it has, and whether a centre of rotation goes with them
_KINDS = {
    "AffineTransform": (12, True),
    "MatrixOffsetTransformBase": (12, True),
    "Euler3DTransform": (6, True),
    "VersorRigid3DTransform": (6, True),
    "TranslationTransform": (3, False),
    "IdentityTransform": (0, False),
}


def to_matrix(kind: str, parameters: np.ndarray, fixed: np.ndarray, path: str | Path) -> np.ndarray:
    """The 4×4 fixed-to-moving matrix, world mm (RAS+), of an ITK transform.

    Args:
        kind: ITK's name, such as ``AffineTransform_double_3_3``.
        parameters, fixed: Its parameters and fixed parameters (the centre of rotation).

    Raises:
        InputError: another kind of transform, another number of parameters, not finite, or singular.
    """
    name = checked_kind(kind, path)
    numbers, fixed = np.asarray(parameters, np.float64).ravel(), np.asarray(fixed, np.float64).ravel()
    expected, centred = _KINDS[name]
    if numbers.shape != (expected,) or (centred and fixed.size not in ((3, 4) if name.startswith("Euler") else (3,))):
        raise InputError(f"{path} is damaged: {numbers.size} parameters in a {kind}", "write it again")
    if not np.isfinite([*numbers, *fixed]).all():
        raise InputError(f"{path} is damaged: its parameters are not finite", "write it again")
    lps = np.eye(4)
    if expected:
        lps[:3, 3] = numbers[-3:]
    if expected == 12:
        lps[:3, :3] = numbers[:9].reshape(3, 3)
    elif name.startswith("Euler"):
        lps[:3, :3] = _euler(numbers[:3], zyx=fixed.size == 4 and fixed[3] > 0)
    elif name.startswith("Versor"):
        lps[:3, :3] = _versor(numbers[:3], path)
    if centred:  # y = M (x - c) + c + t
        lps[:3, 3] += fixed[:3] - lps[:3, :3] @ fixed[:3]
    return checked_matrix(LPS @ lps @ LPS, path)


def checked_kind(kind: str, path: str | Path) -> str:
    """ITK's name of a transform without precision and dimensions.

    Raises:
        InputError: neither affine nor rigid, or not in three dimensions.
    """
    name, _, rest = kind.partition("_")
    if name not in _KINDS or rest not in ("double_3_3", "float_3_3"):
        raise InputError(f"{path} holds a {kind}, not a 3-D affine", f"supported: {', '.join(_KINDS)}")
    return name


def to_parameters(matrix: np.ndarray) -> np.ndarray:
    """The 12 parameters (LPS, centre 0) of an affine given as 4×4 matrix in world mm (RAS+)."""
    lps = LPS @ np.asarray(matrix, np.float64) @ LPS
    return np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])


def _euler(angles: np.ndarray, *, zyx: bool) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return z @ y @ x if zyx else z @ x @ y


def _versor(axis: np.ndarray, path: str | Path) -> np.ndarray:
    """The rotation about ``axis`` whose length is the sine of half the angle."""
    square = axis @ axis
    if square > 1 + 1e-6:
        raise InputError(f"{path} is damaged: its versor is longer than 1", "write it again")
    x, y, z = axis
    w = np.sqrt(max(1 - square, 0.0))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * (w * cross + cross @ cross)
