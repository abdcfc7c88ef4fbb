"""``deformgan cohort`` as users run it: a cluster of processes, a broken pair, the same command again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_cohort

from deformgan.commands.main import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    pairs = small_cohort.write_pairs(tmp_path, 3)
    lines = ["id,fixed,moving", *(f"{p.name},{p.files['fixed']},{p.files['moving']}" for p in pairs)]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, f"gone,{pairs[0].files['fixed']},none.nii.gz"]) + "\n")
    quick = [
        "--refine-steps",
        "0",
        "--no-inverse",
        "--no-jacobian",
        "--no-report",
        "--model",
        str(tmp_path / "weights"),
    ]
    return ["cohort", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out"), *quick, "--json"]


def answer(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_cohort_from_dry_run_to_merge(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*words, "--dry-run"]) == 0
    assert answer(capsys)["pairs"] == ["p0", "p1", "p2", "gone"]
    assert not out.exists()
    assert main([*words, "--workers", "1", "--limit", "2"]) == 0
    assert (found := answer(capsys))["done"], found["pending"] == (2, 2)
    first = (out / "pairs/p0/registration.json").stat().st_mtime_ns
    assert main([*words, "--workers", "1"]) == 5
    said = capsys.readouterr()
    assert "2 of 2 gone: FAILED" in said.err or "1 of 2 gone: FAILED" in said.err
    assert json.loads(said.out)["exit_code"] == 5
    assert (out / "pairs/p0/registration.json").stat().st_mtime_ns == first
    assert main([*words]) == 5, "nothing to do, but one has failed"
    assert answer(capsys)["to_do_before"] == 0
    assert main(["cohort", "status", str(out), "--json"]) == 0
    counts = answer(capsys)
    assert (counts["total"], counts["done"], counts["failed"]) == (4, 3, 1)
    assert "none.nii.gz does not exist" in counts["names"]["failed"]["gone"]
    assert main(["cohort", "merge", str(out), "--json"]) == 5
    table = (out / "group_registration.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in table] == ["id", "p0", "p1", "p2", "gone"]


def test_the_first_failure_may_end_it(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "pairs.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, lines[-1], *lines[:-1]]) + "\n")
    assert main([*words, "--workers", "1", "--stop-on-first-crash"]) == 5
    found = answer(capsys)
    assert (found["failed"], found["done"], found["pending"]) == (1, 0, 3)
    assert main([*words, "--workers", "1"]) == 5
    assert answer(capsys)["done"] == 3


def test_a_table_for_another_machine_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("id,fixed,moving\na,/there/1.nii.gz,/there/2.nii.gz\n")
    assert main([*words, "--dry-run"]) == 2
    assert "none of its files is there, the first being /there/1.nii.gz" in capsys.readouterr().err


def test_shards_share_the_pairs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for part in ("1/2", "2/2"):
        assert main([*words, "--dry-run", "--shard", part]) == 0
        names += answer(capsys)["pairs"]
    assert sorted(names) == ["gone", "p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--shard", "3/2"], "--shard 3/2 is no part"),
        (["--memory-limit", "much"], "--memory-limit much is no size"),
        (["--limit", "0"], "--limit 0"),
        (["--workers", "0"], "--workers 0"),
        (["--model", "nowhere"], "nowhere"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers is for workers on this machine"),
    ],
)
def test_options_that_make_no_sense(
    more: list[str], what: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    assert what in capsys.readouterr().err


def test_a_scheduler_that_does_not_answer(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deformgan.cohort.cluster.PATIENCE_SECONDS", 0.5)
    assert main([*words, "--scheduler", "tcp://127.0.0.1:9"]) == 3
    assert "no scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
