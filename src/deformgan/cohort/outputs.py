"""Writing what a worker has found: the pair's folder, under plain names or as a BIDS derivative, and its picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deformgan.cohort.figures import figures, picture, save_picture
from deformgan.cohort.pair import Row, Task
from deformgan.cohort.plan import describe
from deformgan.cohort.store import Store
from deformgan.errors import QualityError
from deformgan.output.folder import OUTPUTS, RECORD, REPORT, staged_folder

if TYPE_CHECKING:
    from deformgan.output.registration import Registration

PAIRS = "pairs"


def write_outputs(task: Task, store: Store, found: Registration) -> Row:
    """Write the files of one pair and say which they are.

    Returns:
        Of the row: status and verdict, ``figures``, ``outputs`` (described, by their path below the cohort's folder)
        and ``report``, the page's path.
    """
    if task.pair.naming is None:
        record, paths, report = _plain(task, store.out, found)
    else:
        from deformgan.cohort.bids_outputs import write_derivative

        record, paths, report = write_derivative(task, store.out, found)
    pixels = picture(found)
    if pixels is not None:
        save_picture(pixels, store.thumbnail_path(task.pair.name))
    described = {os.fspath(path.relative_to(store.out)): describe(path, known) for path, known in paths.items()}
    return _finished(record["quality"]) | {
        "figures": figures(found, record),
        "outputs": described,
        "report": None if report is None else report.relative_to(store.out).as_posix(),
    }


def _plain(task: Task, out: Path, found: Registration) -> tuple[dict[str, Any], dict[Path, str | None], Path | None]:
    """The folder that ``deformgan register`` would write, in ``pairs/NAME``: record, checksums by path, page."""
    folder = out / PAIRS / task.pair.name
    with staged_folder(folder, OUTPUTS, force=True, last=RECORD) as staged:
        record = write_registration(task, staged, found)
    known: dict[str, str | None] = dict(record["output_sha256"])
    known |= {name: None for name in (RECORD, REPORT) if (folder / name).is_file()}
    report = folder / REPORT if task.settings.report else None
    return record, {folder / name: checksum for name, checksum in known.items()}, report


def write_registration(task: Task, folder: Path, found: Registration, maps_as: str = ".nii.gz") -> dict[str, Any]:
    """The files under their plain names, the page among them if it is wanted; returns the record."""
    settings = task.settings
    record = found.write(folder, inverse=settings.inverse, jacobian=settings.jacobian, maps_as=maps_as)
    if settings.report and found.pair is not None:
        from deformgan.output.report.page import report_of

        report_of(found, record, folder / REPORT)
    return record


def _finished(quality: dict[str, Any]) -> dict[str, Any]:
    """Of a row what the quality check says."""
    passed = quality["passed"]
    return {
        "status": "done",
        "verdict": quality["verdict"],
        "exit": 0 if passed else QualityError.exit_code,
        "kind": "" if passed else "quality",
        "cause": "; ".join([*quality["reasons"], *quality.get("doubts", ())]),
    }
