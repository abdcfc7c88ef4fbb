"""``deformgan cohort`` as users run it: a cluster of processes, a broken pair, the same command again."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_cohort

from deformgan.cohort.cluster import ask_scheduler
from deformgan.commands.main import main
from deformgan.errors import InputError


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


@pytest.fixture
def there() -> Iterator[list[str]]:
    """A scheduler somewhere else, whose worker is here a thread: it needs not begin with PyTorch's import."""
    from distributed import LocalCluster

    how = {"processes": False, "dashboard_address": None, "protocol": "tcp"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **how) as cluster:
        yield ["--scheduler", cluster.scheduler_address]


@pytest.mark.slow
def test_a_cohort_from_dry_run_to_merge(
    words: list[str], there: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two pairs by a process of its own, the others elsewhere."""
    out = tmp_path / "out"
    assert main([*words, "--dry-run"]) == 0
    assert answer(capsys)["pairs"] == ["p0", "p1", "p2", "gone"]
    assert not out.exists()
    assert main([*words, "--workers", "1", "--limit", "2"]) == 0
    assert (found := answer(capsys))["done"], found["pending"] == (2, 2)
    first = (out / "pairs/p0/registration.json").stat().st_mtime_ns
    assert main([*words, *there]) == 5
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


def test_the_first_failure_may_end_it(
    words: list[str], there: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "pairs.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, lines[-1], *lines[:-1]]) + "\n")
    assert main([*words, *there, "--stop-on-first-crash"]) == 5
    found = answer(capsys)
    assert (found["failed"], found["done"], found["pending"]) == (1, 0, 3)
    assert main([*words, *there]) == 5
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


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:8787", "tcp://127.0.0.1", "127.0.0.1:port", ""])
def test_what_is_no_address_of_a_scheduler(address: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--scheduler", address]) == 2
    assert "is no address of a scheduler" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["nobody", "another server"])
def test_a_scheduler_that_does_not_answer(
    what: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deformgan.cohort.cluster.PATIENCE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the call and never speaks
        port = 9 if what == "nobody" else server.getsockname()[1]
        assert main([*words, "--scheduler", f"tcp://127.0.0.1:{port}"]) == 3
    assert f"no scheduler answers at tcp://127.0.0.1:{port} within 1 s" in capsys.readouterr().err


def test_a_scheduler_is_told_from_its_workers() -> None:
    """The worker's own address, which dask shows just as clearly, is refused."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as two:
        assert ask_scheduler(two.scheduler_address) == 1
        with pytest.raises(InputError, match="is no scheduler"):
            ask_scheduler(two.workers[0].address)
        two.scale(0)
