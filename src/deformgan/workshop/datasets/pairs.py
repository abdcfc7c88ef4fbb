"""A CSV file of pairs: ``name,fixed,moving`` and, where wanted, ``fixed_contrast,moving_contrast,outline``."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from deformgan.errors import InputError
from deformgan.io.untrusted import open_plain, read_small
from deformgan.workshop.datasets.patients import (
    OUTLINE,
    RESERVED,
    Case,
    Flaw,
    Source,
    can_be_a_name,
    path_inside,
    printable,
)

NEEDED = ("name", "fixed", "moving")
FIXED_CONTRAST, MOVING_CONTRAST = "t2", "t1"  # where the file does not say

_OPTIONAL = ("fixed_contrast", "moving_contrast", OUTLINE)
_MOST_BYTES = 16 << 20
_HEADER = f"{','.join(NEEDED)}[,fixed_contrast,moving_contrast][,outline]"


def is_list_of_pairs(path: Path) -> bool:
    """Whether a file starts with the header line of a list of pairs."""
    try:
        with open_plain(path) as stream:
            first = stream.readline(2000).decode("utf-8-sig", "replace")
    except (OSError, InputError):
        return False
    return set(NEEDED) <= {cell.strip().strip('"') for cell in first.split(",")}


def read_pairs(path: Path) -> list[Case]:
    """A case for each row, its paths relative to the CSV file's folder; empty rows are passed over.

    Raises:
        InputError: The file is unreadable, its header is another one, or it has no rows.
    """
    rows = _rows(path)
    header = [cell.strip() for cell in rows[0]] if rows else []
    unknown = [cell for cell in header if cell not in (*NEEDED, *_OPTIONAL)]
    if not set(NEEDED) <= set(header) or unknown or len(set(header)) < len(header):
        raise InputError(
            f"{path} starts with “{printable(','.join(header))}”, which is no header of a list of pairs",
            f"start it with the line {_HEADER}",
        )
    cases = []
    for number, row in enumerate(rows[1:], 2):
        if any(cell.strip() for cell in row):
            cases.append(_case(path.parent, header, [cell.strip() for cell in row], number))
    if not cases:
        raise InputError(f"{path} lists no pairs", "add a line for each pair below the header")
    return cases


def _rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is larger than any list of pairs", "give a CSV file of names and paths")
        text = read_small(path, _MOST_BYTES).decode("utf-8-sig")
        return list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {printable(error)}", "save it as CSV in UTF-8") from error


def _case(root: Path, header: list[str], row: list[str], number: int) -> Case:
    cells = dict(zip(header, row, strict=False))
    name, line = cells.get("name", ""), f"line {number}"
    if len(row) != len(header):
        flaw = Flaw(f"it has {len(row)} cells, the header {len(header)}", "give each column its cell")
        return Case(f"{line} ({printable(name)})", {}, flaws=(flaw,))
    if not can_be_a_name(name):
        flaw = Flaw(f"“{printable(name)}” is no name", "give letters and digits, no path")
        return Case(line, {}, flaws=(flaw,))
    fixed = (cells.get("fixed_contrast") or FIXED_CONTRAST).lower()
    moving = (cells.get("moving_contrast") or MOVING_CONTRAST).lower()
    plain = all(re.fullmatch(r"[a-z0-9]{1,20}", c) and c not in RESERVED for c in (fixed, moving))
    if fixed == moving or not plain:
        what = f"its contrasts are “{printable(fixed)}” and “{printable(moving)}”"
        return Case(name, {}, flaws=(Flaw(what, "give two different ones, of letters and digits"),))
    flaws, missing = [], []
    found: dict[str, Source] = {}
    for role, text in ((fixed, cells["fixed"]), (moving, cells["moving"]), (OUTLINE, cells.get(OUTLINE, ""))):
        if not text and role == OUTLINE:
            continue
        try:
            if not text:
                raise InputError(f"it names no {role} image", "give its path")
            found[role] = Source(path_inside(root, text))
        except InputError as error:
            flaws.append(Flaw(str(error.args[0]), error.hint))
            missing.append(role)
    outline = found.pop(OUTLINE, None)
    return Case(name, found, outline, tuple(flaws), tuple(missing))
