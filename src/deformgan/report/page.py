"""report.html: one self-contained file, written from what a registration found or rebuilt from its folder."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from deformgan.errors import InputError
from deformgan.files import atomic
from deformgan.image import Image, load_image
from deformgan.outputs import RECORD, REPORT
from deformgan.provenance import sha256
from deformgan.report import views
from deformgan.report.figures import figures
from deformgan.report.png import data_url
from deformgan.report.volumes import Shown, gather, nifti_base64
from deformgan.transform import Transform, load_transform

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of dist/niivue.umd.js
_UNCERTAINTY = "uncertainty.nii.gz"


def write_report(
    path: Path,
    record: dict[str, Any],
    fixed: Image,
    moving: Image,
    moved: Image,
    transform: Transform,
    *,
    uncertainty: Image | None = None,
    viewer: bool = True,
) -> None:
    """Write the page of one registration, whole or not at all.

    Args:
        path: Of the HTML file.
        record: What registration.json holds.
        fixed, moving, moved: The pair, and the moving image on the fixed image's grid.
        transform: Fixed to moving space.
        uncertainty: Of the displacement in mm, on any grid in fixed space.
        viewer: With the interactive viewer, which is most of the file.
    """
    shown = gather(fixed, moving, moved, transform, uncertainty)
    page = render(record, shown, viewer=viewer)
    with atomic(path) as partial:
        partial.write_text(page, encoding="utf-8")


def rebuild_report(folder: Path, *, viewer: bool = True) -> Path:
    """Write the page again from registration.json and the files it names; returns its path.

    Raises:
        InputError: A file is missing, unreadable or not the one that was registered.
    """
    record = _read_record(folder)
    sums = record.get("output_sha256", {})
    for name in ("moved.nii.gz", "warp.nii.gz"):
        _require(folder / name, sums.get(name))
    sources = {role: record["inputs"][role] for role in ("fixed", "moving")}
    for role, source in sources.items():
        if source["path"] is None:
            raise InputError(f"{folder}: the {role} image was never a file", "register the pair from files")
        _require(Path(source["path"]), source["sha256"])
    uncertainty = None
    if (folder / _UNCERTAINTY).is_file():
        _require(folder / _UNCERTAINTY, sums.get(_UNCERTAINTY))
        uncertainty = load_image(folder / _UNCERTAINTY)
    fixed, moving = (load_image(source["path"]) for source in sources.values())
    moved, transform = load_image(folder / "moved.nii.gz"), load_transform(folder / "warp.nii.gz")
    write_report(folder / REPORT, record, fixed, moving, moved, transform, uncertainty=uncertainty, viewer=viewer)
    return folder / REPORT


def render(record: dict[str, Any], shown: Shown, *, viewer: bool = True) -> str:
    """The page as text; whatever comes from files is escaped."""
    script = _asset("report.js").decode()
    library = gzip.decompress(_asset("niivue.umd.js.gz")).decode() if viewer else ""
    if viewer and hashlib.sha256(library.encode()).hexdigest() != NIIVUE_SHA256:
        raise InputError("the viewer in this installation is damaged", "install deformgan again")
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in (script, library) if text)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("report.html.j2").decode()
    )
    return template.render(
        record=record,
        csp=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sources}; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'",
        style=_asset("report.css").decode(),
        script=script,
        library=library,
        figures=figures(record["quality"]),
        planes=[_panels(shown, plane) for plane in views.PLANES],
        has_uncertainty=shown.uncertainty is not None,
        volumes=_volumes(shown) if viewer else None,
        niivue=NIIVUE_VERSION,
        provenance=json.dumps(record, indent=2, ensure_ascii=False),
        fixed_name=_name(record, "fixed"),
        moving_name=_name(record, "moving"),
    )


def _panels(shown: Shown, plane: str) -> dict[str, Any]:
    """Addresses of one plane's pictures, by name, with their size in pixels of the page."""

    def at(volume: np.ndarray) -> np.ndarray:
        return views.cut(volume, plane, shown.centre)

    def url(pixels: np.ndarray) -> str:
        return data_url(views.enlarge(pixels))

    fixed, moving, moved, mask = (at(v) for v in (shown.fixed, shown.moving, shown.moved, shown.mask))
    pictures: dict[str, Callable[[], np.ndarray]] = {
        "fixed": lambda: views.grey(fixed),
        "before": lambda: views.grey(moving),
        "after": lambda: views.grey(moved),
        "checkerboard": lambda: views.checkerboard(fixed, moved, shown.spacing),
        "edges": lambda: views.edges_over(fixed, moved, mask),
        "jacobian": lambda: views.jacobian_map(at(shown.jacobian), mask),
    }
    if (doubt := shown.uncertainty) is not None:
        top = float(np.quantile(doubt[shown.mask], 0.99)) if shown.mask.any() else 1.0
        pictures["uncertainty"] = lambda: views.uncertainty_map(at(doubt), mask, top)
    lines = "".join(views.grid_lines(at(shown.displacement), mask, plane, shown.spacing))
    rows, columns = fixed.shape
    return {"name": plane, "width": columns, "height": rows, "lines": lines} | {
        k: url(f()) for k, f in pictures.items()
    }


def _volumes(shown: Shown) -> dict[str, str]:
    one = {"fixed": shown.fixed, "moved": shown.moved}
    packed = {name: nifti_base64(volume, shown.grid, 0.0, 1.0) for name, volume in one.items()}
    change = np.where(shown.mask, np.log2(np.maximum(shown.jacobian, 1e-6)), 0.0)
    return {**packed, "jacobian": nifti_base64(change, shown.grid, -1.0, 1.0)}


def _name(record: dict[str, Any], role: str) -> str:
    path = record.get("inputs", {}).get(role, {}).get("path")
    return Path(path).name if path else f"{role} image"


def _asset(name: str) -> bytes:
    return (files("deformgan.report") / "assets" / name).read_bytes()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder} holds no {RECORD}", "name a folder that deformgan register wrote")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not {"quality", "inputs", "timings"} <= record.keys() or not {"fixed", "moving"} <= record["inputs"].keys():
            raise ValueError("fields are missing")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not the record of a registration: {error}", "register again") from error
    return record


def _require(path: Path, checksum: str | None) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing", "put it back, or register again")
    if checksum is not None and sha256(path) != checksum:
        raise InputError(f"{path} is not the file that was registered: its checksum differs", "register again")
