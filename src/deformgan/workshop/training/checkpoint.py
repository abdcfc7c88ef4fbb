"""Checkpoints without pickles: networks and optimiser states as safetensors, everything else as JSON.

A checkpoint is a folder that is complete or absent; a run resumed from it goes on exactly as if it had not stopped,
since pairs are seeded by their index and the learning rate is a function of the step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.output.folder import staged_folder

_STATE = "state.json"


class Settings(Protocol):
    """The configuration of a run, as a checkpoint keeps it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        ...

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        ...


C = TypeVar("C", bound=Settings)


def save_checkpoint(
    folder: Path,
    config: Settings,
    step: int,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write ``folder`` whole: beside it first, then swapped in. An optimiser has the name of its network."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, network in networks.items():
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial / f"{name}.safetensors")
            if name in optimizers:
                save_file(_flat(optimizers[name]), partial / f"{name}.optimizer.safetensors")
        (partial / _STATE).write_text(json.dumps({"step": step, "config": config.to_dict()}, indent=1))
    except BaseException:
        # a Ctrl-C leaves no half of a checkpoint lying about either
        shutil.rmtree(partial, ignore_errors=True)
        raise
    previous = _previous(folder)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.replace(folder, previous)
    os.replace(partial, folder)
    shutil.rmtree(previous, ignore_errors=True)


def save_snapshot(folder: Path, networks: Mapping[str, nn.Module], config: dict[str, Any]) -> None:
    """Keep networks as they are at a step, to be looked at: ``NAME.safetensors`` each, and ``config.json``."""
    with staged_folder(folder, (*(f"{name}.safetensors" for name in networks), "config.json"), force=True) as staging:
        for name, network in networks.items():
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, staging / f"{name}.safetensors")
        (staging / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def find_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint; the previous one is put back if a crash hit between the two swaps."""
    if not folder.exists() and _previous(folder).exists():
        os.replace(_previous(folder), folder)
    return folder.exists()


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".previous")


def read_state(folder: Path, kind: type[C]) -> tuple[int, C]:
    """Steps done and the configuration, of class ``kind``, of a checkpoint.

    Raises:
        InputError: It is damaged.
    """
    try:
        state = parse_json(read_small(folder / _STATE))
        return int(state["step"]), kind.from_dict(state["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, UsageError) as error:
        raise InputError(f"the checkpoint {folder} is damaged: {error}", "remove the folder to start anew") from error


def restore(folder: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
    """Fill networks and optimisers from a checkpoint.

    Raises:
        InputError: A file is missing or does not fit.
    """
    try:
        for name, network in networks.items():
            network.load_state_dict(load_file(folder / f"{name}.safetensors"))
            if name in optimizers:
                _fill(optimizers[name], load_file(folder / f"{name}.optimizer.safetensors"))
    except (OSError, RuntimeError, LookupError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the checkpoint {folder} does not fit: {reason}", "remove the folder to start anew"
        ) from error


def _flat(optimizer: Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state as ``PARAMETER.KEY``."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).contiguous()
        for index, values in state.items()
        for key, value in values.items()
    }


def _fill(optimizer: Optimizer, flat: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        if value.ndim:
            # laid out in memory as the parameter is: rounding and speed are then those of a run that never stopped
            value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
