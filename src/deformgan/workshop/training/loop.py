"""The training loop, top to bottom: pairs in, one step of D, of G and of T in turn, numbers and checkpoints out."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset

from deformgan.errors import UsageError
from deformgan.models.load import save_model
from deformgan.networks import build
from deformgan.output.provenance import peak_memory_mb
from deformgan.workshop.datasets.choice import choose_patients
from deformgan.workshop.datasets.subjects import Subject, load_subjects
from deformgan.workshop.training.checkpoint import find_checkpoint, read_state, restore, save_checkpoint, save_snapshot
from deformgan.workshop.training.config import TrainingConfig, load_config
from deformgan.workshop.training.data import PairDataset
from deformgan.workshop.training.gate import gate, require, transformation_loss
from deformgan.workshop.training.objective import Networks
from deformgan.workshop.training.pairs import KeptPairs
from deformgan.workshop.training.predict import Staged
from deformgan.workshop.training.record import Record
from deformgan.workshop.training.steps import TrainingBatch
from deformgan.workshop.training.turn import take_turn
from deformgan.workshop.training.validation import validate

logger = logging.getLogger(__name__)

_STAGE_SEEDS = 7919  # between the seeds of two stages

Progress = Callable[[int, int, dict[str, float]], None]


def train(config: TrainingConfig | str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Train T (and G and D where configured), resuming ``out`` if it holds a checkpoint.

    Args:
        config: A configuration or the path of its TOML file.
        out: Folder of the run: ``checkpoint/``, ``metrics.jsonl``, ``samples/``, ``snapshots/``, ``stages/SCALE/`` (T
            as a stage left it) and ``model/``; the last two as `load_model` reads them.
        progress: Called after each step with the step, their number and the latest metrics.

    Returns:
        The folder ``out/model``.

    Raises:
        UsageError: The configuration cannot be, or ``out`` holds a run of another one.
        InputError: The configuration, an image or the checkpoint cannot be used.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    config = config if isinstance(config, TrainingConfig) else load_config(config)
    out = Path(out)
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    set_seed(config.seed)

    kinds = {"T": config.network, "G": config.generator, "D": config.discriminator}
    networks: dict[str, Any] = {name: _built(kind, name) for name, kind in kinds.items() if kind}
    optimizers = {
        name: torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99) if name == "T" else (0.5, 0.999)
        )
        for name, network in networks.items()
    }
    checkpoint, done = out / "checkpoint", 0
    if find_checkpoint(checkpoint):
        done, before = read_state(checkpoint, TrainingConfig)
        _same_run(before, config)
        restore(checkpoint, networks, optimizers)
        logger.info("resuming %s at step %d", out, done)
    elif config.start_from:
        _start_from(networks["T"], config.start_from)

    patients, for_validation = choose_patients(config.data, config.validation)
    subjects = load_subjects(config.data, patients, config.data.label_maps)
    validation = load_subjects(config.data, for_validation) if for_validation else []
    called = {name: Staged(network) if name == "T" else network for name, network in networks.items()}
    wrapped = {name: accelerator.prepare(network) for name, network in called.items()}
    prepared = {name: accelerator.prepare(optimizer) for name, optimizer in optimizers.items()}
    players = Networks(wrapped["T"], wrapped.get("G"), wrapped.get("D"))
    backward: dict[str, Callable[[Tensor], None]] = {"D": accelerator.backward, "G": accelerator.backward}
    backward["T"] = _clipped_backward(accelerator, wrapped["T"], config.clip)
    record = Record(out, accelerator.is_main_process)

    with closing(record):
        step, start, seconds = done, 0, 0.0
        for number, stage in enumerate(config.parts):
            end = start + stage.steps
            if step >= end:
                start = end
                continue
            if number and step == start:
                _enter_stage(networks, optimizers, stage.scale / config.parts[number - 1].scale)
            loader = accelerator.prepare(
                _loader(subjects, config, number, accelerator.num_processes, skip=step - start)
            )
            held_out = _held_out(validation, config, stage.scale)
            if config.gate and "T" in stage.train:
                loss = transformation_loss(_unwrapped(networks), config.loss)
                require(gate(loss, held_out, stage.scale), config.gate)
            clock, fresh = time.perf_counter(), step
            for items in loader:
                batch = TrainingBatch(items["fixed"], items["moving"], items["field"], items["mask"], stage.scale)
                _set_learning_rate(optimizers["T"], config, step)
                with accelerator.autocast():
                    metrics = take_turn(players, prepared, batch, config, stage, step, backward)
                step += 1
                values = {name: float(value) for name, value in metrics.items()}
                if "t_field_error" in values:
                    values["t_field_error"] /= stage.scale  # in voxels of the working grid
                seconds = (time.perf_counter() - clock) / (step - fresh)
                values |= {"scale": stage.scale, "seconds": seconds, "memory_mb": _memory_mb()}
                last = step == config.steps
                if accelerator.is_main_process:
                    if held_out and (last or step == end or step % config.validate_every == 0):
                        values |= _validated(networks, held_out, config, stage.scale)
                        record.picture(networks["T"], held_out, stage.scale, step)
                    record.write(step, values)
                    if step in config.snapshots:
                        kept = {name: network for name, network in networks.items() if name != "D"}
                        save_snapshot(
                            out / "snapshots" / f"step-{step:06d}", kept, {**kinds, "scale": stage.scale, "step": step}
                        )
                    if step == end and not last:
                        at_end = _model_config(config, step) | {"scale": stage.scale}
                        save_model(out / "stages" / f"{stage.scale:g}", networks["T"], at_end)
                    if last or step % config.checkpoint_every == 0:
                        save_checkpoint(checkpoint, config, step, networks, optimizers)
                if progress is not None:
                    progress(step, config.steps, values)
            start = end
    if accelerator.is_main_process:
        save_model(out / "model", networks["T"], _model_config(config, step), networks.get("G"))
    return out / "model"


def _loader(
    subjects: list[Subject], config: TrainingConfig, number: int, processes: int, skip: int
) -> DataLoader[dict[str, Tensor]]:
    """Pairs of a stage, without those of the ``skip`` steps that are done; each stage has a seed of its own."""
    stage = config.parts[number]
    pairs = stage.batch * processes
    seed = config.seed + _STAGE_SEEDS * number
    dataset = PairDataset(subjects, config.data, config.augmentation, stage.scale, seed, stage.steps * pairs)
    kept = KeptPairs(dataset, Path(config.data.cache)) if config.keep_pairs else dataset
    return DataLoader(
        Subset(kept, range(skip * pairs, len(dataset))),
        stage.batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=_one_thread,
    )


def _enter_stage(networks: dict[str, Any], optimizers: Mapping[str, torch.optim.Optimizer], factor: float) -> None:
    """On a grid ``factor`` times finer, T's vectors are as many voxels longer; Adam's memory is of the coarser one."""
    networks["T"].rescale_output(factor)
    for optimizer in optimizers.values():
        optimizer.state.clear()


def _validated(
    networks: dict[str, nn.Module], held_out: list[dict[str, Tensor]], config: TrainingConfig, scale: float
) -> dict[str, float]:
    regimes, bf16 = list(config.augmentation.regimes), config.precision == "bf16"
    found = validate(networks["T"], held_out, regimes, scale, bf16, networks.get("G"), config.loss.window)
    if config.loss.terms:
        found |= gate(transformation_loss(_unwrapped(networks), config.loss), held_out, scale)
    return {f"val_{name}": value for name, value in found.items()}


def _unwrapped(networks: dict[str, nn.Module]) -> Networks:
    return Networks(networks["T"], networks.get("G"), networks.get("D"))


def _memory_mb() -> float:
    """The most this process has held so far: on the GPU where it trains on one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_memory_mb() or 0.0


def _start_from(network: nn.Module, weights: str) -> None:
    from deformgan.models.load import load_model

    try:
        network.load_state_dict(load_model(weights).network.state_dict())
    except RuntimeError as error:
        raise UsageError(
            f"the weights {weights} are of another network than [network] describes", "take that of their config.json"
        ) from error


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _held_out(subjects: list[Subject], config: TrainingConfig, scale: float) -> list[dict[str, Tensor]]:
    """The validation pairs, made once a stage: every regime in turn, undamaged images."""
    if not subjects:
        return []
    pairs = []
    regimes = list(config.augmentation.regimes)
    for k in range(config.validation_pairs):
        one = tuple(float(r == k % len(regimes)) for r in range(len(regimes)))
        augmentation = replace(config.augmentation, weights=one, degradation=0.0, flip=0.0)
        subject = subjects[(k // len(regimes)) % len(subjects)]
        pairs.append(PairDataset([subject], config.data, augmentation, scale, 0, k + 1, complete=True)[k])
    return pairs


def learning_rate(config: TrainingConfig, step: int) -> float:
    """T's learning rate at a step: constant, or one cycle (linear up over 5 %, cosine down to a hundredth)."""
    if config.schedule == "constant":
        return config.learning_rate
    warm = max(1, round(0.05 * config.steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _set_learning_rate(optimizer: Optimizer, config: TrainingConfig, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)


def _clipped_backward(accelerator: Any, network: nn.Module, clip: float) -> Callable[[Tensor], None]:
    def backward(loss: Tensor) -> None:
        accelerator.backward(loss)
        if clip > 0:
            accelerator.clip_grad_norm_(network.parameters(), clip)

    return backward


def _same_run(before: TrainingConfig, now: TrainingConfig) -> None:
    was, is_now = (_essentials(config) for config in (before, now))
    changed = [name for name in was if was[name] != is_now[name]]
    if changed:
        raise UsageError(
            f"the checkpoint was made with other settings: {', '.join(changed)}", "give a new output folder"
        )


def _essentials(config: TrainingConfig) -> dict[str, Any]:
    """What may not change in a run: not where its data lie and how, nor how often it says how it goes."""
    values = json.loads(json.dumps(config.to_dict()))  # lists and tuples are alike
    for name in ("workers", "validate_every", "checkpoint_every", "snapshots"):
        del values[name]
    for name in ("root", "layout", "cache"):
        del values["data"][name]
    return values


def _built(kind: dict[str, Any], role: Any) -> nn.Module:
    try:
        network = build(kind, role)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the configuration has a network that cannot be: {error}", "correct its section") from error
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def _model_config(config: TrainingConfig, steps: int) -> dict[str, Any]:
    return {
        "network": config.network,
        **({"generator": config.generator} if config.generator else {}),
        "grid": {"shape": list(config.data.shape), "spacing": config.data.spacing},
        "scale": config.scale,
        "training": {**config.to_dict(), "steps_done": steps},
    }
