"""Finding pairs in a BIDS data set: one pass over its folders, names read by their entities."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deformgan.cohort.pair import Naming, Pair
from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import parse_json, read_small

DESCRIPTION = "dataset_description.json"
NO_SESSION = ""
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
_ENDINGS = (".nii.gz", ".nii")
_MODALITY = "anat"


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


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images are paired.

    Attributes:
        fixed, moving: Suffixes.
        people, sessions: Labels, with or without ``sub-`` and ``ses-``; empty for all.
        onto_session: Longitudinal: the moving image of every other session onto the fixed image of this one.
        filters: Entities that images must have, for ``fixed`` and ``moving``: a value, a list of them, or None where
            the entity must not be there.
    """

    fixed: str = "T2w"
    moving: str = "T1w"
    people: Sequence[str] = ()
    sessions: Sequence[str] = ()
    onto_session: str | None = None
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def find_pairs(root: Path, chosen: Selection) -> tuple[list[Pair], list[str]]:
    """Pairs of a data set, and a line for each person or session that has none.

    Where several images fit (runs, reconstructions), the first in the order of their names is taken, and that is said.

    Raises:
        InputError: This is no BIDS data set.
        UsageError: Nothing is left of it.
    """
    if not (root / DESCRIPTION).is_file():
        raise InputError(
            f"{root} is no BIDS data set: it has no {DESCRIPTION}", "name its root, or a CSV file of pairs"
        )
    people, sessions = _labels("sub", chosen.people), _labels("ses", chosen.sessions)
    pairs: list[Pair] = []
    holes: list[str] = []
    here = set()
    for person in _people(root):
        if people and person not in people:
            continue
        here.add(person)
        scans = [scan for scan in index_person(root, person) if not sessions or scan.session in sessions]
        for fixed, moving in _matches(person, scans, chosen, holes):
            pairs.append(_pair(root, fixed, moving, chosen))
    holes += [f"sub-{label}: there is no such person" for label in sorted(people - here)]
    if not pairs:
        what = f"no {chosen.moving} and {chosen.fixed} of one person"
        raise UsageError(f"{root}: {what} ({len(holes)} left out)", "check suffixes, labels and filters")
    return _told_apart(pairs), holes


def index_person(root: Path, person: str) -> list[Scan]:
    """The anatomical images of one person, by name."""
    folder = root / f"sub-{person}"
    homes = [folder, *(Path(entry.path) for entry in _folders(folder) if entry.name.startswith("ses-"))]
    found = []
    for home in homes:
        for entry in _files(home / _MODALITY):
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


def read_filters(path: Path) -> dict[str, dict[str, Any]]:
    """A filter file: ``{"fixed": {"acq": "highres"}, "moving": {"run": null}}``.

    Raises:
        InputError: It is not such a file.
    """
    try:
        filters = parse_json(read_small(path))
        if not isinstance(filters, dict) or not all(isinstance(one, dict) for one in filters.values()):
            raise ValueError("it is no object of objects")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the filters {path}: {error}", 'give {"fixed": {"acq": "highres"}}') from error
    unknown = set(filters) - {"fixed", "moving"}
    if unknown:
        raise InputError(f"{path}: {sorted(unknown)[0]!r} is no image here", "filter fixed and moving")
    return filters


def _people(root: Path) -> list[str]:
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


def _labels(kind: str, given: Sequence[str]) -> set[str]:
    return {label.removeprefix(f"{kind}-") for label in given}


def _matches(person: str, scans: list[Scan], chosen: Selection, holes: list[str]) -> Iterator[tuple[Scan, Scan]]:
    """Fixed and moving image, for each session; what is missing goes to ``holes``."""
    sessions = sorted({scan.session for scan in scans})
    if not sessions:
        holes.append(f"sub-{person}: no image in {_MODALITY}")
    target = None if chosen.onto_session is None else chosen.onto_session.removeprefix("ses-")
    for session in sessions:
        if session == target:
            continue
        where = f"sub-{person}" + (f"_ses-{session}" if session else "")
        home = session if target is None else target
        fixed = _one(scans, home, chosen.fixed, chosen.filters.get("fixed", {}), where, holes)
        moving = _one(scans, session, chosen.moving, chosen.filters.get("moving", {}), where, holes)
        if fixed and moving and fixed.path == moving.path:
            holes.append(f"{where}: {fixed.path.name} would be registered onto itself")
        elif fixed and moving:
            yield fixed, moving


def _one(
    scans: list[Scan], session: str, suffix: str, filters: Mapping[str, Any], where: str, holes: list[str]
) -> Scan | None:
    fitting = [scan for scan in scans if scan.session == session and scan.suffix == suffix and _fits(scan, filters)]
    if not fitting:
        holes.append(f"{where}: no {suffix}" + (f" in ses-{session}" if session else ""))
        return None
    if len(fitting) > 1:
        holes.append(
            f"{where}: of {len(fitting)} {suffix}, {fitting[0].path.name} is taken (choose with a filter file)"
        )
    return fitting[0]


def _fits(scan: Scan, filters: Mapping[str, Any]) -> bool:
    for entity, wanted in filters.items():
        value = scan.suffix if entity == "suffix" else scan.entities.get(entity)
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if value not in [None if one is None else str(one) for one in allowed]:
            return False
    return True


def _pair(root: Path, fixed: Scan, moving: Scan, chosen: Selection) -> Pair:
    person, session = moving.entities["sub"], moving.session
    kept = [
        (name, moving.entities[name]) for name in ("sub", "ses", "acq", "ce", "rec", "run") if name in moving.entities
    ]
    prefix = "_".join(f"{name}-{value}" for name, value in kept)
    folder = "/".join([f"sub-{person}", *([f"ses-{session}"] if session else []), _MODALITY])
    elsewhere = fixed.session != session
    # labels hold letters and digits only
    target = (f"ses{fixed.session}" if elsewhere else "") + fixed.suffix
    home = f"sub-{person}" + (f"_ses-{session}" if session else "")
    naming = Naming(folder, prefix, moving.suffix, target, moving.suffix, f"{home}.html", str(root.absolute()))
    name = f"{prefix}_from-{moving.suffix}_to-{target}"
    files = {"fixed": str(fixed.path), "moving": str(moving.path)}
    return Pair(
        name, files, {"participant_id": f"sub-{person}", "session_id": f"ses-{session}" if session else "n/a"}, naming
    )


def _told_apart(pairs: list[Pair]) -> list[Pair]:
    """The same, nobody's page named as another's."""
    counts: dict[str, int] = {}
    for pair in pairs:
        assert pair.naming is not None
        counts[pair.naming.report] = counts.get(pair.naming.report, 0) + 1
    return [
        pair
        if pair.naming is None or counts[pair.naming.report] == 1
        else replace(pair, naming=replace(pair.naming, report=f"{pair.name}.html"))
        for pair in pairs
    ]
