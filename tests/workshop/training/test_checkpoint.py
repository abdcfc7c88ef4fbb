"""Checkpoints: all of it comes back, a crash at any moment leaves one, and damage is noticed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import data_config, training_config
from torch import nn

from deformgan.errors import InputError
from deformgan.workshop.training import checkpoint as module
from deformgan.workshop.training.checkpoint import find_checkpoint, read_state, restore, save_checkpoint
from deformgan.workshop.training.config import TrainingConfig

Pair = tuple[dict[str, nn.Module], dict[str, torch.optim.Adam]]


def network() -> nn.Module:
    layers = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 3))
    return layers.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def players(seed: int) -> Pair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {name: network() for name in ("T", "G")}
    return networks, {name: torch.optim.Adam(n.parameters(), lr=1e-2) for name, n in networks.items()}


def step(pair: Pair, times: int = 1) -> None:
    image = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(times):
        for name, layers in pair[0].items():
            pair[1][name].zero_grad()
            layers(image).square().mean().backward()
            pair[1][name].step()


def states(pair: Pair) -> list[torch.Tensor]:
    tensors = [t for layers in pair[0].values() for t in layers.state_dict().values()]
    moments = [
        v for o in pair[1].values() for state in o.state_dict()["state"].values() for _, v in sorted(state.items())
    ]
    return tensors + moments


def equal(a: Pair, b: Pair) -> bool:
    one, other = states(a), states(b)
    return len(one) == len(other) and all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return training_config(data_config(tmp_path, tmp_path))


@pytest.fixture
def saved(tmp_path: Path, config: TrainingConfig) -> tuple[Path, Pair]:
    pair = players(1)
    step(pair, 2)
    save_checkpoint(tmp_path / "run" / "checkpoint", config, 2, *pair)
    return tmp_path / "run" / "checkpoint", pair


def test_everything_comes_back(saved: tuple[Path, Pair], config: TrainingConfig) -> None:
    folder, pair = saved
    assert find_checkpoint(folder)
    assert read_state(folder, TrainingConfig) == (2, config)
    other = players(2)
    restore(folder, *other)
    assert equal(pair, other)
    step(pair, 2)
    step(other, 2)
    assert equal(pair, other)


def test_moments_lie_in_memory_as_their_parameters_do(saved: tuple[Path, Pair]) -> None:
    other = players(2)
    restore(saved[0], *other)
    for name, optimizer in other[1].items():
        for parameter in other[0][name].parameters():
            assert optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_a_network_that_has_not_stepped_comes_back_too(tmp_path: Path, config: TrainingConfig) -> None:
    pair, other = players(1), players(2)
    save_checkpoint(tmp_path / "c", config, 0, *pair)
    restore(tmp_path / "c", *other)
    assert equal(pair, other)


def test_nothing_but_safetensors_and_json(saved: tuple[Path, Pair]) -> None:
    names = {path.name for path in saved[0].iterdir()}
    tensors = {f"{n}{kind}.safetensors" for n in "TG" for kind in ("", ".optimizer")}
    assert names == tensors | {"state.json"}


def test_a_newer_checkpoint_takes_the_place_of_the_older(saved: tuple[Path, Pair], config: TrainingConfig) -> None:
    folder, pair = saved
    step(pair)
    save_checkpoint(folder, config, 3, *pair)
    assert read_state(folder, TrainingConfig)[0] == 3
    other = players(2)
    restore(folder, *other)
    assert equal(pair, other)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_crash_while_saving_leaves_a_whole_checkpoint(
    saved: tuple[Path, Pair], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Killed before the first swap, between the two, or after both and before the old one is removed."""
    folder, pair = saved
    left = iter(range(survived))

    def replace(*paths: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        os.rename(*paths)

    real_rmtree = module.shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if survived == 2 and path.name.endswith("previous") and path.exists():
            raise KeyboardInterrupt
        real_rmtree(path, **options)

    step(pair)
    monkeypatch.setattr(module.os, "replace", replace)
    monkeypatch.setattr(module.shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, config, 3, *pair)
    monkeypatch.undo()
    assert find_checkpoint(folder)
    assert read_state(folder, TrainingConfig)[0] == (3 if survived == 2 else 2)
    restore(folder, *players(2))
    save_checkpoint(folder, config, 4, *pair)
    assert read_state(folder, TrainingConfig)[0] == 4
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_where_there_is_none(tmp_path: Path) -> None:
    assert not find_checkpoint(tmp_path / "checkpoint")


def change_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        change(state)
        (folder / "state.json").write_text(json.dumps(state))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "state.json").unlink(),
        lambda f: (f / "state.json").write_text('{"step": 2, "con'),
        lambda f: (f / "state.json").write_text("[1, 2]"),
        change_state(lambda s: s.pop("step")),
        change_state(lambda s: s.pop("config")),
        change_state(lambda s: s.update(step="two")),
        change_state(lambda s: s["config"].update(colour="red")),
        change_state(lambda s: s["config"].pop("name")),
    ],
)
def test_a_damaged_state_is_refused(saved: tuple[Path, Pair], damage: Callable[[Path], Any]) -> None:
    damage(saved[0])
    with pytest.raises(InputError, match=r"checkpoint .* is damaged.*start anew"):
        read_state(saved[0], TrainingConfig)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def renumber(path: Path) -> None:
    save_file({f"9{name}": tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "G.safetensors").unlink(),
        lambda f: cut(f / "T.safetensors"),
        lambda f: cut(f / "T.optimizer.safetensors"),
        lambda f: renumber(f / "G.safetensors"),
        lambda f: renumber(f / "G.optimizer.safetensors"),
        lambda f: save_file({"nonsense": torch.ones(1)}, f / "T.optimizer.safetensors"),
    ],
)
def test_damaged_tensors_are_refused(saved: tuple[Path, Pair], damage: Callable[[Path], Any]) -> None:
    damage(saved[0])
    with pytest.raises(InputError, match=r"checkpoint .* does not fit") as caught:
        restore(saved[0], *players(2))
    assert "\n" not in str(caught.value)


def test_another_networks_checkpoint_does_not_fit(saved: tuple[Path, Pair]) -> None:
    other = {"T": nn.Linear(2, 2)}
    with pytest.raises(InputError, match="does not fit"):
        restore(saved[0], other, {"T": torch.optim.Adam(other["T"].parameters())})


def test_an_interruption_leaves_the_old_checkpoint_and_no_half_of_a_new_one(
    saved: tuple[Path, Pair], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pair = saved

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = read_state(folder, TrainingConfig)[0]
    monkeypatch.setattr(module, "_flat", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, config, 9, *pair)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
    assert read_state(folder, TrainingConfig)[0] == before
