"""One pair on a worker: what it leaves, when it is done again, and what becomes of a pair that cannot be done."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_cohort

from deformgan.cohort.pair import Pair
from deformgan.cohort.plan import judge_row
from deformgan.cohort.run import Cohort, make_plan, tasks
from deformgan.cohort.store import Store
from deformgan.cohort.worker import run_task


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return small_cohort.write_pairs(tmp_path, 1)[0]


def test_a_pair_is_registered_once(pair: Pair, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", small_cohort.quick_settings(tmp_path)
    task = small_cohort.task(pair, settings, out)
    said = run_task(task)
    assert (said["id"], said["status"], said["again"]) == ("p0", "done", True)
    row = Store(out).read_row("p0")
    assert row is not None
    assert set(row["outputs"]) == {
        f"pairs/p0/{n}" for n in ("moved.nii.gz", "warp.nii.gz", "affine.txt", "registration.json")
    }
    assert row["figures"]["similarity_after"] > row["figures"]["similarity_before"] * 0.99
    assert row["figures"]["jacobian_p01"] <= 1 <= row["figures"]["jacobian_p99"]
    assert Store(out).thumbnail_path("p0").stat().st_size < 20_000
    before = (out / "pairs/p0/moved.nii.gz").stat().st_mtime_ns
    assert run_task(replace(task, run="second"))["again"] is False
    assert (out / "pairs/p0/moved.nii.gz").stat().st_mtime_ns == before


def test_the_recorded_command_does_the_same_again(pair: Pair, tmp_path: Path) -> None:
    from deformgan.commands.main import main
    from deformgan.output.report.texts import command

    settings, out = small_cohort.quick_settings(tmp_path, transform="joint"), tmp_path / "out"
    run_task(small_cohort.task(pair, settings, out))
    record = json.loads((out / "pairs/p0/registration.json").read_text(encoding="utf-8"))
    name, *words = shlex.split(command(record))
    assert (name, words[0]) == ("deformgan", "register")
    words[words.index("-o") + 1] = str(tmp_path / "alone")
    assert main(words) in (0, 4)
    alone, ours = (folder / "moved.nii.gz" for folder in (tmp_path / "alone", out / "pairs/p0"))
    np.testing.assert_array_equal(nib.load(alone).get_fdata(), nib.load(ours).get_fdata())


def test_threads_of_a_worker_are_those_asked_for(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    settings = small_cohort.quick_settings(tmp_path)
    cohort = Cohort(pairs=[pair], settings=settings, out=tmp_path / "out", threads=3, scheduler="tcp://x:1")
    (task,) = tasks(cohort, make_plan(cohort), "tcp://x:1", "run")
    assert task.settings.memory_bytes is None, "workers elsewhere have limits of their own"
    run_task(task)
    # a registration takes one for small work, and gives back what there was
    assert asked[0] == 3
    assert set(asked) <= {1, 3, torch.get_num_threads()}


def test_jacobian_percentiles_are_those_of_the_whole_map(pair: Pair, tmp_path: Path) -> None:
    """On a grid as fine as the figures' own, they are the percentiles of the written map."""
    small_cohort.write_tiny_model(tmp_path / "bent", bend=0.3)
    settings = small_cohort.quick_settings(tmp_path, weights=str(tmp_path / "bent"), jacobian=True)
    out = tmp_path / "out"
    run_task(small_cohort.task(pair, settings, out))
    row = Store(out).read_row("p0")
    assert row is not None
    inside = np.asanyarray(nib.load(pair.files["fixed"]).dataobj) != 0
    values = np.asanyarray(nib.load(out / "pairs/p0/jacobian.nii.gz").dataobj)[inside]
    expected = np.quantile(values, [0.01, 0.99])
    assert expected[1] > 1.01
    found = [row["figures"]["jacobian_p01"], row["figures"]["jacobian_p99"]]
    np.testing.assert_allclose(found, expected, atol=2**-9 + 1e-4)  # the file holds multiples of 2⁻⁸


@pytest.mark.parametrize("what", ["input", "output", "settings", "touched", "lost row"])
def test_what_makes_a_pair_be_done_again(what: str, pair: Pair, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", small_cohort.quick_settings(tmp_path)
    run_task(small_cohort.task(pair, settings, out))
    if what == "input":
        image = nib.load(pair.files["moving"])
        nib.Nifti1Image(np.roll(image.get_fdata(), 1, 1), image.affine).to_filename(pair.files["moving"])
    elif what == "output":
        os.truncate(out / "pairs/p0/warp.nii.gz", 100)
    elif what == "settings":
        settings = replace(settings, smoothness=2.0)
    elif what == "touched":
        os.utime(pair.files["moving"])
    else:
        Store(out).row_path("p0").unlink()
    same = what == "touched"  # another time, the same contents
    row = Store(out).read_row("p0")
    assert judge_row(out, pair, settings, row) == ("done" if same else "pending")
    assert run_task(small_cohort.task(pair, settings, out, "second"))["again"] is not same


def test_checksums_find_what_time_and_size_hide(pair: Pair, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", small_cohort.quick_settings(tmp_path)
    run_task(small_cohort.task(pair, settings, out))
    path = out / "pairs/p0/moved.nii.gz"
    data, when = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(when, when))
    row = Store(out).read_row("p0")
    assert judge_row(out, pair, settings, row) == "done"
    assert judge_row(out, pair, settings, row, verify=True) == "pending"


def test_a_broken_pair_is_named_and_kept_apart(pair: Pair, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", small_cohort.quick_settings(tmp_path)
    missing = replace(pair, files={**pair.files, "moving": str(tmp_path / "later.nii.gz")})
    said = run_task(small_cohort.task(missing, settings, out))
    assert (said["status"], said["kind"]) == ("failed", "input")
    assert "later.nii.gz does not exist" in said["cause"]
    assert not (out / "pairs").exists()
    assert run_task(small_cohort.task(missing, settings, out, "second"))["again"] is False
    assert run_task(small_cohort.task(missing, settings, out, "third", again=True))["again"] is True
    os.link(pair.files["moving"], tmp_path / "later.nii.gz")
    assert run_task(small_cohort.task(missing, settings, out, "fourth"))["status"] == "done", "its file has come"


def test_a_pair_that_two_workers_died_of_is_set_aside(pair: Pair, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", small_cohort.quick_settings(tmp_path)
    for _ in range(2):
        small_cohort.die_with(Store(out).claim_path("p0"), "first")
    said = run_task(small_cohort.task(pair, settings, out))
    assert (said["status"], said["kind"]) == ("failed", "killed")
    assert "2 workers died" in said["cause"]
    assert Store(out).running() == []


LIMITED = """
import sys, json
sys.path[:0] = {path}
from pathlib import Path
import small_cohort
from deformgan.cohort.pair import Pair
from deformgan.cohort.worker import run_task
folder = Path({folder!r})
settings = small_cohort.quick_settings(folder, memory_bytes=1_000_000_000)
for name in ("big", "p0"):
    pair = Pair(name, {{"fixed": str(folder / f"{{name}}_T2.nii.gz"), "moving": str(folder / f"{{name}}_T1.nii.gz")}})
    print(json.dumps(run_task(small_cohort.task(pair, settings, folder / "out"))))
"""


@pytest.mark.slow
def test_memory_is_limited_and_the_worker_lives_on(pair: Pair, tmp_path: Path) -> None:
    big = np.zeros((480, 480, 480), np.uint8)
    big[100:400, 100:400, 100:400] = 100
    nib.Nifti1Image(big, np.eye(4)).to_filename(tmp_path / "big_T1.nii.gz")
    os.link(tmp_path / "big_T1.nii.gz", tmp_path / "big_T2.nii.gz")
    for name in ("T1", "T2"):
        os.link(tmp_path / f"0_{name}.nii.gz", tmp_path / f"p0_{name}.nii.gz")
    script = LIMITED.format(path=[p for p in sys.path if p], folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["status"], first["kind"]) == ("failed", "memory"), first
    assert "limit 1.0 GB" in first["cause"]
    assert second["status"] == "done"
