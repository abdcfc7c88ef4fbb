"""The report of a folder of results again: everything it is made from is checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.io.image import Image, load_image, load_labels
from deformgan.io.points import read_points
from deformgan.io.untrusted import parse_json, read_nifti, read_small
from deformgan.output.folder import RECORD, REPORT
from deformgan.output.provenance import sha256
from deformgan.output.report.material import Material, read_selections
from deformgan.output.report.page import Pictures, write_report
from deformgan.output.report.synthesis import synthesise
from deformgan.transforms.chain import single
from deformgan.transforms.transform import load_transform

_MAPS = ("jacobian", "uncertainty")
_LABELS, _POINTS = "moved_labels.nii.gz", "moved_points.csv"
_CARRIED = {*(f"{name}.nii.gz" for name in _MAPS), _LABELS, _POINTS}
_WORDS = ("pass", "look", "fail")


def rebuild_report(folder: Path, *, viewer: bool = True) -> Path:
    """Write the page again from registration.json and the files it names; returns its path.

    Raises:
        InputError: A file is missing, unreadable or not the one that was registered.
    """
    record = read_record(folder)
    sums = record.get("output_sha256", {})
    for name in ("moved.nii.gz", "warp.nii.gz"):
        _require(folder / name, sums.get(name))
    sources = {role: record["inputs"][role] for role in ("fixed", "moving")}
    for role, source in sources.items():
        if source["path"] is None:
            raise InputError(f"{folder}: the {role} image was never a file", "register the pair from files")
        _require(Path(source["path"]), source["sha256"])
    fixed, moving = (load_image(source["path"]) for source in sources.values())
    moved, transform = load_image(folder / "moved.nii.gz"), single(load_transform(folder / "warp.nii.gz"))
    there = {path.name for path in folder.iterdir()}
    for name in _CARRIED & there:
        _require(folder / name, sums.get(name))
    maps = {name: _on_the_grid_of(moved, folder / f"{name}.nii.gz") for name in _MAPS if f"{name}.nii.gz" in there}
    made = synthesise(record, fixed, moved)
    material = Material(
        fixed,
        moving,
        moved,
        transform,
        **maps,
        synthesis=made.image,
        affine=_affine_part(record),
        labels=load_labels(folder / _LABELS) if _LABELS in there else None,
        points_mm=read_points(folder / _POINTS).positions_mm if _POINTS in there else None,
        selections=read_selections(record, lambda source: _require(Path(source["path"]), source.get("sha256"))),
    )
    write_report(folder / REPORT, record, Pictures.of(material, made.told, viewer=viewer))
    return folder / REPORT


def _affine_part(record: dict[str, Any]) -> np.ndarray | None:
    """What the record says of it; warp.nii.gz has it fused with the rest."""
    try:
        matrix = np.asarray((record.get("affine") or {})["matrix"], np.float64)
    except (KeyError, TypeError, ValueError):
        return None
    return matrix if matrix.shape == (4, 4) and np.isfinite(matrix).all() else None


def read_record(folder: Path) -> dict[str, Any]:
    """registration.json, with what a report cannot do without.

    Raises:
        InputError: It is missing, no JSON, or not a registration's.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder} holds no {RECORD}", "name a folder that deformgan register wrote")
    try:
        record = parse_json(read_small(path))
        if complaint := _complaint(record):
            raise ValueError(complaint)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    except ValueError as error:
        raise InputError(f"{path} is not the record of a registration: {error}", "register again") from error
    return record


def _on_the_grid_of(moved: Image, path: Path) -> Image:
    """A map as it was written: a constant one, such as the volume change of a rigid map, is no image but a map."""
    values, _ = read_nifti(path)
    if values.shape != moved.data.shape:
        raise InputError(f"{path} is not on the grid of moved.nii.gz", "register again")
    return Image(values, moved.grid)


def _complaint(record: Any) -> str:
    """What the page would stumble over; nothing where it would not."""
    if not isinstance(record, dict):
        return "it is no object"
    for name, kind in (("quality", dict), ("inputs", dict), ("timings", dict)):
        if not isinstance(record.get(name), kind):
            return f"{name} is missing"
    optional = dict.fromkeys(("output_sha256", "settings", "environment", "model", "affine"), dict)
    for name, kind in {"notes": list, **optional}.items():
        if not isinstance(record.get(name, kind()), kind):
            return f"{name} is not what it was"
    if not {"fixed", "moving"} <= record["inputs"].keys():
        return "an input is missing"
    if not all(_is_source(source) for source in record["inputs"].values()):
        return "an input is not described by path and sha256"
    quality = record["quality"]
    if not isinstance(quality.get("passed"), bool) or quality.get("verdict", "pass") not in _WORDS:
        return "the verdict is missing"
    if not all(isinstance(quality.get(name, []), list) for name in ("reasons", "doubts", "causes")):
        return "the reasons are no list"
    others = {key: value for key, value in quality.items() if key not in ("verdict", "reasons", "doubts", "causes")}
    if not all(_is_number(value) or value is None for value in (*others.values(), record.get("peak_memory_mb"))):
        return "a figure is no number"
    parts = record.get("affine")
    if parts and not all(
        _is_number(v) for v in (parts.get("rotation_degrees"), parts.get("shift_mm"), *_scales(parts))
    ):
        return "the affine map is not described"
    if not all(_is_number(value) for value in record["timings"].values()):
        return "a time is no number"
    return ""


def _scales(parts: dict[str, Any]) -> list[Any]:
    scales = parts.get("scales")
    return scales if isinstance(scales, list) else [scales]


def _is_source(source: Any) -> bool:
    return isinstance(source, dict) and all(isinstance(source.get(k, 0), str | None) for k in ("path", "sha256"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _require(path: Path, checksum: str | None) -> None:
    if not path.is_file():
        where = "" if path.is_absolute() else "call this from the folder in which it was registered, "
        raise InputError(f"{path} is missing", f"{where}put it back, or register again")
    if checksum is not None and sha256(path) != checksum:
        raise InputError(f"{path} is not the file that was registered: its checksum differs", "register again")
