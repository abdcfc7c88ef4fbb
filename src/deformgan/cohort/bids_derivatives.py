"""Masks, lesions and labels of a BIDS data set's images, found in derivatives that others made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deformgan.cohort.bids_index import Scan, fits, index_person
from deformgan.cohort.pair import Pair
from deformgan.errors import InputError

# entities that say what a derivative is, and not which image it is of
_OWN = frozenset({"space", "desc", "label", "res", "den", "seg", "atlas"})
_WITHOUT_SPACE = "T1w"  # the image that fMRIPrep and its kin mean where a name has no space
ROLES = {"fixed": {"mask": "fixed_mask", "lesion": "fixed_lesion"}}
ROLES["moving"] = {"mask": "moving_mask", "lesion": "moving_lesion", "labels": "moving_labels"}


def read_derivatives(given: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH``, or a path alone, which is named after its folder.

    Raises:
        InputError: There is no such folder.
    """
    found = {}
    for one in given:
        name, equals, path = one.partition("=")
        folder = Path(path if equals else one)
        if not folder.is_dir():
            raise InputError(f"--derivatives {one}: there is no folder {folder}", "give NAME=FOLDER")
        found[name if equals else folder.absolute().name] = folder
    return found


class Companions:
    """What derivatives hold for the images of a data set; each person's files are listed once.

    Args:
        folders: Derivatives by name; the first that has a file is taken.
        filters: Entities that a ``mask``, ``lesion`` and ``labels`` must have.
        notes: Hears where one of several files had to be chosen.
    """

    def __init__(self, folders: Mapping[str, Path], filters: Mapping[str, Mapping[str, Any]], notes: list[str]) -> None:
        self._folders, self._filters, self._notes = folders, filters, notes
        self._known: dict[tuple[str, str], list[Scan]] = {}

    def add(self, pair: Pair, fixed: Scan, moving: Scan) -> Pair:
        """The pair with the files that belong to its images."""
        files = dict(pair.files)
        for image, scan in (("fixed", fixed), ("moving", moving)):
            for kind, role in ROLES[image].items():
                found = self._find(scan, kind)
                if found is not None:
                    files[role] = str(found.path)
        return replace(pair, files=files)

    def _find(self, image: Scan, kind: str) -> Scan | None:
        for name, folder in self._folders.items():
            fitting = [scan for scan in self._scans(name, folder, image) if self._belongs(scan, image, kind)]
            fitting.sort(key=lambda scan: (len(scan.entities), scan.path.name))
            if len(fitting) > 1:
                text = f"of {len(fitting)} files with its {kind} in {name}, {fitting[0].path.name} is taken"
                self._notes.append(f"{image.path.name}: {text} (choose with a filter file)")
            if fitting:
                return fitting[0]
        return None

    def _scans(self, name: str, folder: Path, image: Scan) -> list[Scan]:
        key = name, image.entities["sub"]
        if key not in self._known:
            self._known = {one: scans for one, scans in self._known.items() if one[1] == key[1]}  # one person's
            self._known[key] = index_person(folder, key[1])
        return self._known[key]

    def _belongs(self, scan: Scan, image: Scan, kind: str) -> bool:
        same = {name: value for name, value in scan.entities.items() if name not in _OWN} == dict(image.entities)
        space = scan.entities.get("space", _WITHOUT_SPACE)
        return same and space == image.suffix and _is(scan, kind) and fits(scan, self._filters.get(kind, {}))


def _is(scan: Scan, kind: str) -> bool:
    """Whether a file's name says that it is a brain mask, a lesion or an atlas of labels."""
    if kind == "labels":
        return scan.suffix == "dseg"
    named = {scan.entities.get("label"), scan.entities.get("desc")}
    return scan.suffix == "mask" and ("brain" if kind == "mask" else "lesion") in named
