"""Every way a run can be refused: the exit code, one line with cause and hint, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import PairFiles, Phantom, write_nifti
from tiny import write_tiny_model

import deformgan.io.atomic
from bad_input.page import PAGE, as_nobody, page
from deformgan.commands.main import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def register(fixed: Path, moving: Path, out: Path, weights: Path | str, *more: str) -> int:
    where = ["-f", str(fixed), "-m", str(moving), "-o", str(out), "--model", str(weights)]
    return main(["register", *where, "--refine-steps", "0", "--threads", "1", *more])


def check_refusal(said: tuple[str, str], cause: str) -> None:
    out, err = said
    assert out == ""
    err = err.splitlines(keepends=True)[-1]  # before it are the stages that went well
    assert err.startswith("deformgan: error: ")
    assert cause in err
    assert " — " in err, "the hint follows the cause"


def nan(path: Path, p: Phantom) -> None:
    data = p.t2.copy()
    data[3, 4, 5] = np.nan
    write_nifti(path, data, p.affine)


@pytest.mark.slow
def test_the_page_says_what_is_said() -> None:
    """Also that each answer is a refusal as it should be: code, one line, cause and hint, nothing left behind."""
    assert PAGE.read_text(encoding="utf-8") == page(), "make it anew: python tests/bad_input"


def test_a_refusal_in_json(
    pair_files: PairFiles, phantom: Phantom, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan(pair_files.fixed, phantom)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", weights, "--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["exit_code"]) == ("error", 3)
    assert "NaN" in answer["error"]
    assert answer["hint"]


def test_labels_and_points_are_checked_too(
    pair_files: PairFiles, phantom: Phantom, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fractions = write_nifti(tmp_path / "fractions.nii.gz", phantom.t1, phantom.affine)
    run = [pair_files.fixed, pair_files.moving, tmp_path / "out", weights]
    assert register(*run, "--moving-labels", str(fractions)) == 3
    check_refusal(capsys.readouterr(), "not a label map")
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    assert register(*run, "--moving-points", str(tmp_path / "points.csv")) == 3
    check_refusal(capsys.readouterr(), "no columns x, y and z")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--model", "no-such-weights"], "no weights named 'no-such-weights'"),
        (["--refine-steps", "-1"], "-1 refinement steps"),
        (["--threads", "0"], "--threads 0"),
    ],
)
def test_unusable_options(
    more: list[str],
    cause: str,
    pair_files: PairFiles,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", weights, *more) == 2
    check_refusal(capsys.readouterr(), cause)
    assert not (tmp_path / "out").exists()


def test_results_that_are_there(
    pair_files: PairFiles, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "warp.nii.gz").write_text("old")
    assert register(pair_files.fixed, pair_files.moving, out, weights) == 2
    check_refusal(capsys.readouterr(), "already holds warp.nii.gz")
    assert snapshot(out) == {"warp.nii.gz": b"old"}


def test_a_forced_run_that_fails_keeps_the_old_results(
    pair_files: PairFiles, phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert register(pair_files.fixed, pair_files.moving, out, weights) == 0
    before = snapshot(out)
    nan(pair_files.moving, phantom)
    assert register(pair_files.fixed, pair_files.moving, out, weights, "--force") == 3
    assert snapshot(out) == before


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_read_only_folder(
    there: bool, pair_files: PairFiles, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # pytest's own folders are closed to others, so this one is made outside of them
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        copies = {role: shutil.copy(getattr(pair_files, role), home) for role in ("fixed", "moving")}
        shutil.copytree(weights, home / "weights")
        locked = home / "locked"
        (locked / "out" if there else locked).mkdir(parents=True)
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        for path in [locked, *locked.rglob("*")]:
            path.chmod(0o555)
        before = tree(home)
        with as_nobody():
            code = register(Path(copies["fixed"]), Path(copies["moving"]), locked / "out", home / "weights")
        assert code == 3
        check_refusal(capsys.readouterr(), "read-only")
        assert tree(home) == before
        for path in [locked, *locked.rglob("*")]:
            path.chmod(0o755)


def test_a_disk_that_fills_while_writing(
    pair_files: PairFiles,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written: list[int] = []
    real = deformgan.io.atomic._write_all

    def fills(file: object, header: bytes, chunks: object) -> None:
        if len(written) == 2:  # some files are whole by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(1)
        real(file, header, chunks)

    monkeypatch.setattr(deformgan.io.atomic, "_write_all", fills)
    before = tree(tmp_path)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", weights) == 3
    check_refusal(capsys.readouterr(), "disk is full")
    assert tree(tmp_path) == before


OnDisk = Callable[[str], subprocess.CompletedProcess[str]]
SMALL_DISK = 'mount -t tmpfs -o size=$1 tmp "$0" || exit 77; shift; cd "$0"; "$@"; code=$?; ls -A . out >&2; exit $code'


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    test = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return unshare is not None and subprocess.run(test, capture_output=True, check=False).returncode == 0


@pytest.fixture
def on_a_disk_of(pair_files: PairFiles, weights: Path, tmp_path: Path) -> OnDisk:
    """A registration into a file system of so many bytes, and the listing of what it left."""
    if not can_mount():
        pytest.skip("needs a kernel that lets us mount a small file system")

    def run(size: str) -> subprocess.CompletedProcess[str]:
        (disk := tmp_path / "disk").mkdir()
        where = ["-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", "out", "--model", str(weights)]
        words = [sys.executable, "-m", "deformgan", "register", *where, "--refine-steps", "0", "--threads", "1"]
        mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, str(disk), size, *words]
        return subprocess.run(mounted, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.slow
def test_a_disk_that_is_really_full(on_a_disk_of: OnDisk) -> None:
    done = on_a_disk_of("60k")
    assert done.returncode == 3, done.stderr
    refusal, _, listing = done.stderr.partition("ls: ")  # there is no folder to list
    assert "out" in listing
    check_refusal((done.stdout, refusal), "disk is full")


@pytest.mark.slow
def test_a_disk_that_has_no_room_for_the_report_alone(
    on_a_disk_of: OnDisk,
) -> None:
    done = on_a_disk_of("300k")
    assert done.returncode == 0, done.stderr
    assert "warning: out/report.html is missing" in done.stderr
    assert "the disk is full" in done.stderr
    left = done.stderr.rpartition("out:\n")[2].split()
    assert {"moved.nii.gz", "warp.nii.gz", "registration.json"} <= set(left)
    assert not {name for name in left if "report" in name}
