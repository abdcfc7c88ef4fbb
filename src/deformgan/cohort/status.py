"""How far a cohort is: counted from its rows and claims, whoever runs it and wherever."""

from __future__ import annotations

from collections import Counter
from typing import Any

from deformgan.cohort.store import Store

VERDICTS = ("pass", "look", "fail")


def status(store: Store) -> dict[str, Any]:
    """Counts of a cohort's pairs.

    Returns:
        ``total``, ``done``, ``failed``, ``running``, ``pending``; ``verdicts`` of the done; ``causes`` of the failed by
        kind; ``names`` of those that run and those that failed; ``stale``: rows of other settings, which are pending.

    Raises:
        InputError: There is no cohort in the folder.
    """
    _, listed, about = store.read_plan()
    names = {pair["id"] for pair in listed}
    rows = {row["id"]: row for row in store.rows() if row["id"] in names}
    current = {name: row for name, row in rows.items() if row["digest"] == about["digest"]}
    running = [name for name in store.running() if name in names]
    settled = {name: row for name, row in current.items() if name not in running}
    failed = {name: row for name, row in settled.items() if row["status"] == "failed"}
    verdicts = Counter(row["verdict"] for row in settled.values() if row["status"] == "done")
    return {
        "total": len(names),
        "done": len(settled) - len(failed),
        "failed": len(failed),
        "running": len(running),
        "pending": len(names) - len(settled) - len(running),
        "stale": len(rows) - len(current),
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "causes": dict(Counter(row["kind"] for row in failed.values()).most_common()),
        "names": {"running": running, "failed": {name: row["cause"] for name, row in sorted(failed.items())}},
    }


def line(counts: dict[str, Any]) -> str:
    """The counts as one line."""
    verdicts = ", ".join(f"{counts['verdicts'][name]} {name}" for name in VERDICTS)
    causes = ", ".join(f"{number} {kind}" for kind, number in counts["causes"].items())
    return (
        f"{counts['total']} pairs: {counts['done']} done ({verdicts}), {counts['failed']} failed"
        f"{f' ({causes})' if causes else ''}, {counts['running']} running, {counts['pending']} to do"
    )
