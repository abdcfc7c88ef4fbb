"""group_registration.html: every pair of a cohort in one self-contained file that shows which to look at."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from deformgan import __version__
from deformgan.cohort.group import FIGURES, GRADES, PAGE, WORDS, Group
from deformgan.cohort.store import Store
from deformgan.io.atomic import atomic

MOST_ROWS = 20_000
MOST_PICTURE_BYTES = 12_000_000  # some 2000 pairs
_ORDER = {"failed": 0, "fail": 1, "look": 2, "pending": 3, "pass": 4}  # what to look at first
# what each state is called, and what it means
_WORDS = {
    "failed": ("could not be done", "there is no result; the cause says why"),
    "fail": ("verdict fail", "registered, and the quality check failed"),
    "look": ("verdict look", "registered, and doubtful: look at it"),
    "pending": ("to do", "not begun, or of other settings"),
    "pass": ("verdict pass", "registered, and the quality check passed"),
}
_COLUMNS = ["id", "state", *FIGURES, "exit", "cause", "outliers", "version", "weights", "rating", "rater", "note"]


def write_page(group: Group, store: Store) -> None:
    """Write the page, whole or not at all.

    Of more than `MOST_ROWS` pairs the doubtful ones are shown, of the pictures those that `MOST_PICTURE_BYTES` hold;
    the page says so. The table beside it has all.
    """
    ranked = sorted(group.rows, key=lambda row: (_ORDER[state(row)], not row["outliers"]))
    shown = ranked[:MOST_ROWS]
    columns = _columns(group)
    data = {
        "key": group.about["key"],
        "columns": columns,
        "rows": [_values(row, columns) for row in shown],
        "reports": [row.get("report") for row in shown],
        "pictures": _pictures(shown, store),
        "grades": list(GRADES),
        "total": len(group.rows),
    }
    text = render(data, dict(Counter(state(row) for row in group.rows)), group.about)
    with atomic(store.out / PAGE) as partial:
        partial.write_text(text, encoding="utf-8")


def state(row: dict[str, Any]) -> str:
    """The verdict of what is done, the status of all else."""
    return row["verdict"] if row["status"] == "done" else row["status"]


def render(data: dict[str, Any], counts: dict[str, int], about: dict[str, Any]) -> str:
    """The page as text; whatever comes from files is escaped."""
    script, style = _asset("group.js"), _asset("group.css")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_asset("group.html.j2"))
    # the data are no script to the browser, and must not end the element they are in
    embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return template.render(
        csp=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=embedded,
        counts=sorted(counts.items(), key=lambda one: _ORDER[one[0]]),
        words={name: word for name, (word, _) in _WORDS.items()},
        meanings={name: meaning for name, (_, meaning) in _WORDS.items()},
        total=data["total"],
        shown=len(data["rows"]),
        pictured=len(data["pictures"]),
        about=about,
        version=__version__,
    )


def _columns(group: Group) -> list[dict[str, Any]]:
    """Name, unit, meaning, whether it is a number, its fences and the end of it that is bad."""
    more = [name for name in group.columns if name not in FIGURES and name not in WORDS]
    found = []
    for name in [*_COLUMNS[:2], *more, *_COLUMNS[2:]]:
        unit, text, bad = FIGURES.get(name, ("", WORDS.get(name, ""), ""))
        fence = group.fences.get(name)
        number = name in FIGURES
        if number and all(row.get(name) is None for row in group.rows):
            continue  # nothing asked for it
        found.append({"name": name, "unit": unit, "text": text, "bad": bad, "number": number, "fence": fence})
    return found


def _values(row: dict[str, Any], columns: Sequence[dict[str, Any]]) -> list[Any]:
    values = {**row, "state": state(row)}
    return [_short(values.get(column["name"])) for column in columns]


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value


def _pictures(rows: Sequence[dict[str, Any]], store: Store) -> dict[int, str]:
    """WebP as base64 by the place of its row, as many as may be."""
    found, room = {}, MOST_PICTURE_BYTES
    for place, row in enumerate(rows):
        path = store.thumbnail_path(row["id"])
        if row["status"] == "done" and path.is_file():
            data = path.read_bytes()
            room -= len(data)
            if room < 0:
                break
            found[place] = base64.b64encode(data).decode("ascii")
    return found


def _asset(name: str) -> str:
    return (files("deformgan.cohort") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
