"""Every method on every case: rows are written as they are finished, and a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import atomic, open_to_append
from deformgan.io.untrusted import parse_json, read_small
from deformgan.models.load import load_model
from deformgan.output.folder import unwritable
from deformgan.output.provenance import Progress, no_progress, sha256
from deformgan.workshop.evaluation.cases import read_meta
from deformgan.workshop.evaluation.methods import BUILT_IN, FLUID, IDENTITY, Compute, Spec
from deformgan.workshop.evaluation.scoring import Job, rows_of
from deformgan.workshop.evaluation.sweeps import levels
from deformgan.workshop.evaluation.worker import rows_in_worker

SCORES, SWEEP_SCORES, SETUP = "scores.jsonl", "sweeps.jsonl", "setup.json"
_MOST_SETUP = 64 << 20  # bytes
_FRESH = "give --force to score everything anew, or another folder"

Row = dict[str, Any]


class ScoreFile:
    """Rows of scores, one JSON object a line; each line is written at once and whole.

    Half a line, from a run that was cut off, is dropped when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[tuple[Any, ...], Row] = {}
        if not path.exists():
            return
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self._rows[_key(row)] = row
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number < len(lines):
                    raise InputError(f"{path}, line {number}, is no row of scores", "repair or remove it") from error
                break
        if "".join(lines) != (whole := "".join(_line(row) for row in self.rows)):
            with atomic(path) as partial:
                partial.write_text(whole, encoding="utf-8")

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the file."""
        return [*self._rows.values()]

    def append(self, row: Row) -> None:
        """Add a row."""
        try:
            with open_to_append(self.path) as file:
                file.write(_line(row))
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._rows[_key(row)] = row

    def get(self, method: str, job: Job) -> Row | None:
        """The row of a method on a case, if it is there."""
        return self._rows.get((method, Path(job.folder).name, job.sweep, job.level))


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _key(row: Row) -> tuple[Any, ...]:
    return row["method"], row["case"], row.get("sweep"), row.get("level")


def score_all(
    out: Path,
    specs: Sequence[Spec],
    jobs: Sequence[Job],
    compute: Compute,
    *,
    file: str = SCORES,
    isolate: bool = True,
    progress: Progress = no_progress,
) -> list[Row]:
    """Score methods on cases; rows that ``out/scores.jsonl`` holds are not computed again.

    Args:
        out: A folder that is there.
        specs: The methods.
        jobs: The cases.
        compute: As resolved.
        file: Name of the file of rows.
        isolate: Whether each method runs in a process of its own.
        progress: Told the method and the case at hand.

    Returns:
        A row for each method and case, in this order.

    Raises:
        UsageError: The folder holds scores of other weights, cases or settings.
        InputError: A case or a method cannot be used.
    """
    _check_setup(out, specs, jobs, compute)
    scores = ScoreFile(out / file)
    wanted = []
    for number, spec in enumerate(specs, 1):
        todo = [job for job in jobs if scores.get(spec.name, job) is None]
        done = len(jobs) - len(todo)
        told = f"{spec.name}, method {number} of {len(specs)}"
        if todo:
            progress(f"{told}: case {done + 1} of {len(jobs)}")
            for row in (rows_in_worker if isolate else rows_of)(spec, todo, compute):
                scores.append(row)
                done += 1
                progress(f"{told}: case {min(done + 1, len(jobs))} of {len(jobs)}")
        wanted += [row for job in jobs if (row := scores.get(spec.name, job)) is not None]
    return wanted


def sweep_jobs(folders: Sequence[Path], sweeps: Iterable[str], seed: int) -> list[Job]:
    """Each case at each level of each sweep."""
    return [
        Job(str(folder), sweep, float(level), seed) for sweep in sweeps for level in levels(sweep) for folder in folders
    ]


def checksum(spec: Spec) -> str | None:
    """SHA-256 of a method's weights; None where it has none, or only its results are there."""
    if spec.external or spec.name in (IDENTITY, FLUID):
        return None
    if spec.folder is not None:
        return sha256(spec.folder / "model.safetensors")
    return load_model(spec.model).sha256


def _check_setup(out: Path, specs: Sequence[Spec], jobs: Sequence[Job], compute: Compute) -> None:
    """Rows of one folder are to be comparable: the same cases, machine settings, and weights of one name."""
    path = out / SETUP
    settings = {"device": compute.device, "precision": compute.precision, "threads": compute.threads}
    methods = {spec.name: _source(spec) for spec in specs}
    cases = {Path(folder).name: _case_checksum(Path(folder)) for folder in dict.fromkeys(job.folder for job in jobs)}
    if path.exists():
        try:
            before = parse_json(read_small(path, _MOST_SETUP))
            pairs = [(before[key], now) for key, now in (("methods", methods), ("cases", cases))]
            old_settings = before["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error}", _FRESH) from error
        if not all(isinstance(one, dict) for one in (old_settings, *(old for old, _ in pairs))):
            raise InputError(f"{path} is damaged: it is not what evaluate wrote", _FRESH)
        if old_settings != settings:
            told = ", ".join(f"{key} {value}" for key, value in old_settings.items())
            raise UsageError(f"{out} holds scores of other settings: {told}", _FRESH)
        for what, (old, now) in zip(("weights", "cases"), pairs, strict=True):
            changed = [name for name in now if old.get(name, now[name]) != now[name]]
            if changed:
                raise UsageError(f"{out} holds scores of other {what} named {', '.join(changed)}", _FRESH)
        methods, cases = ({**old, **now} for old, now in pairs)
    with atomic(path) as partial:
        record = {"settings": settings, "methods": methods, "cases": cases}
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _source(spec: Spec) -> str:
    if spec.name in BUILT_IN:
        return f"{spec.name} {checksum(spec) or ''}".strip()
    return checksum(spec) or f"results in {spec.folder}"


def _case_checksum(folder: Path) -> str:
    """Of what identifies a case: its meta data and its moving image."""
    meta = json.dumps(read_meta(folder), sort_keys=True)
    image = folder / "moving.nii.gz"
    if not image.is_file():
        raise InputError(f"{image} does not exist", "make the case anew")
    return hashlib.sha256(f"{meta} {sha256(image)}".encode()).hexdigest()
