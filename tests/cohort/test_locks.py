"""Locks go with the process that holds them; a pair knows how many workers it has cost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from small_cohort import die_with

from deformgan.cohort.locks import claim, is_held, only_one
from deformgan.errors import UsageError


def test_deaths_count_within_a_run(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "p"
    assert die_with(path, "first") == 0
    assert not is_held(path)
    assert die_with(path, "first") == 1
    with claim(path, "second") as deaths:
        assert deaths == 0, "another run starts anew"
    assert not path.exists()
    with claim(path, "first") as deaths:
        assert deaths == 0, "a pair that was ended has cost nobody"


def test_a_second_worker_waits(tmp_path: Path) -> None:
    path, order = tmp_path / "claims" / "p", []

    def second() -> None:
        with claim(path, "run"):
            order.append("second")

    with claim(path, "run"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert not path.exists()


def test_one_cohort_a_folder(tmp_path: Path) -> None:
    said = r"another cohort works in .*process \d+"
    with (
        only_one(tmp_path / ".cohort", None),
        pytest.raises(UsageError, match=said),
        only_one(tmp_path / ".cohort", None),
    ):
        pass
    with only_one(tmp_path / ".cohort", None):
        pass


def test_shards_work_side_by_side_and_nobody_beside_them(tmp_path: Path) -> None:
    with only_one(tmp_path, (1, 2)), only_one(tmp_path, (2, 2)):
        for shard in [(1, 2), None]:
            with pytest.raises(UsageError, match="another cohort"), only_one(tmp_path, shard):
                pass
