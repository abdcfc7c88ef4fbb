"""What is said where people bring what they have from other tools, and shells that complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PairFiles, write_nifti

from deformgan.commands.main import COMMANDS, completion_script, main
from deformgan.io.points import read_points
from deformgan.spatial.native import cgroups
from deformgan.transforms.formats.itk import write_affine

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture, *arguments: object) -> str:
    assert main([str(one) for one in arguments]) in (2, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 1
    return lines[-1]


@pytest.mark.parametrize(("given", "here"), [("[a.txt,1]", "a.txt,inverse"), ("[ a.txt, 0 ]", "a.txt")])
def test_the_way_ants_writes_an_inverse(given: str, here: str, pair_files: PairFiles, capsys: Capture) -> None:
    line = said(capsys, "apply", "-t", given, "-r", pair_files.fixed, pair_files.moving, "out.nii.gz")
    assert line.endswith(f"here that is {here}")


@pytest.mark.parametrize("name", ["points.fcsv", "points.mrk.json"])
def test_points_of_slicer(name: str, tmp_path: Path, capsys: Capture) -> None:
    write_affine(tmp_path / "a.txt", np.eye(4))
    (tmp_path / name).write_text("{}")
    line = said(capsys, "apply", "-t", tmp_path / "a.txt", tmp_path / name, tmp_path / "out.csv")
    assert "columns x, y, z in world mm, RAS+" in line


def test_points_of_ants_are_lps(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,z,t\n1,2,3,0\n")
    with pytest.warns(UserWarning, match="which are LPS"):
        assert read_points(tmp_path / "p.csv").positions_mm.tolist() == [[1, 2, 3]]


def test_a_column_twice(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.csv").write_text("x,y,z,x\n1,2,3,4\n")
    write_affine(tmp_path / "a.txt", np.eye(4))
    assert "two columns x" in said(capsys, "apply", "-t", tmp_path / "a.txt", tmp_path / "p.csv", tmp_path / "q.csv")


def test_the_line_that_takes_one_volume_out_of_a_series(
    pair_files: PairFiles, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(0).random((5, 6, 7, 3)).astype(np.float32)
    series = write_nifti(tmp_path / "series.nii.gz", data, np.eye(4))
    line = said(capsys, "register", "-f", series, "-m", pair_files.moving, "-o", tmp_path / "out")
    found = re.search(r'python -c "(.*)"$', line)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    exec(found[1], {})
    np.testing.assert_array_equal(nib.load(tmp_path / "volume.nii.gz").get_fdata(), data[..., 0])


def test_images_far_apart(pair_files: PairFiles, tmp_path: Path, capsys: Capture) -> None:
    image = nib.load(pair_files.moving)
    affine = image.affine.copy()
    affine[0, 3] += 900
    far = write_nifti(tmp_path / "far.nii.gz", image.get_fdata().astype(np.float32), affine)
    line = said(capsys, "register", "-f", pair_files.fixed, "-m", far, "-o", tmp_path / "out", "--transform", "deform")
    assert "use --transform joint" in line


def test_the_help_names_no_python_values(capsys: Capture) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert "None" not in capsys.readouterr().out, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_has_every_command(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in COMMANDS:
        assert name in script
    assert "--moving-labels" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [("deformgan reg", "register"), ("deformgan register --moving-l", "--moving-labels"), ("deformgan con", "convert")],
)
def test_a_real_bash_completes(words: str, expected: str) -> None:
    ask = (
        f"COMP_LINE='{words}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words})\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        '_tyro_deformgan; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", f"{completion_script('bash')}\n{ask}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert expected in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"memory.max": "2147483648"}, 2 << 30),
        ("0::/job/step", {"job/memory.max": "1073741824", "job/step/memory.max": "max"}, 1 << 30),
        ("5:memory:/x", {"memory/x/memory.limit_in_bytes": "536870912"}, 1 << 29),
        ("5:memory:/x", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/", {"memory.max": "max"}, None),
        ("nonsense", {}, None),
    ],
)
def test_the_memory_of_a_container(
    membership: str, files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroups.memory_limit(tmp_path, tmp_path / "membership") == expected


def test_the_memory_of_a_container_is_honoured_and_told(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "memory_limit", lambda: 1 << 20)
    image = write_nifti(tmp_path / "large.nii.gz", np.zeros((80, 80, 80), np.float32), np.eye(4))
    assert "more than the 0.0 it may" in said(capsys, "register", "-f", image, "-m", image, "-o", tmp_path / "out")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "memory_gib  0.0" in out
    assert "t1, t2" in out
    card = re.search(r"\S+MODEL_CARD\.md", out)
    assert card is not None
    assert Path(card[0]).exists()
