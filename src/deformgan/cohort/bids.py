"""Finding pairs in a BIDS data set: which images of a person belong together."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deformgan.cohort.bids_derivatives import Companions
from deformgan.cohort.bids_index import MODALITY, Scan, fits, index_person, list_people
from deformgan.cohort.group import RESERVED
from deformgan.cohort.pair import Naming, Pair
from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import parse_json, read_small

DESCRIPTION = "dataset_description.json"
PARTICIPANTS = "participants.tsv"
FILTERED = ("fixed", "moving", "mask", "lesion", "labels")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images are paired.

    Attributes:
        fixed, moving: Suffixes.
        people, sessions: Labels, with or without ``sub-`` and ``ses-``; empty for all.
        onto_session: Longitudinal: the moving image of every other session onto the fixed image of this one.
        filters: Entities that images must have, for each of `FILTERED`: a value, a list of them, or None where the
            entity must not be there.
        derivatives: Folders by name in which masks, lesions and labels are looked for.
    """

    fixed: str = "T2w"
    moving: str = "T1w"
    people: Sequence[str] = ()
    sessions: Sequence[str] = ()
    onto_session: str | None = None
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    derivatives: Mapping[str, Path] = field(default_factory=dict)


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
    companions = Companions(chosen.derivatives, chosen.filters, holes)
    described = _participants(root, holes)
    for person in list_people(root):
        if people and person not in people:
            continue
        here.add(person)
        scans = [scan for scan in index_person(root, person) if not sessions or scan.session in sessions]
        for fixed, moving in _matches(person, scans, chosen, holes):
            pair = companions.add(_pair(root, fixed, moving, chosen), fixed, moving)
            pairs.append(replace(pair, more={**pair.more, **described.get(f"sub-{person}", {})}))
    holes += [f"sub-{label}: there is no such person" for label in sorted(people - here)]
    if not pairs:
        what = f"no {chosen.moving} and {chosen.fixed} of one person"
        raise UsageError(f"{root}: {what} ({len(holes)} left out)", "check suffixes, labels and filters")
    return _told_apart(pairs), holes


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
    unknown = set(filters) - set(FILTERED)
    if unknown:
        raise InputError(f"{path}: {sorted(unknown)[0]!r} is no image here", f"filter {', '.join(FILTERED)}")
    return filters


def _participants(root: Path, notes: list[str]) -> dict[str, dict[str, str]]:
    """What ``participants.tsv`` says of each person, by ``participant_id``; a data set need not have one."""
    path = root / PARTICIPANTS
    if not path.is_file():
        return {}
    try:
        lines = read_small(path).decode("utf-8-sig").splitlines()
        table = [dict(row) for row in csv.DictReader(lines, delimiter="\t")]
        return {row.pop("participant_id"): _strings(row) for row in table}
    except (OSError, ValueError, LookupError, csv.Error) as error:
        notes.append(f"{PARTICIPANTS} is left out, for it cannot be read: {error}")
        return {}


def _strings(row: Mapping[Any, Any]) -> dict[str, str]:
    """The named cells of a line; those named as a column of ours get another name."""
    cells = {name: cell for name, cell in row.items() if isinstance(name, str) and isinstance(cell, str)}
    return {f"participants_{name}" if name in RESERVED else name: cell for name, cell in cells.items()}


def _labels(kind: str, given: Sequence[str]) -> set[str]:
    return {label.removeprefix(f"{kind}-") for label in given}


def _matches(person: str, scans: list[Scan], chosen: Selection, holes: list[str]) -> Iterator[tuple[Scan, Scan]]:
    """Fixed and moving image, for each session; what is missing goes to ``holes``."""
    sessions = sorted({scan.session for scan in scans})
    if not sessions:
        holes.append(f"sub-{person}: no image in {MODALITY}")
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
    fitting = [scan for scan in scans if scan.session == session and scan.suffix == suffix and fits(scan, filters)]
    if not fitting:
        holes.append(f"{where}: no {suffix}" + (f" in ses-{session}" if session else ""))
        return None
    if len(fitting) > 1:
        holes.append(
            f"{where}: of {len(fitting)} {suffix}, {fitting[0].path.name} is taken (choose with a filter file)"
        )
    return fitting[0]


def _pair(root: Path, fixed: Scan, moving: Scan, chosen: Selection) -> Pair:
    person, session = moving.entities["sub"], moving.session
    kept = [
        (name, moving.entities[name]) for name in ("sub", "ses", "acq", "ce", "rec", "run") if name in moving.entities
    ]
    prefix = "_".join(f"{name}-{value}" for name, value in kept)
    folder = "/".join([f"sub-{person}", *([f"ses-{session}"] if session else []), MODALITY])
    elsewhere = fixed.session != session
    # labels hold letters and digits only
    target = (f"ses{fixed.session}" if elsewhere else "") + fixed.suffix
    home = f"sub-{person}" + (f"_ses-{session}" if session else "")
    links = {name: str(path.absolute()) for name, path in chosen.derivatives.items()}
    naming = Naming(folder, prefix, moving.suffix, target, moving.suffix, f"{home}.html", str(root.absolute()), links)
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
