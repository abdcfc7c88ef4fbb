"""S loaded and run: what comes out, and that damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deformgan.errors import InputError, UsageError
from deformgan.models.anatomy import load_anatomy_model
from deformgan.models.load import load_model, save_model, shipped_models
from deformgan.networks import build

NETWORK = {"kind": "anatomy", "labels": 4, "widths": [8, 16], "norm": "group"}
CONFIG: dict[str, Any] = {
    "network": NETWORK,
    "structures": ["background", "head", "left", "right"],
    "grid": {"shape": [32, 32, 32], "spacing": 2.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "S", build(NETWORK), CONFIG)
    return tmp_path / "S"


def test_shares_add_up_and_the_brain_is_a_probability(folder: Path) -> None:
    model = load_anatomy_model(folder)
    structures, brain = model.predict(torch.rand(1, 1, 24, 20, 28))
    assert structures.shape == (1, 4, 12, 10, 14)
    assert brain.shape == (1, 1, 24, 20, 28)
    torch.testing.assert_close(structures.sum(1), torch.ones(1, 12, 10, 14))
    assert 0 <= float(brain.min()) <= float(brain.max()) <= 1
    assert (model.structures[2], model.shape, model.spacing) == ("left", (32, 32, 32), 2.0)


@pytest.mark.parametrize(
    "change",
    [
        {"structures": ["background", "head", "left"]},
        {"structures": [1, 2, 3, 4]},
        {"structures": None},
        {"grid": {"shape": [32, 32], "spacing": 2.0}},
        {"grid": {"shape": [32, 32, 9999], "spacing": 2.0}},
        {"grid": {"shape": [32, 32, 32], "spacing": 0}},
        {"grid": {"shape": [32, 32, 32], "spacing": float("nan")}},
        {"network": {**NETWORK, "widths": [8, 32]}},
        {"network": {**NETWORK, "labels": 10**9}},
        {"network": {"kind": "unet"}},
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(InputError, match="damaged"):
        load_anatomy_model(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="not finite"):
        load_anatomy_model(folder)


def test_it_is_no_transformation_network(folder: Path) -> None:
    with pytest.raises(InputError, match="the kind of T is one of"):
        load_model(folder)
    with pytest.raises(InputError, match="the kind of S is one of"):
        load_anatomy_model(Path(load_model.__globals__["__file__"]).parent / "weights" / "t1-t2")


def test_no_transformation_network_is_offered_for_it() -> None:
    assert "t1-t2" in shipped_models()
    assert "anatomy" not in shipped_models()
    assert shipped_models("S") == ["anatomy"]
    with pytest.raises(UsageError):
        load_anatomy_model("t1-t2")
