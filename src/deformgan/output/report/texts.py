"""What a report says in words to be copied: the images, the command, and a paragraph for the methods section."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

import numpy as np

from deformgan.align.options import Options
from deformgan.io.image import Image
from deformgan.output.report.material import Material

REFERENCES = (
    "The deformgan authors. deformgan: dense alignment of 3-D medical images of different modality. "
    "Version {version}. Software, Apache-2.0.",
    "Zhang X, Jian W, Chen Y, Yang S. Deform-GAN: An Unsupervised Learning Model for Deformable Registration. "
    "arXiv:2002.11430, 2020.",
)
# options that say nothing when they have these values
_DEFAULTS = {field.name: field.default for field in fields(Options)} | {"weights": "t1-t2"}
_SHORT = {"fixed": "-f", "moving": "-m", "out": "-o"}
_SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
_STARTS = {
    "deform": "starting from the position in the headers",
    "joint": "starting from an affine map that was searched over all rotations",
}


@dataclass(frozen=True)
class ImageFacts:
    """One image in words: ``name``, and rows of what, value."""

    role: str
    name: str
    rows: list[tuple[str, str]]


def image_facts(material: Material, names: dict[str, str]) -> list[ImageFacts]:
    """Size, spacing, orientation and values of both images."""
    images = {"Fixed": material.fixed, "Moving": material.moving}
    return [ImageFacts(role, names[role.lower()], _facts(image)) for role, image in images.items()]


def overlap_sentence(material: Material) -> str:
    """How much of the fixed content the moving image covers, before and after."""
    before, after = (f"{100 * share:.0f} %" for share in material.overlap)
    return (
        f"Of what the fixed image shows, {before} lies within the moving image's field of view as the headers place "
        f"it, {after} by the map."
    )


def before_sentence(material: Material) -> str:
    """How the moving image is shown before registration, where it is not as its header has it."""
    shift = float(np.linalg.norm(material.before.affine[:3, 3]))
    if not shift:
        return ""
    return (
        f"The headers place the images apart. Before registration the moving image is shown {shift:.0f} mm from where "
        "its header places it, so that the middles of both contents meet."
    )


def command(record: dict[str, Any]) -> str:
    """What to type, or to call in Python, to do the same again; options that say nothing are left out."""
    given = record.get("arguments")
    if isinstance(given, dict) and isinstance(given.get("command"), str):
        return _shell(given)
    return _python(record)


def methods(record: dict[str, Any], material: Material, names: dict[str, str]) -> str:
    """A paragraph that says what was done, for the methods section of a paper; numbers in brackets are `REFERENCES`."""
    settings, model = record.get("settings", {}), record.get("model") or {}
    version = record.get("environment", {}).get("deformgan", "")
    kind, steps = settings.get("transform", "deform"), settings.get("refine_steps")
    parts = [
        f"The moving image ({names['moving']}, {_size(material.moving)}) was aligned to the fixed image "
        f"({names['fixed']}, {_size(material.fixed)}) with deformgan {version} [1]."
    ]
    if brains := settings.get("brains"):
        weights = next(iter(brains.values()))["sha256"][:12]
        parts.append(
            f"The brain in the {' and in the '.join(brains)} image was found by a network taught with made heads "
            f"(SHA-256 {weights}); what is outside it was not compared."
        )
    if settings.get("one_mask"):
        parts.append("One mask had cut both images; its border was not compared.")
    if not model:
        parts.append(f"{'An affine' if kind == 'affine' else 'A rigid'} map was searched over all rotations.")
    else:
        start = "starting from a given map" if settings.get("init") else _STARTS.get(kind, "")
        parts.append(
            f"A convolutional network (weights {model.get('name')}, SHA-256 {str(model.get('sha256'))[:12]}) predicted "
            f"a dense displacement field, {start}{_on_grid(settings)}; it was trained without labels and landmarks, "
            "after the idea of Deform-GAN [2]."
        )
        if steps:
            parts.append(
                f"The field was then refined for this pair by {steps} steps of optimisation{_weight(settings)}."
            )
    if any(role in record.get("inputs", {}) for role in ("fixed_lesion", "moving_lesion")):
        parts.append("Marked lesions were left out of the comparison, and the map there follows from what is around.")
    parts.append("The moving image was resampled once, with linear interpolation.")
    if material.labels is not None:
        parts.append("Labels were carried along: a voxel got the one with the largest share of the eight around it.")
    return " ".join([*parts, _found(record["quality"])])


def references(record: dict[str, Any]) -> list[str]:
    """What `methods` cites."""
    version = str(record.get("environment", {}).get("deformgan", ""))
    return [text.replace("{version}", version) for text in REFERENCES[: 2 if record.get("model") else 1]]


def _facts(image: Image) -> list[tuple[str, str]]:
    from nibabel.affines import obliquity
    from nibabel.orientations import aff2axcodes

    grid = image.grid
    codes = [str(code) for code in aff2axcodes(grid.affine)]
    tilt = float(np.degrees(obliquity(grid.affine).max()))
    words = ", ".join(_SIDES[code] for code in codes)
    oblique = f"; oblique by {tilt:.0f}°" if tilt > 0.5 else ""
    extent = " × ".join(f"{n:.0f}" for n in grid.spacing * grid.shape)
    values = f"{image.data.min():.4g} to {image.data.max():.4g} ({image.data.dtype})"
    return [
        ("Size", f"{' × '.join(map(str, grid.shape))} voxels"),
        ("Spacing", f"{_spacing(image)} mm"),
        ("Covers", f"{extent} mm"),
        ("Orientation", f"{''.join(codes)} (axes run to the {words}){oblique}"),
        ("Values", values),
    ]


def _spacing(image: Image) -> str:
    return " × ".join(f"{s:.2f}".rstrip("0").rstrip(".") for s in image.grid.spacing)


def _size(image: Image) -> str:
    return f"{' × '.join(map(str, image.grid.shape))} voxels of {_spacing(image)} mm"


def _on_grid(settings: dict[str, Any]) -> str:
    shape, spacing = settings.get("working_grid"), settings.get("working_spacing_mm")
    if not isinstance(shape, list) or not isinstance(spacing, int | float):
        return ""
    return f", on images resampled to {' × '.join(map(str, shape))} voxels of {spacing:.3g} mm"


def _weight(settings: dict[str, Any]) -> str:
    smoothness = settings.get("smoothness", 1.0)
    return "" if smoothness == 1.0 else f" (smoothness {smoothness})"


def _found(quality: dict[str, Any]) -> str:
    found = []
    if quality.get("displacement_mean_mm") is not None:
        most = quality.get("displacement_max_mm")
        found.append(f"displaced by {quality['displacement_mean_mm']:.1f} mm on average (at most {most or 0:.1f} mm)")
    if quality.get("folding_percent") is not None:
        found.append(f"folded in {quality['folding_percent']:.2g} % of the content")
    word = quality.get("verdict", "pass" if quality["passed"] else "fail")
    return f"The map {' and '.join(found)}; " * bool(found) + f"the automatic check said {word}."


def _shell(given: dict[str, Any]) -> str:
    words = ["deformgan", given["command"]]
    for name, value in given.items():
        if name in ("command", "json") or value is None or value is False or value == _DEFAULTS.get(name):
            continue
        option = _SHORT.get(name, f"--{name.replace('_', '-')}")
        words += [option] if value is True else [option, shlex.quote(str(value))]
    return " ".join(words)


def _python(record: dict[str, Any]) -> str:
    inputs, settings = record.get("inputs", {}), record.get("settings", {})

    def written(role: str) -> str:
        path = inputs.get(role, {}).get("path")
        return repr(str(path)) if path else f"{role}_image" if role in ("fixed", "moving") else role

    parts = [written("fixed"), written("moving")]
    parts += [f"{role}={written(role)}" for role in inputs if role not in ("fixed", "moving") and role.isidentifier()]
    told = ("transform", "smoothness", *(["refine_steps"] if record.get("model") else []))
    parts += [f"{n}={settings[n]!r}" for n in told if n in settings and settings[n] != _DEFAULTS.get(n)]
    name = (record.get("model") or {}).get("name")
    if name and name != "t1-t2":
        parts.append(f"model={str(name)!r}")
    return f"deformgan.register({', '.join(parts)})"


def file_name(record: dict[str, Any], role: str) -> str:
    """The file name of an input, or what to call one that was never a file."""
    path = record.get("inputs", {}).get(role, {}).get("path")
    return PurePath(path).name if path else f"{role} image"
