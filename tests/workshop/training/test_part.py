"""A part of T that learns alone: that a configuration does what the tool did by which the shipped weights were made."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import PYRAMID, data_config, training_config, write_people
from torch import Tensor
from torch.utils.data import default_collate

from deformgan.errors import UsageError
from deformgan.models.load import load_model, save_model
from deformgan.networks import build
from deformgan.networks.local_stage import EdgeStage, FixedSide, MovingSide
from deformgan.networks.pyramid import PyramidNetwork
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.choice import choose_patients
from deformgan.workshop.datasets.subjects import load_subjects
from deformgan.workshop.training.config import Only, TrainingConfig
from deformgan.workshop.training.data import PairDataset
from deformgan.workshop.training.loop import train
from deformgan.workshop.training.pairs import KeptPairs
from deformgan.workshop.training.part import StartedPairs, inverse

accelerate_state = pytest.importorskip("accelerate.state")

TAUGHT = (0.4, 0.7, 1.0)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    folder = write_people(tmp_path_factory.mktemp("people"))
    torch.manual_seed(5)
    grid = {"shape": [32, 32, 32], "spacing": 6.0}
    save_model(folder / "before", build(PYRAMID), {"network": PYRAMID, "grid": grid, "scale": 0.5})
    only = Only(part="stage", pairs=3, taught=TAUGHT)
    settings: dict[str, Any] = {"start_from": str(folder / "before"), "only": only, "schedule": "cosine", "clip": 2.0}
    return training_config(data_config(folder, folder / "cache"), **settings)


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["t_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def built(config: TrainingConfig) -> PyramidNetwork:
    """T as a run of this seed begins: the weights it starts from, and a local stage begun anew."""
    from accelerate.utils import set_seed

    set_seed(config.seed)
    network = build(config.network)
    assert isinstance(network, PyramidNetwork)
    before = load_model(config.start_from).network.state_dict()
    network.load_state_dict({k: v for k, v in before.items() if not k.startswith("stage.")}, strict=False)
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def batches(config: TrainingConfig, network: PyramidNetwork) -> list[dict[str, Tensor]]:
    subjects = load_subjects(config.data, choose_patients(config.data, ())[0], config.data.label_maps)
    pairs = PairDataset(subjects, config.data, config.augmentation, 0.5, config.seed, config.only.pairs)
    drawn = StartedPairs(KeptPairs(pairs, Path(config.data.cache)), network, config.seed, config.steps * config.batch)
    return [
        default_collate([drawn[config.batch * step + k] for k in range(config.batch)]) for step in range(config.steps)
    ]


def as_the_tool_did(
    network: PyramidNetwork, stage: EdgeStage, batches: list[dict[str, Tensor]], rate: float
) -> tuple[list[float], dict[str, Tensor]]:
    """The loop of tools/teach_stage.py, as it was, but for its learning rate: it falls with steps, not minutes."""
    adam = torch.optim.AdamW(stage.parameters(), rate, weight_decay=1e-4)
    mean = {name: value.clone() for name, value in stage.state_dict().items()}
    losses = []
    for step, items in enumerate(batches):
        for group in adam.param_groups:
            cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * step / len(batches)))
            group["lr"] = rate * min(1, (step + 1) / 50) * cosine
        fixed, moving, found = items["fixed"], items["moving"], items["start"]
        with torch.no_grad():
            both = torch.cat([fixed, moving]).contiguous(memory_format=torch.channels_last_3d)
            features = network.encoder.level4(both).chunk(2)
        sides, errors = (FixedSide(fixed, features[0]), MovingSide(moving, features[1])), []
        for _ in TAUGHT:
            found = stage(*sides, found.detach())
            distance = (found.float() - items["field"]).square().sum(1, keepdim=True).add(1e-4).sqrt()
            errors.append(4 * (distance * items["mask"]).sum() / items["mask"].sum())
        loss = sum(w * e for w, e in zip(TAUGHT, errors, strict=True))
        assert isinstance(loss, Tensor)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 2.0)
        adam.step()
        with torch.no_grad():
            for name, value in stage.state_dict().items():
                mean[name].lerp_(value, 1 - min(0.995, (step + 2) / (step + 21)))
        losses.append(float(loss.detach()))
    return losses, mean


def test_a_configuration_does_what_the_tool_did(config: TrainingConfig, tmp_path: Path) -> None:
    train(config, tmp_path)
    network = built(config)
    losses, mean = as_the_tool_did(network, network.stage, batches(config, network), config.learning_rate)
    assert len(set(losses)) == config.steps
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5)
    taught = load_model(tmp_path / "model").network
    assert isinstance(taught, PyramidNetwork)
    for name, value in taught.stage.state_dict().items():
        torch.testing.assert_close(value, mean[name], rtol=1e-4, atol=1e-6)
    before = load_model(config.start_from).network.state_dict()
    others = {k: v for k, v in taught.state_dict().items() if not k.startswith("stage.")}
    assert all(torch.equal(value, before[name]) for name, value in others.items())


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(config: TrainingConfig, tmp_path: Path) -> None:
    whole = losses_of(train(config, tmp_path / "whole").parent)

    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise InterruptedError

    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "halved", progress=stop)
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    train(config, tmp_path / "halved")
    assert losses_of(tmp_path / "halved") == whole
    one, other = (load_model(tmp_path / name / "model").sha256 for name in ("whole", "halved"))
    assert one == other


def test_items_are_the_same_whenever_they_are_drawn(config: TrainingConfig) -> None:
    network = built(config)
    first, again = batches(config, network), batches(config, network)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(first[0]["fixed"], first[1]["fixed"])
    assert {name: tuple(value.shape) for name, value in first[0].items()} == {
        "fixed": (2, 1, 16, 16, 16), "moving": (2, 1, 16, 16, 16), "mask": (2, 1, 8, 8, 8),
        "field": (2, 3, 8, 8, 8), "start": (2, 3, 8, 8, 8),
    }  # fmt: skip


def test_there_and_back_is_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 3, 3, 3, generator=generator) * 0.5
    field = torch.nn.functional.interpolate(coarse, size=(12, 12, 12), mode="trilinear", align_corners=True)[0]
    back = inverse(field)
    left = back + warp(field[None], back[None], padding="border")[0]
    assert float(left.abs().amax()) < 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"only": Only(part="encoder")}, "no part 'encoder'"),
        ({"only": Only(part="stage"), "start_from": ""}, "as some weights have it"),
        ({"only": Only(part="stage"), "scale": 1.0}, "half resolution"),
        ({"network": {**PYRAMID, "widths": [8, 16, 16]}}, "another network"),
    ],
)
def test_what_cannot_learn_alone_is_refused(
    config: TrainingConfig, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        train(replace(config, **changes), tmp_path)


def test_the_parts_of_the_shipped_weights_can_be_read() -> None:
    from deformgan.workshop.training.config import load_config

    configs = Path(__file__).parents[3] / "configs" / "t1-t2"
    parts = [load_config(path) for path in sorted(configs.glob("*.toml"))]
    assert [part.only.part for part in parts] == ["", "", "stage"]
    told = load_model("t1-t2").config["training"]["parts"]
    assert [part.steps for part in parts] == [part["steps_done"] for part in told]
