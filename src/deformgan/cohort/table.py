"""Reading a table of pairs: all its mistakes at once, each with its line."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deformgan.cohort.group import RESERVED
from deformgan.cohort.pair import ROLES, Pair
from deformgan.errors import InputError, UsageError
from deformgan.io.templates import located
from deformgan.io.untrusted import read_small

NAME = "id"
NEEDED = ("fixed", "moving")
FORMER_NAMES = {"points": "moving_points"}
MOST_BYTES = 2**31
_OTHERS = {
    b"PK": "an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
MOST_CELL = 4096  # letters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]{0,199}")
_NAME_HINT = "letters, digits and . _ + @ = - only, up to 200, a letter or digit first"


class TableError(UsageError):
    """A table with mistakes; ``mistakes`` has one line for each."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        several = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{path} has {several}: {mistakes[0]}", "correct the table; nothing was registered")
        self.mistakes = mistakes


def read_table(path: Path) -> list[Pair]:
    """Pairs of a CSV or TSV file.

    The first line names the columns: ``fixed`` and ``moving``, and, if wanted, ``id`` and the other roles of
    `deformgan.cohort.pair.ROLES`; any other column is carried along. Relative paths start from the table's folder.
    Whether the files exist is not asked: a missing one is that pair's failure, not the table's.

    Raises:
        InputError: The file cannot be read.
        TableError: It has mistakes; all of them are listed.
    """
    lines = _lines(path)
    if not lines:
        raise TableError(path, ["it is empty"])
    header = [_column(cell) for cell in lines[0][1]]
    mistakes = list(_header_mistakes(header))
    if mistakes:
        raise TableError(path, mistakes)
    if len(lines) == 1:
        raise TableError(path, ["it has a header and no pair"])
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for number, cells in lines[1:]:
        row, wrong = _row(header, cells, len(pairs) + 1)
        name = row.get(NAME, "")
        first = seen.setdefault(name.lower(), number)
        if first != number and not wrong:
            wrong = [f"the id {name!r} is that of line {first} too"]
        mistakes += [f"line {number}: {text}" for text in wrong]
        pairs.append(_pair(path.parent, row))
    if mistakes:
        raise TableError(path, mistakes)
    return pairs


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of the lines that are not blank."""
    try:
        data = read_small(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}", "check the path"
        ) from error
    for start, what in _OTHERS.items():
        if data.startswith(start):
            raise TableError(path, [f"it is {what}: save it as CSV in UTF-8"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(path, [f"it is not UTF-8 (byte {error.start}): save it as CSV in UTF-8"]) from error
    if "\0" in text:
        raise TableError(path, ["it holds NUL bytes: it is no text"])
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count) if path.suffix.lower() != ".tsv" else "\t"
    reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    found = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, cells))
    except csv.Error as error:
        raise TableError(path, [f"line {reader.line_num}: {error} (a quotation mark that is not closed?)"]) from error
    return found


def _column(cell: str) -> str:
    """The name of a column; one of ours may be written in capitals, or as it was called before."""
    name = cell.strip()
    ours = FORMER_NAMES.get(name.lower(), name.lower())
    return ours if ours in (NAME, *ROLES) else name


def _header_mistakes(header: list[str]) -> Iterator[str]:
    known = [NAME, *ROLES]
    if not any(header):
        yield "its first line names no column"
        return
    for name in dict.fromkeys(header):
        if header.count(name) > 1:
            yield f"two columns are named {name!r}"
    meant = {name: near[0] for name in header if (near := difflib.get_close_matches(name.lower(), known, 1, 0.8))}
    missing = [name for name in NEEDED if name not in meant.values()]
    if len(missing) == len(NEEDED):
        text = "its first line must name the columns, fixed and moving among them, with commas or tabs between"
        yield f"{text}: {', '.join(header)[:100]!r}"
    elif missing:
        yield f"there is no column {missing[0]!r} (columns: {', '.join(map(repr, header[:12]))})"
    for name in header:
        if name not in known and name in meant:
            yield f"the column {name!r} is probably meant to be {meant[name]!r}"
        elif name not in known and name.lower() in RESERVED:
            yield f"the column {name!r} cannot be carried along, for the group's table has one of that name: rename it"


def _row(header: list[str], cells: list[str], position: int) -> tuple[dict[str, str], list[str]]:
    """The cells by column, and what is wrong with them."""
    row = {column: cell.strip() for column, cell in zip(header, cells, strict=False)}
    wrong = []
    if len(cells) != len(header):
        return row, [f"{len(cells)} cells where the header has {len(header)}"]
    if NAME in header:
        if not row[NAME]:
            wrong.append("the id is empty")
        elif not _NAME.fullmatch(row[NAME]):
            wrong.append(f"{row[NAME][:60]!r} cannot be an id: {_NAME_HINT}")
    else:
        row[NAME] = f"pair-{position:06d}"
    wrong += [f"{role} is empty" for role in NEEDED if not row[role]]
    wrong += [f"{column} has more than {MOST_CELL} letters" for column, cell in row.items() if len(cell) > MOST_CELL]
    wrong += [f"{role}: {text}" for role in ROLES if row.get(role) and (text := _unreachable(row[role]))]
    if row["fixed"] and os.path.normpath(row["fixed"]) == os.path.normpath(row["moving"]):
        wrong.append(f"fixed and moving are the same file, {row['fixed']}")
    return row, wrong


def _unreachable(cell: str) -> str:
    """Why a cell cannot be the path of a file here; empty where it can."""
    if re.match(r"[a-z][a-z0-9+.-]*://", cell, re.IGNORECASE):
        return f"{cell} is an address, not a file: download it first"
    if os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", cell):
        return f"{cell} is a path of Windows, and this is another system"
    if cell.startswith("~") or re.match(r"\$\w|\$\{", cell):
        return f"{cell} is taken literally: write the whole path"
    return ""


def nothing_there(pairs: Sequence[Pair], most: int = 100) -> str | None:
    """The first file, where none of the first ``most`` pairs has one that exists: the table is meant for elsewhere."""
    paths = [path for pair in pairs[:most] for path in pair.files.values()]
    return None if any(map(os.path.exists, paths)) else paths[0]


def _pair(folder: Path, row: dict[str, str]) -> Pair:
    files = {role: str(folder / located(row[role])) for role in ROLES if row.get(role)}
    more = {column: cell for column, cell in row.items() if column not in ROLES and column != NAME}
    return Pair(row.get(NAME, ""), files, more)
