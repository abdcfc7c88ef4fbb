"""What changes while a run goes on: networks, optimisers, the step; how it begins, is resumed, and is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deformgan.errors import UsageError
from deformgan.models.device import pick_precision
from deformgan.models.load import load_discriminator, load_generator, load_model, save_model
from deformgan.networks import build
from deformgan.workshop.training.checkpoint import find_checkpoint, read_state, restore, save_checkpoint, save_snapshot
from deformgan.workshop.training.config import Stage, TrainingConfig
from deformgan.workshop.training.gate import gate, transformation_loss
from deformgan.workshop.training.objective import Networks
from deformgan.workshop.training.part import AVERAGE, begin_part, follow, part_step
from deformgan.workshop.training.predict import Staged
from deformgan.workshop.training.steps import TrainingBatch
from deformgan.workshop.training.turn import take_turn
from deformgan.workshop.training.validation import validate

logger = logging.getLogger(__name__)

Pairs = list[dict[str, Tensor]]


@dataclass
class Run:
    """A run as it stands.

    Args:
        out: Its folder.
        accelerator: What places networks and batches on devices.
        networks: By role, and, where a part of T learns alone, ``average``: T with a running average of its weights.
        optimizers: By the network's role.
        step: Steps done.
        players, prepared: Networks and optimisers as the launcher wrapped them.
        backward: By role, what takes a loss.
    """

    config: TrainingConfig
    out: Path
    accelerator: Any
    networks: dict[str, Any]
    optimizers: dict[str, Optimizer]
    step: int = 0
    players: Networks = field(init=False)
    prepared: dict[str, Any] = field(init=False)
    backward: dict[str, Callable[[Tensor], None]] = field(init=False)

    @classmethod
    def begin(cls, config: TrainingConfig, out: Path) -> Run:
        """Build, and go on where a checkpoint in ``out``, or the weights to start from, left off."""
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = pick_precision(config.precision, device, training=True)
        accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
        if config.only.part and accelerator.num_processes > 1:
            raise UsageError("a part of T is taught by one process", "run it without accelerate launch")
        set_seed(config.seed)
        networks = {role: _built(kind, role) for role, kind in kinds_of(config).items() if kind}
        resumed = find_checkpoint(out / "checkpoint")  # which holds it all
        _start_from(networks["T"], config, resumed=resumed)
        if config.generator_from and not resumed:
            _fill(networks["G"], _generator_state(config), config.generator_from, "generator")
            if (known := load_discriminator(config.generator_from)) is not None:
                _fill(networks["D"], known, config.generator_from, "discriminator")
        optimizers = {role: _optimizer(config, role, network) for role, network in networks.items()}
        if config.only.part:
            networks[AVERAGE] = _built(config.network, "T")
            networks[AVERAGE].load_state_dict(networks["T"].state_dict())
        run = cls(config, out, accelerator, networks, optimizers)
        run._resume()
        run._prepare()
        return run

    def _resume(self) -> None:
        if find_checkpoint(self.out / "checkpoint"):
            self.step, before = read_state(self.out / "checkpoint", TrainingConfig)
            _same_run(before, self.config)
            restore(self.out / "checkpoint", self.networks, self.optimizers)
            logger.info("resuming %s at step %d", self.out, self.step)

    def _prepare(self) -> None:
        accelerator, config = self.accelerator, self.config
        called = {role: network for role, network in self.networks.items() if role != AVERAGE}
        if not config.only.part:
            called["T"] = Staged(called["T"])
        wrapped = {role: accelerator.prepare(network) for role, network in called.items()}
        self.prepared = {role: accelerator.prepare(optimizer) for role, optimizer in self.optimizers.items()}
        self.players = Networks(wrapped["T"], wrapped.get("G"), wrapped.get("D"))
        self.backward = {"G": accelerator.backward, "D": accelerator.backward}
        self.backward["T"] = partial(_clipped_backward, accelerator, wrapped["T"], config.clip)

    @property
    def bf16(self) -> bool:
        """Whether networks compute in bf16."""
        return self.accelerator.mixed_precision == "bf16"

    @property
    def result(self) -> nn.Module:
        """T as it is kept and judged."""
        return self.networks.get(AVERAGE, self.networks["T"])

    @property
    def unwrapped(self) -> Networks:
        """The players without a launcher's wrapping."""
        return Networks(self.networks["T"], self.networks.get("G"), self.networks.get("D"))

    def enter_stage(self, factor: float) -> None:
        """On a grid ``factor`` times finer T's vectors are longer, and Adam's memory is of the coarser one."""
        self.networks["T"].rescale_output(factor)
        for optimizer in self.optimizers.values():
            optimizer.state.clear()

    def turn(self, items: dict[str, Tensor], stage: Stage, rate: float) -> dict[str, float]:
        """One step of every network that learns, T's with a learning rate; the metrics."""
        for group in self.optimizers["T"].param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            if self.config.only.part:
                metrics = part_step(self.networks["T"], self.prepared["T"], items, self.config.only, self.backward["T"])
            else:
                batch = TrainingBatch(items["fixed"], items["moving"], items["field"], items["mask"], stage.scale)
                metrics = take_turn(self.players, self.prepared, batch, self.config, stage, self.step, self.backward)
        self.step += 1
        if self.config.only.part:
            follow(self.networks[AVERAGE], self.networks["T"], self.step, self.config.only.average)
        values = {name: float(value) for name, value in metrics.items()}
        if "t_field_error" in values and not self.config.only.part:
            values["t_field_error"] /= stage.scale  # in voxels of the working grid
        return values

    def validated(self, held_out: Pairs, scale: float) -> dict[str, float]:
        """What held-out pairs say of T, and of G where there is one."""
        config, regimes = self.config, list(self.config.augmentation.regimes)
        found = validate(self.result, held_out, regimes, scale, self.bf16, self.networks.get("G"), config.loss.window)
        if config.loss.terms:
            found |= gate(transformation_loss(self.unwrapped, config.loss), held_out, scale)
        return {f"val_{name}": value for name, value in found.items()}

    def keep(self, stage: Stage, *, ends_stage: bool) -> None:
        """After a step: a snapshot, the stage's model and a checkpoint, where they are due."""
        config, step = self.config, self.step
        last = step == config.steps
        if step in config.snapshots:
            kept = {role: network for role, network in self.networks.items() if role in ("T", "G")}
            described = {**kinds_of(config), "scale": stage.scale, "step": step}
            save_snapshot(self.out / "snapshots" / f"step-{step:06d}", kept, described)
        if ends_stage and not last:
            at_end = _model_config(config, step) | {"scale": stage.scale}
            save_model(self.out / "stages" / f"{stage.scale:g}", self.result, at_end)
        if last or step % config.checkpoint_every == 0:
            save_checkpoint(self.out / "checkpoint", config, step, self.networks, self.optimizers)

    def pause(self) -> Path:
        """Write a checkpoint and the model as it is; the model's folder."""
        save_checkpoint(self.out / "checkpoint", self.config, self.step, self.networks, self.optimizers)
        return self.finish()

    def finish(self) -> Path:
        """Write the model; its folder."""
        if self.accelerator.is_main_process:
            model_config = _model_config(self.config, self.step)
            save_model(self.out / "model", self.result, model_config, self.networks.get("G"), self.networks.get("D"))
        return self.out / "model"


def kinds_of(config: TrainingConfig) -> dict[str, dict[str, Any] | None]:
    """The configurations of the networks by role."""
    return {"T": config.network, "G": config.generator, "D": config.discriminator}


def _optimizer(config: TrainingConfig, role: str, network: nn.Module) -> Optimizer:
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.only.part:
        return torch.optim.AdamW(learning, config.learning_rate, weight_decay=config.only.weight_decay)
    if role == "T":
        return torch.optim.Adam(learning, config.learning_rate, betas=(0.9, 0.99))
    return torch.optim.Adam(learning, config.adversarial_rate or config.learning_rate, betas=(0.5, 0.999))


def _start_from(network: nn.Module, config: TrainingConfig, *, resumed: bool) -> None:
    if resumed or not config.start_from:
        state = network.state_dict()
    else:
        state = load_model(config.start_from).network.state_dict()
    if config.only.part:
        begin_part(network, state, config.only.part)
        return
    _fill(network, state, config.start_from, "network")


def _generator_state(config: TrainingConfig) -> dict[str, Tensor]:
    found = load_generator(config.generator_from)
    if found is None:
        raise UsageError(
            f"the weights {config.generator_from} hold no generator", "name those of a run that trained one"
        )
    return found.network.state_dict()


def _fill(network: nn.Module, state: dict[str, Tensor], name: str, section: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"the weights {name} are of another network than [{section}] describes", "take that of their config.json"
        ) from error


def _clipped_backward(accelerator: Any, network: nn.Module, clip: float, loss: Tensor) -> None:
    accelerator.backward(loss)
    if clip > 0:
        accelerator.clip_grad_norm_(network.parameters(), clip)


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
    for name in ("workers", "precision", "validate_every", "checkpoint_every", "snapshots"):
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
