"""The cohort's own files, in the hidden folder ``.cohort`` of its output folder.

``cohort.json``: what was asked for. ``pairs.tsv``: every pair. ``rows/``: what became of each, one file a pair, and
the truth that a run starts from. ``claims/``: who works on what. ``journal/``: a line for each beginning and end.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deformgan.cohort.locks import is_held
from deformgan.cohort.pair import Pair, Row
from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import parse_json, read_small

HIDDEN = ".cohort"
_MOST_ROW = 1 << 20  # bytes


class Store:
    """The hidden folder of the cohort in ``out``."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out)
        self.folder = self.out / HIDDEN

    # -- one pair ----------------------------------------------------------------------------------------------------

    def row_path(self, name: str) -> Path:
        """Of the row of a pair; 256 folders, since file systems dislike a million files in one."""
        return self.folder / "rows" / _bin(name) / f"{name}.json"

    def thumbnail_path(self, name: str) -> Path:
        """Of the small picture of a pair before and after."""
        return self.folder / "thumbnails" / _bin(name) / f"{name}.webp"

    def claim_path(self, name: str) -> Path:
        """Of the file that a worker holds while it works on a pair."""
        return self.folder / "claims" / name

    def read_row(self, name: str) -> Row | None:
        """What became of a pair; None where nothing is known, or the file is damaged."""
        return _row(self.row_path(name))

    def write_row(self, row: Row) -> None:
        """Keep what became of a pair."""
        path = self.row_path(row["id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            partial.write_text(json.dumps(row, allow_nan=False), encoding="utf-8")

    def note(self, event: str, name: str, run: str) -> None:
        """A line in this process's journal."""
        path = self.folder / "journal" / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": round(time.time(), 3), "event": event, "id": name, "run": run}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    # -- all of them -------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """Every row that can be read, in no order."""
        for path in sorted((self.folder / "rows").glob("??/*.json")):
            row = _row(path)
            if row is not None:
                yield row

    def running(self) -> list[str]:
        """Names of the pairs that a living worker has."""
        folder = self.folder / "claims"
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return [name for name in names if is_held(folder / name)]

    def write_plan(self, pairs: Sequence[Pair], about: dict[str, Any]) -> None:
        """Keep what was asked for: ``about`` and the list of the pairs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(column for pair in pairs for column in pair.more))
        with atomic(self.folder / "pairs.tsv") as partial, open(partial, "w", encoding="utf-8") as file:
            file.write("\t".join(["id", *columns]) + "\n")
            for pair in pairs:
                cells = [pair.name, *(pair.more.get(column, "") for column in columns)]
                file.write("\t".join(_cell(cell) for cell in cells) + "\n")
        with atomic(self.folder / "cohort.json") as partial:
            partial.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def read_plan(self) -> tuple[list[str], list[dict[str, str]], dict[str, Any]]:
        """Further columns, one dictionary a pair (with ``id``), and what `write_plan` was told.

        Raises:
            InputError: There is no cohort in the folder.
        """
        try:
            about = parse_json(read_small(self.folder / "cohort.json"))
            text = (self.folder / "pairs.tsv").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            hint = "name the folder that deformgan cohort wrote with -o"
            raise InputError(f"there is no cohort in {self.out}", hint) from error
        header, *lines = [line.split("\t") for line in text.splitlines()]
        return header[1:], [dict(zip(header, line, strict=False)) for line in lines], about


def _bin(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:2]


def _cell(text: str) -> str:
    return " ".join(text.split())


def _row(path: Path) -> Row | None:
    try:
        row = parse_json(read_small(path, _MOST_ROW))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) and "id" in row and "status" in row else None
