"""A sample of `make torture`."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture.harness import torture


@pytest.mark.slow
def test_signals_at_random_moments_break_nothing(tmp_path: Path) -> None:
    count = torture(tmp_path, 6, seed=1)
    assert count.broken == []
