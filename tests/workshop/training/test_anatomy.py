"""Training S: a run of seconds learns, resumes as if it had not stopped, and refuses the checkpoint of another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_phantom, write_nifti
from safetensors.torch import load_file

from deformgan.commands.main import main
from deformgan.errors import UsageError
from deformgan.models.anatomy import load_anatomy_model
from deformgan.workshop.simulation.head_scans import ScanConfig
from deformgan.workshop.simulation.structures import STRUCTURES
from deformgan.workshop.training.anatomy import learning_rate, train_anatomy
from deformgan.workshop.training.anatomy_config import AnatomyConfig
from deformgan.workshop.training.record import read_metrics

SCANS = ScanConfig((24, 24, 24), 8.0, elastic=(4.0,), elastic_every=(60.0,), cropped=0.0)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    for seed in (0, 1):
        phantom = make_phantom(seed)
        labels = np.where(phantom.labels == 100, 41, phantom.labels).astype(np.int16)
        write_nifti(folder / f"{seed}.nii.gz", labels, phantom.affine)
    return folder


def configured(maps: Path, **changes: Any) -> AnatomyConfig:
    settings: dict[str, Any] = {
        "name": "small",
        "network": {"kind": "anatomy", "labels": len(STRUCTURES), "widths": [8, 16]},
        "root": str(maps),
        "cache": str(maps / "cache"),
        "label_maps": ("0.nii.gz",),
        "validation": ("1.nii.gz",),
        "scans": SCANS,
        "steps": 4,
        "warm_up": 2,
        "validate_every": 2,
        "checkpoint_seconds": 0.0,
    }
    return AnatomyConfig(**settings | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_it_learns(maps: Path, tmp_path: Path) -> None:
    train_anatomy(configured(maps, steps=60, validate_every=15, learning_rate=1e-2, average=0.9), tmp_path / "run")
    rows = list(read_metrics(tmp_path / "run"))
    assert rows[-1]["val_mask"] > max(0.7, rows[0]["val_mask"] + 0.1)
    assert rows[-1]["val_structures"] > rows[0]["val_structures"]


def test_a_resumed_run_is_the_run_that_never_stopped(maps: Path, tmp_path: Path) -> None:
    whole = train_anatomy(configured(maps), tmp_path / "whole")
    train_anatomy(configured(maps, steps=2), tmp_path / "parts")
    parts = train_anatomy(configured(maps), tmp_path / "parts")
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((parts / "config.json").read_text())["training"]["steps_done"] == 4


def test_a_time_limit_ends_a_run_that_the_next_call_goes_on_with(maps: Path, tmp_path: Path) -> None:
    whole = train_anatomy(configured(maps), tmp_path / "whole")
    for done in range(1, 5):
        slices = train_anatomy(configured(maps), tmp_path / "slices", minutes=1e-6)
        assert json.loads((slices / "config.json").read_text())["training"]["steps_done"] == done
    one, other = weights(whole), weights(slices)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_starts_from_weights_that_are_given(maps: Path, tmp_path: Path) -> None:
    network = {"kind": "anatomy", "labels": len(STRUCTURES), "widths": [32, 32]}
    taught = train_anatomy(configured(maps, network=network, steps=2), tmp_path / "taught")
    then = configured(maps, network=network, steps=1, start_from=str(taught), learning_rate=1e-9)
    begun = train_anatomy(then, tmp_path / "next")
    for name, tensor in weights(begun).items():
        torch.testing.assert_close(tensor, weights(taught)[name], atol=1e-7, rtol=0)


def test_a_finished_run_is_left_alone(maps: Path, tmp_path: Path) -> None:
    model = train_anatomy(configured(maps), tmp_path / "run")
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert train_anatomy(configured(maps), tmp_path / "run") == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_of_other_settings_is_refused(maps: Path, tmp_path: Path) -> None:
    train_anatomy(configured(maps), tmp_path / "run")
    with pytest.raises(UsageError, match="learning_rate"):
        train_anatomy(configured(maps, steps=6, learning_rate=1e-4), tmp_path / "run")


def test_several_samples_a_step_and_processes_that_make_them(maps: Path, tmp_path: Path) -> None:
    one = train_anatomy(configured(maps, batch=2, workers=1), tmp_path / "one")
    other = train_anatomy(configured(maps, batch=2), tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def test_the_learning_rate_rises_and_then_falls_with_the_root(maps: Path) -> None:
    config = configured(maps, warm_up=10, half_life=100, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 100) == pytest.approx(0.5**0.5)
    assert learning_rate(config, 300) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_maps": ()}, "nothing to learn"),
        ({"batch": 0}, "1 or more"),
        ({"scans": dataclasses.replace(SCANS, shape=(24, 23, 24))}, "cannot be folded"),
        ({"scans": dataclasses.replace(SCANS, elastic=(1.0, 2.0))}, "differ in number"),
    ],
)
def test_settings_that_cannot_be_are_refused(maps: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        configured(maps, **changes)


def test_the_command_trains_it(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"""
name = "small"
label_maps = ["0.nii.gz"]
cache = {json.dumps(str(maps / "cache"))}
steps = 2
[network]
kind = "anatomy"
widths = [8, 16]
[scans]
shape = [24, 24, 24]
spacing = 8.0
"""
    (tmp_path / "s.toml").write_text(text)
    assert main(["train", str(tmp_path / "s.toml"), "--data", str(maps), "-o", str(tmp_path / "run")]) == 0
    assert "step 2 of 2" in capsys.readouterr().out
    assert weights(tmp_path / "run" / "model")


@pytest.mark.parametrize("part", [1, 2])
def test_the_published_configurations_can_be_read(part: int) -> None:
    from deformgan.workshop.training.settings import read_toml

    path = Path(__file__).parents[3] / "configs" / "anatomy" / f"{part}.toml"
    config = AnatomyConfig.from_dict(read_toml(path))
    assert config.network["labels"] == len(STRUCTURES)
    assert not set(config.label_maps) & set(config.validation)
    shipped = load_anatomy_model("anatomy")
    assert shipped.structures == STRUCTURES
    if part == 2:
        assert (shipped.shape, shipped.spacing) == (config.scans.shape, config.scans.spacing)
