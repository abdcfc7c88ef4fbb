"""One name for one thing: Python's arguments, the command's options, and the options of the release before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import PairFiles, write_nifti
from tiny import write_tiny_model

import deformgan
from deformgan.commands.arguments import RENAMED, as_options, option_names, renewed
from deformgan.commands.cohort import Cohort
from deformgan.commands.demo import Demo
from deformgan.commands.evaluate import Evaluate
from deformgan.commands.export import Export
from deformgan.commands.main import COMMANDS, main
from deformgan.commands.register import Register
from deformgan.errors import InputError, UsageError


@pytest.mark.parametrize("command", [Register, Cohort, Demo, Evaluate, Export])
def test_weights_are_named_with_model_everywhere(command: type) -> None:
    assert "--model" in option_names(command)
    assert "--weights" not in option_names(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_old_names_are_in_no_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out.replace("|", " ").replace(",", " ").split()
    assert not set(RENAMED) & set(shown)


def test_old_names_work_with_a_line_on_each() -> None:
    words, notes = renewed(["-f", "a", "--weights", "w", "--refine=0", "--points", "p", "--refine", "1"], Register)
    assert words == ["-f", "a", "--model", "w", "--refine-steps=0", "--moving-points", "p", "--refine-steps", "1"]
    assert [note.split(" is now called ")[0] for note in notes] == ["--weights", "--refine", "--points"]
    assert renewed(["--points", "p"], Demo) == (["--points", "p"], []), "the demo never had this option"


def test_the_command_says_so_once(pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_tiny_model(tmp_path / "weights")
    words = ["register", "-f", str(pair_files.fixed), "-m", str(pair_files.moving), "--threads", "1", "--no-report"]
    old = ["--weights", str(weights), "--refine", "0"]
    assert main([*words, *old, "-o", str(tmp_path / "old")]) in (0, 4)
    assert capsys.readouterr().err.count(" is now called ") == 2
    assert main([*words, *old, "-o", str(tmp_path / "quiet"), "--quiet"]) in (0, 4)
    assert " is now called " not in capsys.readouterr().err
    record = json.loads((tmp_path / "old" / "registration.json").read_text())
    assert record["arguments"]["model"] == str(weights)
    assert record["settings"]["refine_steps"] == 0


def test_arguments_in_messages_become_options() -> None:
    text = 'give it as `fixed_mask`, use `transform="joint"`, `force=True` or `refine_steps=0`; not `numpy` or `a b`'
    assert as_options(text, Register) == (
        "give it as --fixed-mask, use --transform joint, --force or --refine-steps 0; not `numpy` or `a b`"
    )


def test_python_names_its_arguments_and_the_command_its_options(
    pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = write_nifti(tmp_path / "small.nii.gz", np.ones((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(InputError, match=r"^`fixed_mask` .*its shape is") as refused:
        deformgan.register(pair_files.fixed, pair_files.moving, fixed_mask=small)
    assert "--" not in str(refused.value)
    words = ["register", "-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(tmp_path / "out")]
    assert main([*words, "--fixed-mask", str(small), "--json"]) == 3
    said = capsys.readouterr()
    for text in (said.err, json.loads(said.out)["error"]):
        assert "--fixed-mask" in text
        assert "fixed_mask" not in text


def test_a_start_that_leads_nowhere_is_named_in_both(
    pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = deformgan.Transform(np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float))
    with pytest.raises(InputError, match=r"^`init` leads nowhere into"):
        deformgan.register(pair_files.fixed, pair_files.moving, init=far)
    far.save(tmp_path / "far.txt")
    words = ["register", "-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(tmp_path / "out")]
    assert main([*words, "--init", str(tmp_path / "far.txt")]) == 3
    assert "--init leads nowhere into" in capsys.readouterr().err


def test_results_in_the_way_are_kept_and_the_way_out_is_named(
    pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "warp.nii.gz").write_text("mine")
    found = deformgan.register(
        pair_files.fixed, pair_files.moving, model=str(write_tiny_model(tmp_path / "weights")), refine_steps=0
    )
    with pytest.raises(UsageError, match="give `force=True`"):
        found.save(out)
    words = ["register", "-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(out)]
    assert main(words) == 2
    assert "give --force to replace" in capsys.readouterr().err
    assert (out / "warp.nii.gz").read_text() == "mine"
