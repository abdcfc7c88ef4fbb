"""What is left to do: a pair is done where its row, its outputs and the checksums of all it was made of agree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from deformgan.cohort.pair import Pair, Row, Settings
from deformgan.output.provenance import sha256

State = Literal["done", "failed", "pending"]
Described = dict[str, Any]


def describe(path: str | Path, checksum: str | None = None) -> Described | None:
    """Size, time of change and checksum of a file; None if there is none."""
    try:
        found = os.stat(path)
        return {
            "path": os.fspath(path),
            "bytes": found.st_size,
            "changed_ns": found.st_mtime_ns,
            "sha256": checksum or sha256(path),
        }
    except OSError:
        return None


def is_unchanged(path: str | Path, known: Described | None, *, verify: bool = False) -> bool:
    """Whether a file is as it was described.

    One of the same size and time of change is taken to be the same, as Git does it; else, and with ``verify`` always,
    its checksum decides.
    """
    try:
        found = os.stat(path)
        if known is None or found.st_size != known["bytes"]:
            return False
        if not verify and found.st_mtime_ns == known["changed_ns"]:
            return True
        return sha256(path) == known["sha256"]
    except OSError:
        return known is None


def judge_row(out: Path, pair: Pair, settings: Settings, row: Row | None, *, verify: bool = False) -> State:
    """What is known of a pair: ``done``, ``failed`` for the same reasons as it would again, or still ``pending``."""
    if row is None or row.get("digest") != settings.digest():
        return "pending"
    inputs: Mapping[str, Described | None] = row["inputs"]
    if set(inputs) != set(pair.files):
        return "pending"
    if not all(is_unchanged(pair.files[role], known, verify=verify) for role, known in inputs.items()):
        return "pending"
    if row["status"] == "failed":
        return "failed"
    outputs: Mapping[str, Described] = row["outputs"]
    whole = all(is_unchanged(out / name, known, verify=verify) for name, known in outputs.items())
    return "done" if whole and outputs else "pending"
