"""FSL's files by fslpy and FreeSurfer's by surfa, both ways."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from peers.files import FIRST, Read, Written, whole_map
from peers.maps import AFFINE, as_nibabel, moved, some_map, voxels
from peers.outcome import same_points

# -- fslpy ------------------------------------------------------------------------------------------------------------


def _fsl_image(grid: Grid) -> Any:
    from fsl.data.image import Image

    return Image(as_nibabel(grid))


def _write_flirt(fixed: Grid, moving: Grid, folder: Path) -> None:
    from fsl.transform import flirt

    there = flirt.toFlirt(np.linalg.inv(AFFINE), _fsl_image(moving), _fsl_image(fixed), "world", "world")
    flirt.writeFlirt(there, str(folder / "a.mat"))


def _read_flirt(fixed: Grid, moving: Grid, folder: Path) -> None:
    from fsl.transform import flirt

    Transform(AFFINE).save(folder / "a.mat", fixed, moving=moving, file_format="fsl")
    matrix = flirt.readFlirt(str(folder / "a.mat"))
    back = np.linalg.inv(flirt.fromFlirt(matrix, _fsl_image(moving), _fsl_image(fixed), "world", "world"))
    same_points(moved(AFFINE, voxels(fixed)), moved(back, voxels(fixed)))


def _write_fnirt(kind: str, fixed: Grid, moving: Grid, folder: Path) -> None:
    """From a field between world positions it works out FSL's own."""
    from fsl.transform import fnirt, nonlinear

    index = np.stack(np.meshgrid(*[np.arange(n) for n in fixed.shape], indexing="ij"), -1)
    there = fixed.to_world(index) + whole_map(fixed)
    words = {"src": _fsl_image(moving), "ref": _fsl_image(fixed), "header": as_nibabel(fixed).header}
    field = nonlinear.DeformationField(there, srcSpace="world", refSpace="world", defType="absolute", **words)
    field = fnirt.toFnirt(field)
    assert field.deformationType == "absolute"
    data = field.data if kind == "absolute" else nonlinear.convertDeformationType(field, "relative")
    words["header"] = field.header
    field = nonlinear.DeformationField(data, srcSpace="fsl", refSpace="fsl", defType=kind, **words)
    field.header["intent_code"] = 2006
    field.save(str(folder / "w.nii.gz"))


def _read_fnirt(kind: str, fixed: Grid, moving: Grid, folder: Path) -> None:
    from fsl.transform import fnirt

    file_format = "fsl" if kind == "relative" else "fsl-absolute"
    some_map().save(folder / "w.nii.gz", fixed, moving=moving, file_format=file_format)
    field = fnirt.readFnirt(str(folder / "w.nii.gz"), _fsl_image(moving), _fsl_image(fixed), defType=kind)
    theirs = fnirt.fromFnirt(field, "world", "world").transform(voxels(fixed), "world", "world")
    same_points(some_map().map_points(voxels(fixed)), theirs)


def _write_x5(fixed: Grid, moving: Grid, folder: Path) -> None:
    from fsl.transform import x5

    x5.writeLinearX5(str(folder / "a.x5"), AFFINE, _fsl_image(moving), _fsl_image(fixed))


# -- surfa ------------------------------------------------------------------------------------------------------------

_MEANINGS = ("abs_crs", "disp_crs", "abs_ras", "disp_ras")


def _geometry(grid: Grid) -> Any:
    import surfa

    return surfa.ImageGeometry(grid.shape, vox2world=grid.affine)


def _write_lta(space: str, fixed: Grid, moving: Grid, folder: Path) -> None:
    import surfa

    world = surfa.Affine(np.linalg.inv(AFFINE), space="world", source=_geometry(moving), target=_geometry(fixed))
    world.convert(space=space).save(str(folder / "a.lta"))


def _read_lta(fixed: Grid, moving: Grid, folder: Path) -> None:
    import surfa

    Transform(AFFINE).save(folder / "a.lta", fixed, moving=moving)
    theirs = surfa.load_affine(str(folder / "a.lta"))
    back = np.linalg.inv(theirs.convert(space="world").matrix)
    same_points(moved(AFFINE, voxels(fixed)), moved(back, voxels(fixed)))
    for grid, geometry in ((fixed, theirs.target), (moving, theirs.source)):
        assert np.abs(geometry.vox2world.matrix - grid.affine).max() < 1e-3


def _write_warp(meaning: int, fixed: Grid, moving: Grid, folder: Path) -> None:
    import surfa

    words = {"source": _geometry(moving), "target": _geometry(fixed)}
    warp = surfa.Warp(whole_map(fixed), format=surfa.Warp.Format.disp_ras, **words)
    warp.convert(format=meaning).save(str(folder / "w.mgz"))


def _read_warp(fixed: Grid, moving: Grid, folder: Path) -> None:
    import surfa

    some_map().save(folder / "w.mgz", fixed, moving=moving)
    # surfa 0.6 asks for what numpy no longer has, also for files of its own
    with mock.patch.object(np, "fromstring", lambda data, dtype: np.frombuffer(data, dtype)):
        theirs = surfa.load_warp(str(folder / "w.mgz"))
    same_points(whole_map(fixed), np.asarray(theirs.convert(format=surfa.Warp.Format.disp_ras).data))


_fslpy, _surfa = partial(Written, "fsl", "fslpy"), partial(Written, "surfa", "surfa")
WAYS = (
    _fslpy("matrix", "a.mat", _write_flirt, kept=True),
    _fslpy("matrix", "a.x5", _write_x5, pairs=FIRST),
    *(
        _fslpy(f"{kind} field", "w.nii.gz", partial(_write_fnirt, kind), is_field=True, kept=True)
        for kind in ("relative", "absolute")
    ),
    Read("fsl", "fslpy", "matrix in a.mat", _read_flirt),
    *(Read("fsl", "fslpy", f"{kind} field", partial(_read_fnirt, kind)) for kind in ("relative", "absolute")),
    *(_surfa(f"{space} matrix", "a.lta", partial(_write_lta, space), kept=True) for space in ("world", "vox")),
    _surfa("surface matrix", "a.lta", partial(_write_lta, "surf"), pairs=FIRST),
    *(
        _surfa(f"{name} warp", "w.mgz", partial(_write_warp, n), is_field=True, kept=True)
        for n, name in enumerate(_MEANINGS)
    ),
    Read("surfa", "surfa", "matrix in a.lta", _read_lta),
    Read("surfa", "surfa", "matrix and field in w.mgz", _read_warp),
)
