"""report.html: one self-contained file, written from what a registration found."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.io.image import Image
from deformgan.output.registration import Registration
from deformgan.output.report import views
from deformgan.output.report.figures import figures, origin, verdict
from deformgan.output.report.png import data_url
from deformgan.output.report.synthesis import Synthesis, synthesise
from deformgan.output.report.volumes import Shown, gather, nifti_base64
from deformgan.transforms.transform import Transform

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of dist/niivue.umd.js


def write_report(
    path: Path,
    record: dict[str, Any],
    fixed: Image,
    moving: Image,
    moved: Image,
    transform: Transform,
    *,
    jacobian: Image | None = None,
    uncertainty: Image | None = None,
    synthesis: Synthesis | None = None,
    viewer: bool = True,
) -> None:
    """Write the page of one registration, whole or not at all.

    Args:
        path: Of the HTML file.
        record: What registration.json holds.
        fixed, moving, moved: The pair, and the moving image on the fixed image's grid.
        transform: Fixed to moving space.
        jacobian: Of the transform, if it is at hand; taking it of a fine field costs seconds.
        uncertainty: Expected error in mm, on any grid in fixed space.
        synthesis: What the generator makes of the moved image, or why there is nothing; None leaves the panel out.
        viewer: With the interactive viewer, which is most of the file.
    """
    made = synthesis.image if synthesis else None
    shown = gather(fixed, moving, moved, transform, jacobian=jacobian, uncertainty=uncertainty, synthesis=made)
    page = render(record, shown, no_synthesis=synthesis.why if synthesis else "", viewer=viewer)
    with atomic(path) as partial:
        partial.write_bytes(page.encode("utf-8", "replace"))


def report_of(found: Registration, record: dict[str, Any], path: Path) -> None:
    """Write the page of what `deformgan.register` found in memory, and ``record`` as `Registration.write` gave it.

    Raises:
        ValueError: The registration does not carry its pair.
    """
    if found.pair is None:
        raise ValueError("a report is drawn of a registration that carries its pair")
    fixed, moving = found.pair
    made = synthesise(record, fixed, found.moved)
    write_report(
        path, record, fixed, moving, found.moved, found.transform, uncertainty=found.uncertainty, synthesis=made
    )


def render(record: dict[str, Any], shown: Shown, *, no_synthesis: str = "", viewer: bool = True) -> str:
    """The page as text; whatever comes from files is escaped."""
    script = _asset("report.js").decode()
    library = gzip.decompress(_asset("niivue.umd.js.gz")).decode() if viewer else ""
    if viewer and hashlib.sha256(library.encode()).hexdigest() != NIIVUE_SHA256:
        raise InputError("the viewer in this installation is damaged", "install deformgan again")
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in (script, library) if text)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("report.html.j2").decode()
    )
    most_mm = _most_mm(shown)
    return template.render(
        record=record,
        csp=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sources}; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'",
        style=_asset("report.css").decode(),
        script=script,
        library=library,
        verdict=verdict(record),
        figures=figures(record),
        origin=origin(record),
        planes=[_panels(shown, plane, most_mm) for plane in views.PLANES],
        most_mm=most_mm,
        has_uncertainty=shown.uncertainty is not None,
        has_synthesis=shown.synthesis is not None,
        no_synthesis=no_synthesis,
        volumes=_volumes(shown) if viewer else None,
        niivue=NIIVUE_VERSION,
        licences=_asset("niivue.LICENSES.txt").decode() if viewer else "",
        provenance=json.dumps(record, indent=2, ensure_ascii=False),
        fixed_name=_name(record, "fixed"),
        moving_name=_name(record, "moving"),
    )


def _panels(shown: Shown, plane: str, most_mm: float) -> dict[str, Any]:
    """Addresses of one plane's pictures, by name, with their size in pixels."""

    def at(volume: np.ndarray) -> np.ndarray:
        return views.cut(volume, plane, shown.centre)

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
        pictures["uncertainty"] = lambda: views.uncertainty_map(at(doubt), mask, most_mm)
    if (made := shown.synthesis) is not None:
        pictures["synthesis"] = lambda: views.grey(at(made))
    lines = "".join(views.grid_lines(at(shown.displacement), mask, plane, shown.spacing))
    rows, columns = fixed.shape
    return {"name": plane, "width": columns, "height": rows, "lines": lines} | {
        name: data_url(draw()) for name, draw in pictures.items()
    }


def _most_mm(shown: Shown) -> float:
    """The lightest colour of the uncertainty's map: whole millimetres, so that its legend is easy to read."""
    if shown.uncertainty is None or not shown.mask.any():
        return 1.0
    return float(max(1, math.ceil(np.quantile(shown.uncertainty[shown.mask][::7], 0.99) - 1e-3)))


def _volumes(shown: Shown) -> dict[str, str]:
    one = {"fixed": shown.fixed, "moved": shown.moved}
    packed = {name: nifti_base64(volume, shown.grid, 0.0, 1.0) for name, volume in one.items()}
    change = np.where(shown.mask, np.log2(np.maximum(shown.jacobian, 1e-6)), 0.0)
    return {**packed, "jacobian": nifti_base64(change, shown.grid, -1.0, 1.0)}


def _name(record: dict[str, Any], role: str) -> str:
    path = record.get("inputs", {}).get(role, {}).get("path")
    return Path(path).name if path else f"{role} image"


def _asset(name: str) -> bytes:
    return (files("deformgan.output.report") / "assets" / name).read_bytes()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
