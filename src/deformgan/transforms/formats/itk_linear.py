"""The affine and rigid transforms of ITK as 4×4 matrices, whatever file they are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.transforms.formats.checks import checked_matrix

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
WRITTEN_AS = "AffineTransform_double_3_3"
COMPOSITE = "CompositeTransform"
_AS_FIELD = (
    "make a field of it on the fixed image's grid: python -c \"import SimpleITK as sitk; "
    "field = sitk.TransformToDisplacementFieldFilter(); field.SetReferenceImage(sitk.ReadImage('FIXED.nii.gz')); "
    "sitk.WriteImage(field.Execute(sitk.ReadTransform({0!r})), 'warp.nii.gz')\""
)
# kind → numbers it has, and whether a centre goes with them
_KINDS = {
    "AffineTransform": (12, True),
    "MatrixOffsetTransformBase": (12, True),
    "Rigid3DTransform": (12, True),
    "Euler3DTransform": (6, True),
    "VersorTransform": (3, True),
    "VersorRigid3DTransform": (6, True),
    "QuaternionRigidTransform": (7, True),
    "Similarity3DTransform": (7, True),
    "ScaleVersor3DTransform": (9, True),
    "ScaleSkewVersor3DTransform": (15, True),
    "ComposeScaleSkewVersor3DTransform": (12, True),
    "ScaleTransform": (3, True),
    "ScaleLogarithmicTransform": (3, True),
    "TranslationTransform": (3, False),
    "IdentityTransform": (0, False),
    "CenteredAffineTransform": (15, False),
    "CenteredEuler3DTransform": (9, False),
}
# kinds that have their centre among the parameters → the same without, and where it stands
_CENTRE_WITHIN = {
    "CenteredAffineTransform": ("AffineTransform", 9),
    "CenteredEuler3DTransform": ("Euler3DTransform", 3),
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
    if name in _CENTRE_WITHIN:
        name, at = _CENTRE_WITHIN[name]
        numbers, fixed, centred = np.delete(numbers, [at, at + 1, at + 2]), numbers[at : at + 3], True
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = _linear_and_shift(name, numbers, fixed, path)
    if centred:  # y = M (x - c) + c + t
        lps[:3, 3] += fixed[:3] - lps[:3, :3] @ fixed[:3]
    return checked_matrix(LPS @ lps @ LPS, path)


def _linear_and_shift(
    name: str, numbers: np.ndarray, fixed: np.ndarray, path: str | Path
) -> tuple[np.ndarray, np.ndarray]:
    """The 3×3 matrix and the translation that the parameters of a kind mean, in ITK's own order of them."""
    none = np.zeros(3)
    if name in ("AffineTransform", "MatrixOffsetTransformBase", "Rigid3DTransform"):
        return numbers[:9].reshape(3, 3), numbers[9:]
    if name == "Euler3DTransform":
        return _euler(numbers[:3], zyx=fixed.size == 4 and fixed[3] > 0), numbers[3:]
    if name.startswith("Scale") and numbers.size == 3:
        return np.diag(np.exp(numbers) if "Logarithmic" in name else numbers), none
    if name in ("TranslationTransform", "IdentityTransform"):
        return np.eye(3), numbers if numbers.size else none
    if name == "QuaternionRigidTransform":
        return _quaternion(numbers[:4], path), numbers[4:]
    turn = _versor(numbers[:3], path)
    shift, scale, skew = numbers[3:6], numbers[6:9], numbers[9:]
    if name == "Similarity3DTransform":
        return scale[0] * turn, shift
    if name == "ComposeScaleSkewVersor3DTransform":
        return turn @ np.diag(scale) @ np.array([[1, skew[0], skew[1]], [0, 1, skew[2]], [0, 0, 1]]), shift
    if name in ("ScaleVersor3DTransform", "ScaleSkewVersor3DTransform"):  # ITK adds here where others multiply
        turn = turn + np.diag(scale - 1)
        if skew.size:
            turn += np.array([[0, skew[0], skew[1]], [skew[2], 0, skew[3]], [skew[4], skew[5], 0]])
    return turn, shift if shift.size else none


def in_order(parts: list[tuple[str, np.ndarray, np.ndarray]], path: str | Path) -> np.ndarray:
    """The one 4×4 matrix of the transforms in a file: a composite, which applies its last part first, or one alone.

    Args:
        parts: Kind, parameters and fixed parameters of each, in the order of the file.

    Raises:
        InputError: none, several without a composite, a composite within, or a part that is no matrix.
    """
    composite = bool(parts) and parts[0][0].startswith(COMPOSITE)
    if composite and len(parts) == 1:
        hint = "ITK cannot keep them in .mat; write it as .tfm or .h5"
        raise InputError(f"{path} is a composite without its parts", hint)
    if not composite and len(parts) != 1:
        what = f"{len(parts)} transforms in a row, which is no chain" if parts else "no transform"
        raise InputError(f"{path} holds {what}", "give them one by one, or write them as a composite")
    total = np.eye(4)
    for kind, numbers, fixed in reversed(parts[1:] if composite else parts):
        if kind.startswith(COMPOSITE):
            raise InputError(f"{path} holds a composite within a composite", "write it flat")
        total = to_matrix(kind, numbers, fixed, path) @ total
    return total


def checked_kind(kind: str, path: str | Path) -> str:
    """ITK's name of a transform without precision and dimensions.

    Raises:
        InputError: neither affine nor rigid, or not in three dimensions.
    """
    name, _, rest = kind.partition("_")
    if name not in _KINDS or rest not in ("double_3_3", "float_3_3"):
        three = rest in ("double_3_3", "float_3_3", "3_3")
        hint = _AS_FIELD.format(str(path)) if three else "give a transform of three dimensions"
        raise InputError(f"{path} holds a {kind}, not a 3-D affine", hint)
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


def _quaternion(parts: np.ndarray, path: str | Path) -> np.ndarray:
    """The rotation of a quaternion x, y, z, w, which need not be of length 1."""
    length = float(np.linalg.norm(parts))
    if length == 0:
        raise InputError(f"{path} is damaged: its quaternion is 0", "write it again")
    sign = -1.0 if parts[3] < 0 else 1.0
    return _versor(sign * parts[:3] / length, path)


def _versor(axis: np.ndarray, path: str | Path) -> np.ndarray:
    """The rotation about ``axis`` whose length is the sine of half the angle."""
    square = axis @ axis
    if square > 1 + 1e-6:
        raise InputError(f"{path} is damaged: its versor is longer than 1", "write it again")
    x, y, z = axis
    w = np.sqrt(max(1 - square, 0.0))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * (w * cross + cross @ cross)
