"""Transforms of nitransforms, which knows the files of ITK, FSL, FreeSurfer, AFNI and its own, both ways."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from grids import PLAIN, flipped

from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform, load_transform
from peers.files import FIRST, Read, Written, whole_map
from peers.maps import AFFINE, as_nibabel, moved, some_map, voxels
from peers.outcome import same_points

FLOAT32_MM = 2e-3  # nitransforms keeps some matrices in 32 bits
# FSL's fields it reads and writes in one case: both images stored as FSL counts, on one grid
_LAS = {"as FSL counts": (flipped(PLAIN, (0,)), flipped(PLAIN, (0,)))}


def _write(fmt: str, name: str, fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.linear import Affine

    Affine(AFFINE, reference=as_nibabel(fixed)).to_filename(folder / name, fmt=fmt, moving=as_nibabel(moving))


def _write_field(fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.io.itk import ITKDisplacementsField

    image = nib.Nifti1Image(whole_map(fixed)[..., None, :].copy(), fixed.affine)
    ITKDisplacementsField.to_filename(image, folder / "w.nii.gz")


def _write_fsl_field(fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.io.fsl import FSLDisplacementsField

    image = nib.Nifti1Image(whole_map(fixed).copy(), fixed.affine)
    FSLDisplacementsField.to_filename(image, folder / "w.nii.gz")


def _read(fmt: str, name: str, fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.linear import load

    Transform(AFFINE).save(folder / name, fixed, moving=moving, file_format="fsl" if fmt == "fsl" else None)
    theirs = load(folder / name, fmt=fmt, reference=as_nibabel(fixed), moving=as_nibabel(moving))
    points = voxels(fixed)
    same_points(moved(AFFINE, points), theirs.map(points), FLOAT32_MM if fmt in ("fs", "fsl") else 1e-3)


def _read_field(fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.io.itk import ITKDisplacementsField

    some_map().save(folder / "w.nii.gz", fixed)
    theirs = ITKDisplacementsField.from_filename(folder / "w.nii.gz")
    assert np.abs(theirs.affine - fixed.affine).max() < 1e-3
    same_points(whole_map(fixed), np.squeeze(np.asanyarray(theirs.dataobj)))


def _read_composite(fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.io.itk import ITKCompositeH5

    some_map().save(folder / "c.h5", fixed)
    affine, field = ITKCompositeH5.from_filename(folder / "c.h5")
    points = voxels(fixed)
    index = np.rint(fixed.to_index(points)).astype(int)
    there = points + np.squeeze(np.asanyarray(field.dataobj))[tuple(index.T)]
    same_points(load_transform(folder / "c.h5").map_points(points), moved(affine.to_ras(), there))


def _read_fsl_field(fixed: Grid, moving: Grid, folder: Path) -> None:
    from nitransforms.io.fsl import FSLDisplacementsField

    some_map().save(folder / "w.nii.gz", fixed, moving=moving, file_format="fsl")
    same_points(whole_map(fixed), FSLDisplacementsField.from_filename(folder / "w.nii.gz").get_fdata())


_FILES = (("itk", "a.tfm"), ("itk", "a.txt"), ("itk", "aGenericAffine.mat"), ("fs", "a.lta"))
_it = partial(Written, "nitransforms", "nitransforms")
_ours = partial(Read, "nitransforms", "nitransforms")
WAYS = (
    *(_it("matrix", name, partial(_write, fmt, name)) for fmt, name in (*_FILES, ("fsl", "a.fsl"), ("fsl", "a.mat"))),
    _it("matrix", "a.afni", partial(_write, "afni", "a.afni"), pairs=FIRST),
    _it("matrix", "a.x5", partial(_write, "X5", "a.x5"), pairs=FIRST),
    _it("field", "w.nii.gz", _write_field, is_field=True),
    _it("FSL field", "w.nii.gz", _write_fsl_field, is_field=True, words={"file_format": "fsl"}, pairs=_LAS),
    *(_ours(f"matrix in {name}", partial(_read, fmt, name)) for fmt, name in (*_FILES, ("fsl", "a.mat"))),
    _ours("matrix and field in w.nii.gz", _read_field),
    _ours("matrix and field in c.h5", _read_composite),
    _ours("FSL field in w.nii.gz", _read_fsl_field, pairs=_LAS),
)
