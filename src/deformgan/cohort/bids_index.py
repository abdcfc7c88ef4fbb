"""The images of a BIDS data set: one pass over a person's folders, names read by their entities."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_SESSION = ""
MODALITY = "anat"
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """An image of a data set: where it is, and what its name says (``sub`` and ``ses`` among the entities)."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def session(self) -> str:
        """Its label; empty where there are no sessions."""
        return self.entities.get("ses", NO_SESSION)


def index_person(root: Path, person: str) -> list[Scan]:
    """The anatomical images of one person, by name."""
    folder = root / f"sub-{person}"
    homes = [folder, *(Path(entry.path) for entry in _folders(folder) if entry.name.startswith("ses-"))]
    found = []
    for home in homes:
        for entry in _files(home / MODALITY):
            scan = read_name(Path(entry))
            if scan is not None and scan.entities.get("sub") == person:
                found.append(scan)
    return sorted(found, key=lambda scan: str(scan.path))


def read_name(path: Path) -> Scan | None:
    """The entities and the suffix of an image's name; None where it is no image or not named as BIDS has it."""
    ending = next((ending for ending in _ENDINGS if path.name.endswith(ending)), None)
    if ending is None:
        return None
    *parts, suffix = path.name.removesuffix(ending).split("_")
    matches = [_ENTITY.fullmatch(part) for part in parts]
    if not parts or not suffix.isalnum() or not all(matches):
        return None
    return Scan(path, {match[1]: match[2] for match in matches if match}, suffix)


def fits(scan: Scan, filters: Mapping[str, Any]) -> bool:
    """Whether an image has the entities that are wanted; ``suffix`` counts as one."""
    for entity, wanted in filters.items():
        value = scan.suffix if entity == "suffix" else scan.entities.get(entity)
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if value not in [None if one is None else str(one) for one in allowed]:
            return False
    return True


def list_people(root: Path) -> list[str]:
    """The labels of the people in a data set, sorted."""
    return sorted(entry.name.removeprefix("sub-") for entry in _folders(root) if entry.name.startswith("sub-"))


def _folders(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_dir())


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # links count too: DataLad's files are links
        return [entry.path for entry in entries if not entry.name.startswith(".")]
