"""report.html: one self-contained file, written from what a registration found."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, Template

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.output.registration import Registration
from deformgan.output.report import outlines, texts, views
from deformgan.output.report.cells import LABEL_COLOURS, Drawn, draw
from deformgan.output.report.figures import figures, origin, tiles, verdict
from deformgan.output.report.material import Material, read_selections
from deformgan.output.report.synthesis import Synthesis, synthesise
from deformgan.output.report.volumes import viewer_grid, viewer_volumes

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of dist/niivue.umd.js


@dataclass(frozen=True, eq=False)
class Pictures:
    """What takes a page's time, and is no matter of the files that a registration is written to.

    Attributes:
        material: What is drawn.
        synthesis_told: How well the generator's image lies on the moved one, or why there is none.
        drawn: Pictures and lines, slice by slice.
        volumes: Of the interactive viewer, which is most of a page; None without it.
    """

    material: Material
    synthesis_told: str
    drawn: Drawn
    volumes: list[dict[str, Any]] | None

    @classmethod
    def of(cls, material: Material, synthesis_told: str = "", *, viewer: bool = True) -> Pictures:
        """Everything drawn."""
        drawn = draw(material)
        return cls(material, synthesis_told, drawn, _volumes(material, drawn) if viewer else None)


def write_report(path: Path, record: dict[str, Any], pictures: Pictures) -> None:
    """Write the page of one registration, whole or not at all.

    Args:
        path: Of the HTML file.
        record: What registration.json holds.
        pictures: What the page shows of it.
    """
    page = render(record, pictures)
    with atomic(path) as partial:
        partial.write_bytes(page.encode("utf-8", "replace"))


def report_of(
    found: Registration, record: dict[str, Any], path: Path, pictures: Callable[[], Pictures] | None = None
) -> None:
    """Write the page of what `deformgan.register` found in memory, and ``record`` as `Registration.write` gave it.

    Args:
        pictures: Gives those of `pictures_of`, if that was begun already.

    Raises:
        ValueError: The registration does not carry its pair.
    """
    write_report(path, record, pictures_of(found) if pictures is None else pictures())


def pictures_of(found: Registration) -> Pictures:
    """Those of what `deformgan.register` found in memory, before or beside its writing.

    Raises:
        ValueError: The registration does not carry its pair.
    """
    record = found.provenance
    made = Synthesis(None) if found.pair is None else synthesise(record, found.pair[0], found.moved)
    page_template()
    return Pictures.of(material_of(found, record, made), made.told)


def material_of(found: Registration, record: dict[str, Any], made: Synthesis | None = None) -> Material:
    """What a picture of a registration is drawn from.

    Args:
        record: Names the files of masks and lesions; those that are gone are left out.
        made: The generator's image, if it was asked for.

    Raises:
        ValueError: The registration does not carry its pair.
    """
    if found.pair is None:
        raise ValueError("a report is drawn of a registration that carries its pair")
    return Material(
        *found.pair,
        found.moved,
        found.transform,
        uncertainty=found.uncertainty,
        synthesis=made.image if made else None,
        labels=found.moved_labels,
        points_mm=None if found.moved_points is None else found.moved_points.positions_mm,
        selections=read_selections(record),
    )


@cache
def page_template() -> Template:
    """Compiled once a process: that takes a third of a second, and a worker of a cohort writes many pages."""
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("report.html.j2").decode()
    )


def render(record: dict[str, Any], pictures: Pictures) -> str:
    """The page as text; whatever comes from files is escaped."""
    material, drawn, viewer = pictures.material, pictures.drawn, pictures.volumes is not None
    script, viewer_script = _asset("report.js").decode(), _asset("viewer.js").decode() if viewer else ""
    library = gzip.decompress(_asset("niivue.umd.js.gz")).decode() if viewer else ""
    if viewer and hashlib.sha256(library.encode()).hexdigest() != NIIVUE_SHA256:
        raise InputError("the viewer in this installation is damaged", "install deformgan again")
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in (script, viewer_script, library) if text)
    names = {role: texts.file_name(record, role) for role in ("fixed", "moving")}
    return page_template().render(
        record=record,
        csp=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sources}; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'",
        style=_asset("report.css").decode(),
        script=script,
        viewer_script=viewer_script,
        library=library,
        verdict=verdict(record),
        tiles=tiles(record),
        figures=figures(record),
        origin=origin(record),
        drawn=drawn,
        units=outlines.UNITS,
        label_colours=LABEL_COLOURS,
        bars=_bars(drawn),
        omitted=_omitted(drawn, pictures.synthesis_told),
        synthesis_told=pictures.synthesis_told,
        images=texts.image_facts(material, names),
        overlap=texts.overlap_sentence(material),
        before=texts.before_sentence(material),
        command=texts.command(record),
        methods=texts.methods(record, material, names),
        references=texts.references(record),
        volumes=pictures.volumes,
        voxel_mm=round(float(viewer_grid(material).spacing[0]), 3),
        niivue=NIIVUE_VERSION,
        licences=_asset("niivue.LICENSES.txt").decode() if viewer else "",
        provenance=json.dumps(record, indent=2, ensure_ascii=False),
        fixed_name=names["fixed"],
        moving_name=names["moving"],
    )


def _volumes(material: Material, drawn: Drawn) -> list[dict[str, Any]]:
    which = "displacement" if "displacement" in drawn.rows else "local"
    return viewer_volumes(material, viewer_grid(material), which, drawn.tops_mm[which], drawn.tops_mm["error"])


def _bars(drawn: Drawn) -> dict[str, dict[str, Any]]:
    """Colour bars: the colours as a gradient of CSS, and what stands below it from left to right."""

    def bar(stops: np.ndarray, ticks: list[str]) -> dict[str, Any]:
        return {"colours": ",".join(_hex(colour) for colour in stops), "ticks": ticks}

    def amounts(stops: np.ndarray, top: float) -> dict[str, Any]:
        return bar(stops, ["0", f"{top / 2:g}", f"{top:g} mm"])

    tops = drawn.tops_mm
    return {
        "change": bar(views.CHANGE_COLOURS, ["shrank to ½", "unchanged", "grew to 2 ×"]),
        "displacement": amounts(views.LENGTH_COLOURS, tops["displacement"]),
        "local": amounts(views.LENGTH_COLOURS, tops["local"]),
        "error": amounts(views.ERROR_COLOURS, tops["error"]),
    }


def _omitted(drawn: Drawn, synthesis_told: str) -> list[str]:
    """Why panels are missing that a reader may look for."""
    reasons = []
    if "change" not in drawn.rows:
        reasons.append("The map changes every volume alike, so there is no map of the volume change.")
    if "error" not in drawn.rows:
        reasons.append("The expected error was not mapped; deformgan register --uncertainty does it.")
    if "synthesis" not in drawn.rows and synthesis_told:
        reasons.append(synthesis_told)
    return reasons


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{int(v):02x}" for v in colour)


def _asset(name: str) -> bytes:
    return (files("deformgan.output.report") / "assets" / name).read_bytes()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
