"""Every kind of matrix that ITK has, alone and in composites, in every file it writes: SimpleITK is the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grids import PLAIN, inner_points
from itk_kinds import CENTRE, KINDS, SHIFT, VERSOR

from deformgan.errors import InputError
from deformgan.transforms.transform import load_transform

sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("h5py")

TO_LPS = np.array([-1, -1, 1])


def _made(name: str, numbers: list[float]) -> object:
    one = getattr(sitk, name)(*([3] if name in ("AffineTransform", "ScaleTransform", "TranslationTransform") else []))
    if hasattr(one, "SetCenter"):
        one.SetCenter(CENTRE)
    one.SetParameters(numbers)
    return one


ENDINGS = [".tfm", ".txt", ".mat", ".h5"]


def _judged(theirs: object, points: np.ndarray) -> np.ndarray:
    return np.array([theirs.TransformPoint(p.tolist()) for p in points * TO_LPS]) * TO_LPS


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_matrix(tmp_path: Path, kind: str, ending: str) -> None:
    theirs, points = _made(kind, KINDS[kind]), inner_points(PLAIN)
    sitk.WriteTransform(theirs, str(tmp_path / f"t{ending}"))
    ours = load_transform(tmp_path / f"t{ending}").map_points(points)
    np.testing.assert_allclose(ours, _judged(theirs, points), atol=1e-9)


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".h5"])
@pytest.mark.parametrize("first", range(len(KINDS)))
def test_composites_keep_their_order(tmp_path: Path, first: int, ending: str) -> None:
    names = [list(KINDS)[(first + n) % len(KINDS)] for n in (0, 3, 5)]
    theirs, points = sitk.CompositeTransform([_made(name, KINDS[name]) for name in names]), inner_points(PLAIN)
    sitk.WriteTransform(theirs, str(tmp_path / f"t{ending}"))
    ours = load_transform(tmp_path / f"t{ending}").map_points(points)
    np.testing.assert_allclose(ours, _judged(theirs, points), atol=1e-9)


def test_a_composite_that_itk_writes_without_its_parts(tmp_path: Path) -> None:
    both = sitk.CompositeTransform([_made(name, KINDS[name]) for name in ("ScaleTransform", "TranslationTransform")])
    sitk.WriteTransform(both, str(tmp_path / "c.mat"))
    with pytest.raises(InputError, match="a composite without its parts"):
        load_transform(tmp_path / "c.mat")


def test_several_in_a_row_are_no_chain(tmp_path: Path) -> None:
    """As ITK does not chain them, and programs that correct motion write one for each volume."""
    part = "#Transform {}\nTransform: TranslationTransform_double_3_3\nParameters: {} 0 0\nFixedParameters:\n"
    (tmp_path / "t.tfm").write_text("#Insight Transform File V1.0\n" + part.format(0, 1) + part.format(1, 2))
    with pytest.raises(InputError, match="holds 2 transforms in a row"):
        load_transform(tmp_path / "t.tfm")


def test_a_quaternion() -> None:
    from deformgan.transforms.formats.itk_linear import to_matrix

    w = np.sqrt(1 - np.square(VERSOR).sum())
    versor = to_matrix("VersorRigid3DTransform_double_3_3", np.array([*VERSOR, *SHIFT]), np.array(CENTRE), "v")
    for sign in (1, -1):
        numbers = np.array([*(sign * 2 * np.array([*VERSOR, w])), *SHIFT])
        quaternion = to_matrix("QuaternionRigidTransform_double_3_3", numbers, np.array(CENTRE), "q")
        np.testing.assert_allclose(quaternion, versor, atol=1e-12)
