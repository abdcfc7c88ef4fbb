"""Every way a run can be refused: the exit code, one line with cause and mend, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PairFiles, Phantom, write_nifti
from tiny import write_tiny_model

import deformgan.files
from deformgan.cli import main

Spoil = Callable[[Path, Phantom], None]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def register(fixed: Path, moving: Path, out: Path, weights: Path | str, *more: str) -> int:
    where = ["-f", str(fixed), "-m", str(moving), "-o", str(out), "--weights", str(weights)]
    return main(["register", *where, "--refine", "0", "--threads", "1", *more])


def check_refusal(said: tuple[str, str], cause: str) -> None:
    out, err = said
    assert out == ""
    assert err.startswith("deformgan: error: ")
    assert err.count("\n") == 1, f"one line, not: {err}"
    assert cause in err
    assert " — " in err, "the mend follows the cause"


def missing(path: Path, _: Phantom) -> None:
    path.unlink()


def folder(path: Path, _: Phantom) -> None:
    path.unlink()
    path.mkdir()


def not_an_image(path: Path, _: Phantom) -> None:
    path.write_bytes(b"these are not the voxels you are looking for" * 40)


def gzip_of_text(path: Path, _: Phantom) -> None:
    path.write_bytes(gzip.compress(b"these are not the voxels you are looking for" * 40))


def empty_file(path: Path, _: Phantom) -> None:
    path.write_bytes(b"")


def truncated(path: Path, _: Phantom) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flipped_bits(path: Path, _: Phantom) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def two_d(path: Path, p: Phantom) -> None:
    write_nifti(path, p.t2[:, :, 18], p.affine)


def one_slice(path: Path, p: Phantom) -> None:
    write_nifti(path, p.t2[:, :, 18:19], p.affine)


def four_d(path: Path, p: Phantom) -> None:
    write_nifti(path, np.stack([p.t2, p.t2], -1), p.affine)


def rgb(path: Path, p: Phantom) -> None:
    colour = np.zeros(p.t2.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour["R"] = (p.t2 * 255).astype(np.uint8)
    write_nifti(path, colour, p.affine)


def complex_numbers(path: Path, p: Phantom) -> None:
    write_nifti(path, p.t2.astype(np.complex64), p.affine)


def empty(path: Path, p: Phantom) -> None:
    write_nifti(path, np.zeros_like(p.t2), p.affine)


def constant(path: Path, p: Phantom) -> None:
    write_nifti(path, np.full_like(p.t2, 7), p.affine)


def nan(path: Path, p: Phantom) -> None:
    data = p.t2.copy()
    data[3, 4, 5] = np.nan
    write_nifti(path, data, p.affine)


def infinite(path: Path, p: Phantom) -> None:
    data = p.t2.copy()
    data[3, 4, 5] = -np.inf
    write_nifti(path, data, p.affine)


def singular(path: Path, p: Phantom) -> None:
    affine = p.affine.copy()
    affine[:3, 2] = affine[:3, 1]
    image = nib.Nifti1Image(p.t2, None)
    image.set_sform(affine, code=1)
    image.to_filename(path)


def absurd_size(path: Path, p: Phantom) -> None:
    image = nib.Nifti1Image(p.t2, p.affine)
    raw = bytearray(image.to_bytes())
    raw[40:56] = np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def far_away(path: Path, p: Phantom) -> None:
    affine = p.affine.copy()
    affine[:3, 3] += 1000
    write_nifti(path, p.t2, affine)


SPOILS: list[tuple[Spoil, str]] = [
    (missing, "does not exist"),
    (folder, "is a folder"),
    (not_an_image, "not a NIfTI image"),
    (gzip_of_text, "not a NIfTI image"),
    (empty_file, "not a NIfTI image"),
    (truncated, "truncated"),
    (flipped_bits, "damaged"),
    (two_d, "not 3-D"),
    (one_slice, "not 3-D"),
    (four_d, "4-D"),
    (rgb, "colours"),
    (complex_numbers, "complex"),
    (empty, "empty"),
    (constant, "constant"),
    (nan, "NaN or infinite"),
    (infinite, "NaN or infinite"),
    (singular, "singular"),
    (absurd_size, "header claims"),
    (far_away, "do not overlap"),
]


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize(("spoil", "cause"), SPOILS, ids=lambda value: getattr(value, "__name__", ""))
def test_unusable_images(
    spoil: Spoil,
    cause: str,
    role: str,
    pair_files: PairFiles,
    phantom: Phantom,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoilt = getattr(pair_files, role)
    spoil(spoilt, phantom)
    before = tree(tmp_path)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "new" / "out", weights) == 3
    said = capsys.readouterr()
    check_refusal(said, cause)
    assert spoilt.name in said.err, "the message names the file"
    assert tree(tmp_path) == before


def test_a_refusal_in_json(
    pair_files: PairFiles, phantom: Phantom, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan(pair_files.fixed, phantom)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", weights, "--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["exit_code"]) == ("error", 3)
    assert "NaN" in answer["error"]
    assert answer["mend"]


def test_labels_and_points_are_checked_too(
    pair_files: PairFiles, phantom: Phantom, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fractions = write_nifti(tmp_path / "fractions.nii.gz", phantom.t1, phantom.affine)
    run = [pair_files.fixed, pair_files.moving, tmp_path / "out", weights]
    assert register(*run, "--moving-labels", str(fractions)) == 3
    check_refusal(capsys.readouterr(), "not a label map")
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    assert register(*run, "--points", str(tmp_path / "points.csv")) == 3
    check_refusal(capsys.readouterr(), "no columns x, y and z")
    assert not (tmp_path / "out").exists()


def truncated_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def other_network(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["widths"] = [4, 16]
    (folder / "config.json").write_text(json.dumps(config))


def no_such_network(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["kind"] = "oracle"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage", [truncated_weights, no_json, other_network, no_such_network])
def test_damaged_weights(
    damage: Callable[[Path], None],
    pair_files: PairFiles,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(weights, tmp_path / "copy"))
    damage(copy)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", copy) == 3
    check_refusal(capsys.readouterr(), "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--weights", "no-such-weights"], "no weights named 'no-such-weights'"),
        (["--refine", "-1"], "--refine -1"),
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


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Permissions do not bind root, so act as nobody for a while; the same for everybody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


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
        with without_root():
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
    real = deformgan.files._write_all

    def fills(file: object, header: bytes, chunks: object) -> None:
        if len(written) == 2:  # some files are whole by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(1)
        real(file, header, chunks)

    monkeypatch.setattr(deformgan.files, "_write_all", fills)
    before = tree(tmp_path)
    assert register(pair_files.fixed, pair_files.moving, tmp_path / "out", weights) == 3
    check_refusal(capsys.readouterr(), "disk is full")
    assert tree(tmp_path) == before


SMALL_DISK = 'mount -t tmpfs -o size=300k tmpfs "$0" || exit 77; cd "$0"; "$@"; code=$?; ls -A "$0" >&2; exit $code'


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    test = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return unshare is not None and subprocess.run(test, capture_output=True, check=False).returncode == 0


def test_a_disk_that_is_really_full(pair_files: PairFiles, weights: Path, tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs a kernel that lets us mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    where = ["-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", "out", "--weights", str(weights)]
    words = [sys.executable, "-m", "deformgan", "register", *where, "--refine", "0", "--threads", "1"]
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, str(disk), *words]
    done = subprocess.run(mounted, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    check_refusal((done.stdout, done.stderr), "disk is full")  # one line: the listing after it is empty
