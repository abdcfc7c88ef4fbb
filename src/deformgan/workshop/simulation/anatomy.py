"""The label map that comes with the package, and any other label map as one of the same kind."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from deformgan.errors import InputError
from deformgan.io.image import Image, load_labels
from deformgan.spatial.grid import Grid
from deformgan.workshop.simulation.contrasts import is_head, strip_labels

_SHIPPED = files("deformgan.workshop.simulation") / "anatomy_data" / "labels.nii.gz"
_MIN_BRAIN_VOXELS = 1000
_LARGEST_ID = 15000  # the last of FreeSurfer's colour table is somewhat below


def load_anatomy() -> Image:
    """The shipped brain: FreeSurfer-like ids (uint8) at 1 mm, derived from the ICBM 152 templates (see its NOTICE).

    An average brain: more symmetric and with shallower sulci than anybody's. It has cortex, white matter, ventricles,
    deep grey nuclei, cerebellum, brain stem and the fluid around them.
    """
    with as_file(_SHIPPED) as path:
        return load_labels(path, name="the shipped anatomy")


def read_anatomy(path: str | Path) -> Image:
    """A label map with FreeSurfer-like ids as a brain alone, along the world axes (RAS+), its voxels kept.

    A map of the whole head is stripped. Oblique maps are brought to the nearest axes.

    Raises:
        InputError: as `deformgan.io.image.load_labels`, ids that FreeSurfer does not have, or there is hardly any brain
            in it.
    """
    image = _to_ras(load_labels(path))
    low, high = int(image.data.min()), int(image.data.max())
    if low < 0 or high > _LARGEST_ID:
        raise InputError(
            f"{image.name} holds the label {low if low < 0 else high}, which FreeSurfer does not have",
            f"use ids from 0 (background) to {_LARGEST_ID}",
        )
    labels = torch.from_numpy(np.ascontiguousarray(image.data, dtype=np.int64))
    if is_head(labels):
        try:
            labels, _ = strip_labels(labels, float(image.grid.spacing.mean()))
        except ValueError:
            labels = torch.zeros_like(labels)
    if int((labels > 0).sum()) < _MIN_BRAIN_VOXELS:
        raise InputError(f"{image.name} shows no brain", "give a label map with FreeSurfer's ids (2, 3, 41, 42, …)")
    return Image(labels.numpy().astype(np.int32), image.grid, image.name)


def _to_ras(image: Image) -> Image:
    """Axes swapped and flipped so that each points right, forward and up as nearly as it can."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(image.grid.affine)
    data = apply_orientation(image.data, orientation)
    affine = image.grid.affine @ inv_ornt_aff(orientation, image.data.shape)
    return Image(data, Grid(data.shape, affine), image.name)
