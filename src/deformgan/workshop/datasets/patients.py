"""Patients as they lie on disk: each image by its contrast, and what their files' headers say against using them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from deformgan.errors import InputError
from deformgan.io.image import checked_affine
from deformgan.io.nifti_header import header_affine
from deformgan.io.untrusted import read_nifti_header
from deformgan.spatial.grid import Grid

CONTRASTS = ("t1", "t1ce", "t2", "flair")
OUTLINE = "outline"
RESERVED = {OUTLINE, "mask", "lesion", "seg"}  # no names of contrasts
ENDINGS = (".nii.gz", ".nii")

_MOST_VOXELS = 2**29  # of one volume: 800³
_SAME_PLACE_MM = 0.1
_MOST_LETTERS = 200


@dataclass(frozen=True)
class Source:
    """Where an image is.

    Args:
        path: Of a ``.nii`` or ``.nii.gz`` file.
        volume: Which one of a 4-D file; none: the file is 3-D.
    """

    path: Path
    volume: int | None = None


@dataclass(frozen=True)
class Patient:
    """The images of one patient, or of one visit of a patient, aligned with each other.

    Args:
        name: Of the patient.
        images: Contrast → its image.
        outline: Label map whose labels above 0 are the lesion; none: nothing is outlined.
    """

    name: str
    images: Mapping[str, Source]
    outline: Source | None = None

    @property
    def sources(self) -> dict[str, Source]:
        """The images by contrast, and the outline by the name ``outline``."""
        return {**self.images, **({OUTLINE: self.outline} if self.outline else {})}


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Args:
        patients: That can be used, in order of name.
        problems: A sentence for each case that is wrong or incomplete: which, why, and what to do about it.
        layout: How the folder is laid out.
    """

    patients: tuple[Patient, ...]
    problems: tuple[str, ...]
    layout: str


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a case, and what to do about it."""

    what: str
    hint: str


@dataclass(frozen=True)
class Case:
    """A case as a reader found it, before its files are looked into.

    Args:
        name, images, outline: As in `Patient`.
        flaws: What is wrong with it already.
        missing: Images (or the outline) that it should have and has not.
    """

    name: str
    images: Mapping[str, Source]
    outline: Source | None = None
    flaws: tuple[Flaw, ...] = ()
    missing: tuple[str, ...] = ()


def printable(text: object) -> str:
    """Untrusted text, as it can be put into a message: on one line, printable, of bounded length."""
    clean = "".join(c if c.isprintable() else "?" for c in str(text))
    return clean if len(clean) <= _MOST_LETTERS else clean[: _MOST_LETTERS - 1] + "…"


def can_be_a_name(text: str) -> bool:
    """Whether ``text`` can name a patient, and with it files: printable, short, neither a path nor hidden."""
    return 0 < len(text) <= _MOST_LETTERS and text.isprintable() and text[0] != "." and not set(text) & set("/\\")


def path_inside(root: Path, text: str) -> Path:
    """The file below ``root`` that a list of the data set names by ``text``.

    Raises:
        InputError: It leads outside ``root``, also by links, or there is no such file.
    """
    try:
        path = (root / text).resolve()
        inside = path.is_relative_to(root.resolve())
        there = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null character, links in a circle
        raise InputError(f"{printable(text)} is no path", "name a file of the data set") from error
    if not inside:
        raise InputError(f"{printable(text)} leads outside the data set", "give a path below its folder")
    if not there:
        raise InputError(f"{printable(text)} is not there", "add the file, or take it out of the list")
    return root / text


def grid_of(source: Source) -> Grid:
    """Where the voxels of an image lie, of its header alone.

    Raises:
        InputError: No file, no NIfTI image, truncated, not 3-D, coloured or complex, beyond any sane size, or its
            affine is singular or not finite.
    """
    path = source.path
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{path} is not a file", "name a .nii or .nii.gz file")
    header = read_nifti_header(path, whole=True)
    kind = header.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf":
        raise InputError(f"{path} holds colours or complex numbers", "give a scalar image")
    shape = whole = tuple(int(n) for n in header.get_data_shape())
    if source.volume is not None:
        if len(shape) != 4 or source.volume >= shape[3]:
            raise InputError(f"{path} has no volume {source.volume}: its shape is {whole}", "download the file again")
        shape = shape[:3]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} is not 3-D: its shape is {whole}", "give one volume of several slices")
    if prod(shape) > _MOST_VOXELS:
        raise InputError(f"{path} is too large: its shape is {whole}", f"give at most {_MOST_VOXELS} voxels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd orientation is told when the image itself is read
        return Grid(shape, checked_affine(header_affine(header, shape, str(path)), str(path)))


def checked(cases: Iterable[Case], layout: str) -> Found:
    """The cases of a layout without what their headers say is unusable, and a sentence for each that is not whole.

    A case is left out where fewer than two images remain, or where they are not all on one grid.
    """
    patients: dict[str, Patient] = {}
    problems = []
    for case in sorted(cases, key=lambda c: c.name):
        if case.name in patients:
            other = next(iter(patients[case.name].images.values())).path
            patient, flaws = None, [Flaw(f"{other} is of a case of the same name", "rename one of them")]
        else:
            patient, flaws = _without_flaws(case)
        if patient is not None:
            patients[case.name] = patient
        if flaws:
            problems.append(_sentence(case, patient, flaws))
    return Found(tuple(patients.values()), tuple(problems), layout)


def _without_flaws(case: Case) -> tuple[Patient | None, list[Flaw]]:
    flaws, grids = list(case.flaws), {}
    rank = {name: number for number, name in enumerate(CONTRASTS)}
    in_order = sorted(case.images, key=lambda c: (rank.get(c, len(rank)), c))
    whole = Patient(case.name, {c: case.images[c] for c in in_order}, case.outline)
    for role, source in whole.sources.items():
        try:
            grids[role] = grid_of(source)
        except InputError as error:
            flaw = Flaw(str(error.args[0]), error.hint)
            flaws += [] if flaw in flaws else [flaw]  # several images may be in one file
    images = {role: source for role, source in whole.images.items() if role in grids}
    outline = whole.outline if OUTLINE in grids else None
    if not images and flaws:
        return None, flaws
    if len(images) < 2:
        left = f"{_listed(images)} is its only image" if images else "it has no image"
        return None, [*flaws, Flaw(left, "a case needs two contrasts")]
    first, *others = images
    apart = next((c for c in others if not _same_place(grids[first], grids[c])), None)
    if apart:
        both = " and ".join(f"{c} ({'×'.join(map(str, grids[c].shape))} voxels)" for c in (first, apart))
        return None, [*flaws, Flaw(f"{both} are not on one grid", "resample one onto the other's grid")]
    if outline and not _same_place(grids[first], grids[OUTLINE]):
        flaws.append(Flaw("its outline is not on the images' grid", "resample it onto that by nearest neighbour"))
        outline = None
    return replace(whole, images=images, outline=outline), flaws


def _same_place(a: Grid, b: Grid) -> bool:
    return a.shape == b.shape and a.farthest_mm(b) <= _SAME_PLACE_MM


def _sentence(case: Case, patient: Patient | None, flaws: list[Flaw]) -> str:
    wanted = [*case.images, *([OUTLINE] if case.outline else []), *case.missing]
    lost = [role for role in wanted if patient and role not in patient.sources]
    state = f"used without {_listed(lost)}" if patient else "left out"
    hints = dict.fromkeys(flaw.hint for flaw in flaws if flaw.hint)
    text = f"{case.name} is {state}: {'; '.join(flaw.what for flaw in flaws)} — {'; '.join(hints)}"
    return "".join(c if c.isprintable() else "?" for c in text)


def _listed(names: Iterable[str]) -> str:
    *most, last = ["its outline" if name == OUTLINE else name for name in names]
    return f"{', '.join(most)} and {last}" if most else last
