"""NRRD, MetaImage and DICOM series through SimpleITK, and the images of SimpleITK and ANTs in memory, LPS → RAS+.

SimpleITK comes with the extra ``itk``; without it a message says so.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io import dicom
from deformgan.io.untrusted import MAX_VOXELS, require_memory

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
_LPS = np.diag([-1.0, -1.0, 1.0])


def is_itk_format(path: Path) -> bool:
    """Whether a file's name, or what lies in a folder, is for SimpleITK to read."""
    return path.name.lower().endswith(ENDINGS) or (os.path.isdir(path) and dicom.holds_dicom(path))


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (D, H, W) in the file's own dtype, Fortran order, and the affine to world mm (RAS+).

    Raises:
        UsageError: SimpleITK is not installed.
        InputError: missing, damaged, several DICOM series, slices that make no volume, too large, or not scalar.
    """
    reader, _ = _reader(path)
    try:
        image = reader.Execute()
        if os.path.isdir(path):
            dicom.require_volume(reader, path)
        return from_simpleitk(image, str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def read_itk_geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine alone; of a DICOM series the slices have to be read for it. Errors as `read_itk`."""
    reader, sitk = _reader(path)
    if isinstance(reader, sitk.ImageSeriesReader):
        data, affine = read_itk(path)
        return data.shape, affine
    size, three = tuple(map(int, reader.GetSize())), reader.GetDimension() == 3
    if not three:
        raise InputError(f"{path} is {reader.GetDimension()}-D, not 3-D", "give a volume")
    return size, _affine(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def _reader(path: Path) -> tuple[Any, Any]:
    """A reader that knows what it is going to read, its size checked; and the module."""
    sitk = _simpleitk(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist", "check the path")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if os.path.isdir(path):
            return dicom.series_reader(path, sitk), sitk
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    count = prod(map(int, reader.GetSize()))
    if count > MAX_VOXELS:
        raise InputError(f"{path}: its header claims the impossible shape {tuple(reader.GetSize())}", "copy it again")
    require_memory(path, 8 * count)
    return reader, sitk


def from_simpleitk(image: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (D, H, W), Fortran order, and affine (RAS+) of a SimpleITK image."""
    import SimpleITK as sitk  # noqa: N813 — as everybody writes it

    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{name} holds several numbers a voxel", "give a scalar image")
    if image.GetDimension() != 3:
        raise InputError(f"{name} is {image.GetDimension()}-D, not 3-D", "give a volume of several slices")
    data = sitk.GetArrayFromImage(image).T  # ITK's first axis is numpy's last
    return data, _affine(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def from_ants(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine (RAS+) of an ANTs image."""
    return np.asarray(image.numpy()), _affine(image.spacing, image.origin, np.ravel(image.direction))


def _affine(spacing: Any, origin: Any, direction: Any) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = _LPS @ np.reshape(direction, (3, 3)) * np.asarray(spacing)
    affine[:3, 3] = _LPS @ np.asarray(origin)
    return affine


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK as sitk  # noqa: N813 — as everybody writes it
    except ImportError as error:
        kind = "a folder of DICOM files" if os.path.isdir(path) else f"a {path.suffix} image"
        hint = "pip install 'deformgan[itk]', or convert it to .nii.gz"
        raise UsageError(f"{path} is {kind}, which needs SimpleITK", hint) from error
    return sitk


def _unreadable(path: Path, error: Exception) -> InputError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = (lines[-1] if lines else type(error).__name__)[:200]
    return InputError(f"{path} cannot be read as an image: {reason}", "copy or export it again")
