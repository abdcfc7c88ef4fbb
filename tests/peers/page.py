"""Go through all cases and write down what came of them."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peers import carried, fsl_freesurfer, images, itk_transforms, nitransforms_files
from peers.outcome import AGREED, REFUSED, WRONG, Case, Outcome, tried

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "other-tools.md"
_INTRODUCTION = """# Files of other tools

Each file below was read or written by two programs: this one and the tool named. `python tests/peers` makes the page,
and a test compares its rows with what comes out today, for the tools that are installed.

- **agreed**: images to the last bit of every voxel, their places to 0.001 mm; positions through transforms to
  0.001 mm, but to 0.002 mm for matrices that nitransforms keeps in 32 bits. Transforms are tried on pairs of grids
  that are plain, anisotropic, slanted and flipped.
- **refused**: an error of our own that says what to do; the list is below.
- **wrong**: anything else.

SimpleITK and ANTs carry no files of their own. fslpy and surfa need not be installed: a few files that
they wrote, of nothing but numbers, lie in `tests/peers/kept`.
What is read and written is in [use the result in other tools](../how-to/use-in-other-tools.md) and in
[files and formats](files.md#read).

"""


def cases() -> Iterator[Case]:
    """Of all tools that are installed."""
    for module in (carried, images, itk_transforms):
        yield from module.cases()
    for module in (nitransforms_files, fsl_freesurfer):
        for way in module.WAYS:
            yield from way.cases()


def outcomes() -> list[Outcome]:
    """What comes of every case."""
    found = []
    for case in cases():
        with tempfile.TemporaryDirectory() as name:
            found.append(tried(case, Path(name)))
    return found


def rows(found: list[Outcome]) -> list[str]:
    """The lines of the table, sorted by tool."""
    counts = Counter((one.case.peer, one.case.what, one.came) for one in found)
    lines = []
    for peer, what in sorted({(peer, what) for peer, what, _ in counts}, key=lambda row: (row[0].lower(), row[1])):
        numbers = [counts[peer, what, came] for came in (AGREED, REFUSED, WRONG)]
        cells = [peer, _version(peer), what, str(sum(numbers)), *map(str, numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _version(peer: str) -> str:
    try:
        return version(peer)
    except PackageNotFoundError:
        return "–"


def refusals(found: list[Outcome]) -> list[str]:
    """The lines of the list of what is refused: each message once, with one of its files."""
    lines: dict[str, list[Outcome]] = {}
    for one in found:
        if one.came == REFUSED:
            lines.setdefault(f"{one.case.peer} {_without_name(one)}", []).append(one)
    return [_refusal(of_one_kind) for of_one_kind in lines.values()]


def _without_name(one: Outcome) -> str:
    """What was said, whatever the file is called and however large it is; files of one ending are of one kind."""
    endings = re.findall(r"\.[A-Za-z][\w.-]*$", one.case.name.split(",")[0])
    said = re.sub(r"[\w+.-]+\.(\w+)", r"\1", one.said)
    return re.sub(r"\d+", "", said) + " ".join(endings).lower()


def _refusal(kind: list[Outcome]) -> str:
    one = kind[0]
    said = re.sub(r"/[^ ']*/tmp\w+", "FOLDER", one.said)
    cause, _, hint = said.replace("|", "\\|").replace("<", "&lt;").partition(" — ")
    hint = re.sub(r"python -c \"(.*)\"", r'`python -c "\1"`', hint)
    return f"| {one.case.peer} | {one.case.name} | {len(kind)} | {cause} — {hint} |"


def page() -> str:
    """The page, of the tools that are installed."""
    found = outcomes()
    head = "| tool | version | what | files | agreed | refused | wrong |\n|---|---|---|---:|---:|---:|---:|\n"
    tail = "\n\n## What is refused\n\nOne file of each kind, and how many there are of it.\n\n"
    refused = "| tool | file | files | what is said |\n|---|---|---:|---|\n"
    return _INTRODUCTION + head + "\n".join(rows(found)) + tail + refused + "\n".join(refusals(found)) + "\n"
