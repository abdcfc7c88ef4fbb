"""The patients in a folder, however it is laid out: BraTS, the Decathlon, a folder each, or a CSV file of pairs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from deformgan.errors import InputError, UsageError
from deformgan.workshop.datasets.decathlon import LIST, read_decathlon
from deformgan.workshop.datasets.folders import Folder, list_folder, read_brats, read_plain
from deformgan.workshop.datasets.pairs import is_list_of_pairs, read_pairs
from deformgan.workshop.datasets.patients import CONTRASTS, Case, Flaw, Found, Patient, Source, checked, printable

__all__ = ["CONTRASTS", "LAYOUTS", "Found", "Patient", "Source", "find_patients"]

LAYOUTS = {
    "brats": "BraTS of any year (NAME/NAME_t1.nii.gz or NAME/NAME-t1n.nii.gz, also below HGG and LGG)",
    "decathlon": "Medical Segmentation Decathlon, Task01_BrainTumour (dataset.json, imagesTr, labelsTr)",
    "folders": "a folder for each patient (NAME/t1.nii.gz, NAME/t2.nii.gz; outline: seg.nii.gz or lesion.nii.gz)",
    "csv": "a CSV file of pairs, or the folder that holds it (header name,fixed,moving)",
}
_SHOWN = 5


def find_patients(root: str | Path, layout: str = "auto", contrasts: Collection[str] = CONTRASTS) -> Found:
    """The patients below a folder, checked by their images' headers alone.

    Args:
        root: The data set's folder, or a CSV file of pairs.
        layout: One of ``LAYOUTS``, or ``auto``: told by what the folder holds.
        contrasts: Names of the images in the layout ``folders``; the other layouts have their own.

    Returns:
        The patients in order of name, their contrasts named as in ``CONTRASTS``, and a sentence for each case that is
        wrong or incomplete. There may be no patient at all if every case is wrong.

    Raises:
        UsageError: There is no such layout.
        InputError: ``root`` is not there, or holds no case of the layout.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"there is no layout {layout}", f"use auto or one of {', '.join(LAYOUTS)}")
    if not root.exists():
        raise InputError(f"{root} does not exist", "give the folder of the data set")
    name, cases = _recognised(root, contrasts) if layout == "auto" else (layout, _READERS[layout](root, contrasts))
    if not cases:
        raise _unknown(root, layout)
    return checked(cases, name)


def _recognised(root: Path, contrasts: Collection[str]) -> tuple[str, list[Case]]:
    """The layout a folder seems to have and its cases; none where it has none."""
    if root.is_file():
        return "csv", _pairs(root, contrasts)
    if (root / LIST).is_file():
        return "decathlon", read_decathlon(root)
    found = {"brats": read_brats(root), "folders": read_plain(root, contrasts)}
    usable = {name: sum(bool(case.images) for case in cases) for name, cases in found.items()}
    best, other = sorted(found, key=usable.__getitem__, reverse=True)  # brats first where they are equal
    if usable[best]:
        return best, [*found[best], *_of_another_layout(found[other], best, found[best])]
    if _lists_of_pairs(list_folder(root)):
        return "csv", _pairs(root, contrasts)
    return "brats", found["brats"]


def _of_another_layout(cases: list[Case], layout: str, taken: list[Case]) -> list[Case]:
    """Cases of another layout than the rest, as what they are: left out."""
    flaw = Flaw(f"it is laid out in another way than the rest ({layout})", "move it to a data set of its own")
    names = {case.name for case in taken}
    return [Case(case.name, {}, flaws=(flaw,)) for case in cases if case.images and case.name not in names]


def _lists_of_pairs(folder: Folder) -> list[Path]:
    return [file for file in folder.files if file.suffix.lower() == ".csv" and is_list_of_pairs(file)]


def _pairs(root: Path, _: Collection[str]) -> list[Case]:
    if root.is_file():
        return read_pairs(root)
    lists = _lists_of_pairs(list_folder(root))
    if len(lists) > 1:
        names = ", ".join(printable(file.name) for file in lists[:_SHOWN])
        raise InputError(f"{root} holds {len(lists)} lists of pairs: {names}", "give the path of one of them")
    return read_pairs(lists[0]) if lists else []


_READERS: dict[str, Callable[[Path, Collection[str]], list[Case]]] = {
    "brats": lambda root, _: read_brats(root),
    "decathlon": lambda root, _: read_decathlon(root) if (root / LIST).is_file() else [],
    "folders": read_plain,
    "csv": _pairs,
}


def _unknown(root: Path, layout: str) -> InputError:
    here = list_folder(root)
    seen = [_counted(of, kind) for of, kind in ((here.folders, "folder"), (here.files, "file")) if of]
    known = "; ".join(f"{name}: {text}" for name, text in LAYOUTS.items() if layout in ("auto", name))
    wanted = "patients in any layout that is known" if layout == "auto" else f"cases of the layout {layout}"
    holds = f"has {' and '.join(seen)}" if seen else "is empty"
    return InputError(f"{root} holds no {wanted}: it {holds}", f"known is {known}")


def _counted(entries: tuple[Path, ...], kind: str) -> str:
    names = [printable(entry.name) for entry in entries[:_SHOWN]]
    more = ["…"] if len(entries) > _SHOWN else []
    return f"{len(entries)} {kind}{'s' if len(entries) > 1 else ''} ({', '.join([*names, *more])})"
