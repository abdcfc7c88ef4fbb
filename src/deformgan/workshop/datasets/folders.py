"""A folder for each patient: files named after it (BraTS), or after the contrast alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from deformgan.errors import InputError
from deformgan.workshop.datasets.patients import CONTRASTS, ENDINGS, OUTLINE, Case, Flaw, Source, can_be_a_name

BRATS_DEPTH = 3  # MICCAI_BraTS_2018_Data_Training/HGG/Brats18_…

_MOST_ENTRIES = 200_000
# 2018–2021: NAME_t1ce.nii.gz; from 2023 on: NAME-t1c.nii.gz
_BRATS = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "seg": OUTLINE,
}
_PLAIN_OUTLINES = ("seg", "lesion")


@dataclass(frozen=True)
class Folder:
    """A folder's entries in order of name, hidden ones left out; links count as what they point to."""

    path: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]


def list_folder(path: Path) -> Folder:
    """What is in a folder.

    Raises:
        InputError: It cannot be read, or holds more entries than any data set.
    """
    try:
        entries = [e for e in path.iterdir() if not e.name.startswith((".", "__MACOSX"))]
        if len(entries) > _MOST_ENTRIES:
            raise InputError(f"{path} holds {len(entries)} entries, more than a data set", "name the data set's folder")
        entries.sort()
        return Folder(path, tuple(e for e in entries if e.is_dir()), tuple(e for e in entries if e.is_file()))
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}", "check its permissions") from error


def read_brats(root: Path) -> list[Case]:
    """The cases of any year below ``root``, at most ``BRATS_DEPTH`` folders down (HGG and LGG, for example).

    What half of the cases or more have, a contrast or the outline, is missing in those that lack it.
    """
    cases = list(_brats_below(root, BRATS_DEPTH))
    counts = Counter(role for case in cases for role in _roles(case))
    usual = [role for role in (*CONTRASTS, OUTLINE) if 0 < len(cases) <= 2 * counts[role]]
    return [_with_missing(case, [role for role in usual if role not in _roles(case)]) for case in cases]


def _roles(case: Case) -> list[str]:
    return [*case.images, *([OUTLINE] if case.outline else [])]


def _with_missing(case: Case, missing: list[str]) -> Case:
    if not missing or case.flaws:
        return case
    suffixes = {role: "seg" if role == OUTLINE else role for role in missing}
    what = f"it has no file for {', '.join(suffixes.values())}"
    return replace(case, flaws=(Flaw(what, "add what is missing"),), missing=tuple(missing))


def _brats_below(path: Path, depth: int) -> Iterator[Case]:
    try:
        here = list_folder(path)
    except InputError as error:
        if depth == BRATS_DEPTH:
            raise
        yield Case(path.name, {}, flaws=(Flaw(str(error.args[0]), error.hint),))
        return
    if depth < BRATS_DEPTH and (found := _brats_files(here)):
        yield _case(path.name, found)
        return
    below = [case for folder in here.folders for case in _brats_below(folder, depth - 1)] if depth else []
    yield from below
    named = path.name.lower().startswith("brats") and path.name[-1:].isdigit()
    if named and depth < BRATS_DEPTH and not below and not plain_files(path, CONTRASTS)[0]:
        flaw = Flaw("its folder holds no image that is named after it", "download it again, or remove the folder")
        yield Case(path.name, {}, flaws=(flaw,))


def _brats_files(folder: Folder) -> dict[str, Source]:
    """Contrast (or outline) → file, of the files named after their folder."""
    found: dict[str, Source] = {}
    for ending in ENDINGS:  # the packed one where there are both
        for file in folder.files:
            stem = file.name.removesuffix(ending) if file.name.endswith(ending) else ""
            separator, suffix = stem[len(folder.path.name) :][:1], stem[len(folder.path.name) + 1 :]
            if stem.startswith(folder.path.name) and separator in ("_", "-") and suffix.lower() in _BRATS:
                found.setdefault(_BRATS[suffix.lower()], Source(file))
    return found


def read_plain(root: Path, contrasts: Collection[str] = CONTRASTS) -> list[Case]:
    """The folders in ``root`` that hold ``CONTRAST.nii.gz`` (or ``.nii``), and ``seg`` or ``lesion`` as the outline."""
    cases = []
    for folder in list_folder(root).folders:
        try:
            here = list_folder(folder)
        except InputError as error:
            cases.append(Case(folder.name, {}, flaws=(Flaw(str(error.args[0]), error.hint),)))
            continue
        if not here.files and not here.folders:
            cases.append(Case(folder.name, {}, flaws=(Flaw("its folder is empty", "fill it, or remove it"),)))
            continue
        images, outline = plain_files(folder, contrasts)
        if images:
            cases.append(_case(folder.name, {**images, **({OUTLINE: outline} if outline else {})}))
    return cases


def plain_files(folder: Path, contrasts: Collection[str]) -> tuple[dict[str, Source], Source | None]:
    """The images and the outline in one patient's folder, named after the contrasts alone; in their order."""

    def file(stem: str) -> Source | None:
        return next((Source(p) for ending in ENDINGS if (p := folder / f"{stem}{ending}").is_file()), None)

    images = {contrast: source for contrast in contrasts if (source := file(contrast))}
    return images, next((source for stem in _PLAIN_OUTLINES if (source := file(stem))), None)


def _case(name: str, found: dict[str, Source]) -> Case:
    outline = found.get(OUTLINE)
    images = {role: source for role, source in found.items() if role != OUTLINE}
    if not can_be_a_name(name):
        return Case(name, {}, flaws=(Flaw("its folder's name cannot be written in a message", "rename it"),))
    return Case(name, images, outline)
