"""Files of other tools: agreed or refused in words, never wrong, and as often as the page says."""

from __future__ import annotations

import pytest

from peers.outcome import REFUSED, WRONG, Outcome
from peers.page import PAGE, outcomes, rows


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    """What comes of every file of the tools that are installed."""
    for tool in ("SimpleITK", "nitransforms", "h5py"):
        pytest.importorskip(tool)
    return outcomes()


def test_nothing_is_wrong(found: list[Outcome]) -> None:
    wrong = [f"{one.case.peer}, {one.case.what}, {one.case.name}: {one.said}" for one in found if one.came == WRONG]
    assert not wrong, "\n".join(wrong)


def test_every_refusal_says_what_to_do(found: list[Outcome]) -> None:
    assert [one.case.name for one in found if one.came == REFUSED and " — " not in one.said] == []


def test_the_page_counts_what_comes_out(found: list[Outcome]) -> None:
    """Rows of other versions of a tool than those here are left out: they carry other files."""
    stated = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    known = {tuple(line.split(" | ")[:2]) for line in stated}
    here = [line for line in rows(found) if tuple(line.split(" | ")[:2]) in known]
    assert len(here) >= 8, "other versions of all tools: make the page anew, python tests/peers"
    assert [line for line in here if line not in stated] == [], "make it anew: python tests/peers"
