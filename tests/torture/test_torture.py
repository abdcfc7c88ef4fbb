"""A sample of `make torture`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torture.conditions import conditions
from torture.harness import torture

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="signals, quotas and disks as Linux has them"
)


@pytest.mark.slow
def test_signals_at_random_moments_break_nothing(tmp_path: Path) -> None:
    count = torture(tmp_path, 6, seed=1, all_of_them=False)
    assert count.broken == []


@pytest.mark.slow
def test_full_disks_quotas_and_two_writers_break_nothing(tmp_path: Path) -> None:
    found = conditions(tmp_path)
    assert found.broken == []
    assert found.tried["a quota"] == 9
    assert found.tried["two writers"] == 6
