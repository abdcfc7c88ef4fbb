"""A folder of DICOM files as one volume: whether its slices make one is checked, which SimpleITK does not do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError

_ENDINGS = (".dcm", ".ima")
_TYPE, _POSITION, _ORIENTATION, _FRAMES = "0008|0008", "0020|0032", "0020|0037", "0028|0008"
_UNEVEN = 0.02  # of the distance between slices, and of a direction's length
_CONVERT = "convert it, which sorts such files: dcm2niix -z y {0}"


def holds_dicom(folder: Path) -> bool:
    """Whether one of a folder's first files is of DICOM."""
    for one in sorted(os.scandir(folder), key=lambda one: one.name)[:64]:
        if one.name.lower().endswith(_ENDINGS):
            return True
        if one.is_file() and one.stat().st_size > 132:
            with open(one.path, "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False


def series_reader(folder: Path, sitk: Any) -> Any:
    """SimpleITK's reader of the one series in a folder; `require_volume` afterwards says whether it was one volume.

    Raises:
        InputError: None or several series, or one file with several frames.
    """
    reader = sitk.ImageSeriesReader()
    ids = reader.GetGDCMSeriesIDs(str(folder))
    if len(ids) != 1:
        what = f"{len(ids)} DICOM series" if ids else "no DICOM series that makes an image"
        raise InputError(f"{folder} holds {what}", "give a folder with the slices of one series")
    names = reader.GetGDCMSeriesFileNames(str(folder), ids[0])
    first = sitk.ImageFileReader()
    first.SetFileName(names[0])
    first.ReadImageInformation()
    # a frame may be a slice, or a moment, or a weighting: SimpleITK does not say which
    if _tag(first, _FRAMES).strip() not in ("", "0", "1"):
        raise InputError(f"{names[0]} holds several frames in one DICOM file", _CONVERT.format(folder))
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    return reader


def require_volume(reader: Any, folder: Path) -> None:
    """Raise `InputError` where the slices that were read are no volume on one grid of right angles.

    That is where a file is a mosaic of slices, where two lie in one place (moments, echoes, weightings), where they lie
    at uneven distances (one is missing), in several orientations, or aslant behind each other (a tilted gantry).
    """
    slices = [_place(reader, number) for number in range(len(reader.GetFileNames()))]
    if any("MOSAIC" in _tag(reader, _TYPE, number) for number in range(len(slices))):
        raise InputError(f"{folder} holds mosaics: all slices of a volume in one picture", _CONVERT.format(folder))
    if len(slices) < 2 or any(one is None for one in slices):
        return  # what remains is not 3-D, or of a kind that has no places, such as a scan of paper
    positions, orientations = (np.array(one) for one in zip(*[one for one in slices if one], strict=True))
    across = np.cross(orientations[0, :3], orientations[0, 3:])
    steps = np.diff(positions, axis=0)
    along = steps @ across
    if np.abs(orientations - orientations[0]).max() > _UNEVEN:
        raise InputError(f"{folder} holds slices of several orientations", "give a folder with the slices of one")
    if np.abs(along).min() < 1e-3:
        what = "several slices in one place: moments, echoes or weightings of one series"
        raise InputError(f"{folder} holds {what}", _CONVERT.format(folder))
    step = float(np.median(along))
    if np.abs(along - step).max() > _UNEVEN * abs(step):
        gap = f"from {np.abs(along).min():.4g} to {np.abs(along).max():.4g} mm"
        hint = "copy the whole series again: a slice is missing, or give a folder without the odd ones"
        raise InputError(f"{folder}: its slices lie at uneven distances, {gap}", hint)
    aslant = np.abs(steps - along[:, None] * across).max()
    if aslant > _UNEVEN * abs(step):
        raise InputError(
            f"{folder}: its slices lie aslant behind each other (a tilted gantry)", _CONVERT.format(folder)
        )


def _place(reader: Any, number: int) -> tuple[list[float], list[float]] | None:
    """Position and orientation of a slice, LPS mm; None where it does not say."""
    try:
        position, orientation = (
            [float(v) for v in _tag(reader, t, number).split("\\")] for t in (_POSITION, _ORIENTATION)
        )
    except ValueError:
        return None
    return (position, orientation) if len(position) == 3 and len(orientation) == 6 else None


def _tag(reader: Any, tag: str, *number: int) -> str:
    """An entry as text; nothing where there is none or it is no text."""
    try:
        return reader.GetMetaData(*number, tag) if reader.HasMetaDataKey(*number, tag) else ""
    except UnicodeDecodeError:
        return ""
