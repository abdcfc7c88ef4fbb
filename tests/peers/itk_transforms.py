"""Transforms of ITK's two Python faces, SimpleITK and ANTs: every kind of them in every kind of file, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from grids import CASES, PLAIN, inner_points
from itk_kinds import CENTRE, KINDS, SHIFT

from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform, load_transform
from peers.files import THEY_READ, THEY_WRITE
from peers.maps import some_map
from peers.outcome import TO_LPS, Case, same_points

_FILES = (".tfm", ".txt", ".mat", ".h5", ".hdf5", ".xfm")
_FIELD_FILES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_OF_ANTS = {
    **{kind: KINDS[kind] for kind in ("AffineTransform", "Euler3DTransform", "Similarity3DTransform")},
    "QuaternionRigidTransform": [0.2, -0.4, 0.3, 0.8426149773, *SHIFT],
    "Rigid3DTransform": [0, -1, 0, 1, 0, 0, 0, 0, 1, *SHIFT],
    "CenteredAffineTransform": [1.1, 0.1, 0, -0.1, 0.9, 0.05, 0.02, 0, 1.05, *CENTRE, *SHIFT],
    "CenteredEuler3DTransform": [0.3, -0.2, 0.15, *CENTRE, *SHIFT],
}
_OF_DIMENSION = ("AffineTransform", "ScaleTransform", "TranslationTransform")


def cases() -> Iterator[Case]:
    """SimpleITK's, and those of ANTs where it is installed."""
    for kind, make in _made().items():
        for ending in _FILES:
            run = partial(_simpleitk_writes, make, f"t{ending}")
            yield Case("SimpleITK", THEY_WRITE, f"{kind} in {ending}", run)
    for grid in CASES:
        for ending in _FIELD_FILES:
            run = partial(_simpleitk_writes_field, CASES[grid][0], f"w{ending}")
            yield Case("SimpleITK", THEY_WRITE, f"displacement field in {ending}, {grid}", run)
    for kind, transform, onto in ours():
        for name in ("t.h5", "w.nii.gz", "w.nii", *(() if "," in kind else ("t.tfm", "t.txt", "tGenericAffine.mat"))):
            for peer, points in _READERS.items():
                if find_spec(peer) is not None:
                    run = partial(_they_read, points, transform, onto, name)
                    yield Case("antspyx" if peer == "ants" else peer, THEY_READ, f"{kind} in {name}", run)
    if find_spec("ants") is not None:
        for kind in _OF_ANTS:
            for precision in ("double", "float"):
                for ending in (".mat", ".txt", ".tfm", ".h5"):
                    run = partial(_ants_writes, kind, precision, f"t{ending}")
                    yield Case("antspyx", THEY_WRITE, f"{kind}, {precision}, in {ending}", run)
        for grid in CASES:
            run = partial(_ants_writes_field, CASES[grid][0])
            yield Case("antspyx", THEY_WRITE, f"displacement field in .nii.gz, {grid}", run)


def ours() -> Iterator[tuple[str, Transform, Grid]]:
    """Our maps: a matrix, a field, both, and both on grids of other orientations."""
    both = some_map()
    yield "matrix", Transform(both.affine), PLAIN
    yield "field", Transform(np.eye(4), both.disp_mm, both.grid), PLAIN
    yield "matrix and field", both, PLAIN
    for grid, (fixed, _) in CASES.items():
        yield f"matrix and field, {grid}", both, fixed


def _linear(name: str) -> Any:
    import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

    one = getattr(sitk, name)(*([3] if name in _OF_DIMENSION else []))
    if hasattr(one, "SetCenter"):
        one.SetCenter(CENTRE)
    one.SetParameters(KINDS[name])
    return one


def _field(grid: Grid) -> Any:
    import SimpleITK as sitk  # noqa: N813

    values = some_map().displacement(grid) * TO_LPS
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
    lps = TO_LPS[:, None] * grid.affine[:3, :3]
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection((lps / grid.spacing).ravel().tolist())
    image.SetOrigin((TO_LPS * grid.affine[:3, 3]).tolist())
    return image


def _made() -> dict[str, Callable[[], Any]]:
    import SimpleITK as sitk  # noqa: N813

    def composite(*names: str, field: bool = False) -> Any:
        parts = [_linear(name) for name in names]
        if field:
            parts.insert(1, sitk.DisplacementFieldTransform(_field(PLAIN)))
        return sitk.CompositeTransform(parts)

    def zyx() -> Any:
        one = _linear("Euler3DTransform")
        one.SetComputeZYX(True)
        return one

    def nested() -> Any:
        return sitk.CompositeTransform(
            [composite("ScaleTransform", "TranslationTransform"), _linear("AffineTransform")]
        )

    def spline() -> Any:
        return sitk.BSplineTransformInitializer(sitk.Image((8, 8, 8), sitk.sitkFloat32), [3, 3, 3])

    kinds: dict[str, Callable[[], Any]] = {name: partial(_linear, name) for name in KINDS}
    kinds["Euler3DTransform, ZYX"] = zyx
    kinds["identity"] = lambda: sitk.Transform(3, sitk.sitkIdentity)
    kinds["composite of matrices"] = partial(composite, "Euler3DTransform", "ScaleTransform", "AffineTransform")
    kinds["composite within a composite"] = nested
    kinds["composite with a field"] = partial(composite, "Euler3DTransform", "AffineTransform", field=True)
    kinds["displacement field"] = lambda: sitk.DisplacementFieldTransform(_field(PLAIN))
    kinds["B-spline"] = spline
    kinds["2-D affine"] = lambda: sitk.AffineTransform(2)
    return kinds


def _points(grid: Grid = PLAIN) -> np.ndarray:
    return inner_points(grid, margin=6)


def _judged(theirs: Any, points: np.ndarray) -> np.ndarray:
    return np.array([theirs.TransformPoint(p) for p in (points * TO_LPS).tolist()]) * TO_LPS


def _simpleitk_writes(make: Callable[[], Any], name: str, folder: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    theirs = make()
    try:
        sitk.WriteTransform(theirs, str(folder / name))
    except RuntimeError:
        return None  # it has no such file itself
    ours = load_transform(folder / name)
    return same_points(ours.map_points(_points()), _judged(theirs, _points()))


def _simpleitk_writes_field(grid: Grid, name: str, folder: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(_field(grid), str(folder / name))
    ours = load_transform(folder / name)
    theirs = sitk.DisplacementFieldTransform(_field(grid))
    same_points(ours.map_points(_points(grid)), _judged(theirs, _points(grid)))


def _they_read(
    read: Callable[[Path, np.ndarray], np.ndarray], transform: Transform, onto: Grid, name: str, folder: Path
) -> None:
    transform.save(folder / name, onto)
    saved = load_transform(folder / name)
    same_points(saved.map_points(_points(onto)), read(folder / name, _points(onto)))
    if transform.disp_mm is None:
        same_points(transform.map_points(_points(onto)), read(folder / name, _points(onto)))


def _read_by_simpleitk(path: Path, points: np.ndarray) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    if ".nii" in path.name:
        return _judged(sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)), points)
    return _judged(sitk.ReadTransform(str(path)), points)


def _read_by_ants(path: Path, points: np.ndarray) -> np.ndarray:
    import ants
    import pandas as pd

    table = pd.DataFrame(points * TO_LPS, columns=["x", "y", "z"])
    return ants.apply_transforms_to_points(3, table, [str(path)])[["x", "y", "z"]].to_numpy() * TO_LPS


_READERS = {"SimpleITK": _read_by_simpleitk, "ants": _read_by_ants}


def _ants_writes(kind: str, precision: str, name: str, folder: Path) -> None:
    import ants

    theirs = ants.new_ants_transform(precision=precision, dimension=3, transform_type=kind)
    theirs.set_fixed_parameters(np.array(CENTRE))
    theirs.set_parameters(np.array(_OF_ANTS[kind]))
    ants.write_transform(theirs, str(folder / name))
    ours = load_transform(folder / name)
    there = np.array([theirs.apply_to_point(p) for p in (_points() * TO_LPS).tolist()]) * TO_LPS
    same_points(ours.map_points(_points()), there)


def _ants_writes_field(grid: Grid, folder: Path) -> None:
    """As its registrations write their warps: an image of vectors."""
    import ants

    values = some_map().displacement(grid) * TO_LPS
    lps = TO_LPS[:, None] * grid.affine[:3, :3] / grid.spacing
    origin = (TO_LPS * grid.affine[:3, 3]).tolist()
    image = ants.from_numpy(values, origin=origin, spacing=grid.spacing.tolist(), direction=lps, has_components=True)
    ants.image_write(image, str(folder / "w.nii.gz"))
    same_points(
        load_transform(folder / "w.nii.gz").map_points(_points(grid)), _read_by_ants(folder / "w.nii.gz", _points(grid))
    )
