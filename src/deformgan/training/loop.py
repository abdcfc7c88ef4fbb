"""The training loop, top to bottom: pairs in, one step of D, of G and of T in turn, numbers and checkpoints out."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from deformgan.datasets.choice import choose_patients
from deformgan.datasets.patients import Patient
from deformgan.datasets.subjects import load_subjects
from deformgan.errors import UsageError
from deformgan.models import save_model
from deformgan.networks import build
from deformgan.training.checkpoint import find_checkpoint, read_state, restore, save_checkpoint
from deformgan.training.config import TrainingConfig, load_config
from deformgan.training.data import PairDataset
from deformgan.training.steps import (
    Networks,
    TrainingBatch,
    discriminator_step,
    generator_step,
    moved_image,
    transformation_step,
)
from deformgan.training.validation import validate

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]


def train(config: TrainingConfig | str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Train T (and G and D where configured), resuming ``out`` if it holds a checkpoint.

    Args:
        config: A configuration or the path of its TOML file.
        out: Folder of the run: ``checkpoint/``, ``metrics.jsonl``, ``samples/``, ``model/`` (as `load_model` reads it).
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
    networks = {name: _built(kind).to(memory_format=torch.channels_last_3d) for name, kind in kinds.items() if kind}  # type: ignore[call-overload]
    optimizers = {
        name: torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99) if name == "T" else (0.5, 0.999)
        )
        for name, network in networks.items()
    }
    checkpoint, done = out / "checkpoint", 0
    if find_checkpoint(checkpoint):
        done, before = read_state(checkpoint)
        _same_run(before, config)
        restore(checkpoint, networks, optimizers)
        logger.info("resuming %s at step %d", out, done)
    elif config.start_from:
        _start_from(networks["T"], config.start_from)

    batch_size = config.batch * accelerator.num_processes
    patients, validation = choose_patients(config.data, config.validation)
    subjects = load_subjects(config.data, patients, config.data.label_maps)
    dataset = PairDataset(
        subjects, config.data, config.augmentation, config.scale, config.seed, config.steps * batch_size
    )
    rest = Subset(dataset, range(done * batch_size, len(dataset)))
    loader = DataLoader(
        rest,
        config.batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=_one_thread,
    )
    held_out = _held_out(config, validation)

    wrapped = {name: accelerator.prepare(network) for name, network in networks.items()}
    prepared = {name: accelerator.prepare(optimizer) for name, optimizer in optimizers.items()}
    loader = accelerator.prepare(loader)
    players = Networks(wrapped["T"], wrapped.get("G"), wrapped.get("D"))
    record = _Record(out, accelerator.is_main_process)
    backward = _clipped_backward(accelerator, wrapped["T"], config.clip)

    with closing(record):
        step, start = done, time.perf_counter()
        for items in loader:
            batch = TrainingBatch(items["fixed"], items["moving"], items["field"], items["mask"], config.scale)
            metrics: dict[str, Tensor] = {}
            with accelerator.autocast():
                if players.discriminator is not None:
                    moved = moved_image(players, batch)
                    metrics |= discriminator_step(
                        players, prepared["D"], batch, config.loss, moved=moved, backward=accelerator.backward
                    )
                    metrics |= generator_step(
                        players, prepared["G"], batch, config.loss, moved=moved, backward=accelerator.backward
                    )
                _set_learning_rate(optimizers["T"], config, step)
                metrics |= transformation_step(players, prepared["T"], batch, config.loss, backward=backward)
            step += 1
            values = {name: float(value) for name, value in metrics.items()}
            if "t_field_error" in values:
                values["t_field_error"] /= config.scale  # in voxels of the working grid
            values["seconds"] = (time.perf_counter() - start) / (step - done)
            last = step == config.steps
            if held_out and accelerator.is_main_process and (last or step % config.validate_every == 0):
                names = list(config.augmentation.regimes)
                found = validate(networks["T"], held_out, names, config.scale, config.precision == "bf16")
                values |= {f"val_{name}": value for name, value in found.items()}
                record.picture(networks["T"], held_out, config, step)
            record.write(step, values)
            if accelerator.is_main_process and (last or step % config.checkpoint_every == 0):
                save_checkpoint(checkpoint, config, step, networks, optimizers)
            if progress is not None:
                progress(step, config.steps, values)
    if accelerator.is_main_process:
        save_model(out / "model", networks["T"], _model_config(config, step))
    return out / "model"


def _start_from(network: nn.Module, weights: str) -> None:
    from deformgan.models import load_model

    try:
        network.load_state_dict(load_model(weights).network.state_dict())
    except RuntimeError as error:
        raise UsageError(
            f"the weights {weights} are of another network than [network] describes", "take that of their config.json"
        ) from error


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _held_out(config: TrainingConfig, validation: tuple[str | Patient, ...]) -> list[dict[str, Tensor]]:
    """The validation pairs, made once: every regime in turn, undamaged images."""
    if not validation or not config.validation_pairs:
        return []
    subjects = load_subjects(config.data, validation)
    pairs = []
    regimes = list(config.augmentation.regimes)
    for k in range(config.validation_pairs):
        one = tuple(float(r == k % len(regimes)) for r in range(len(regimes)))
        augmentation = replace(config.augmentation, weights=one, degradation=0.0, flip=0.0)
        subject = subjects[(k // len(regimes)) % len(subjects)]
        pairs.append(PairDataset([subject], config.data, augmentation, config.scale, 0, k + 1, complete=True)[k])
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


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
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
    for name in ("workers", "validate_every", "checkpoint_every"):
        del values[name]
    for name in ("root", "layout", "cache"):
        del values["data"][name]
    return values


def _built(kind: dict[str, Any]) -> nn.Module:
    try:
        return build(kind)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the configuration has a network that cannot be: {error}", "correct its section") from error


def _model_config(config: TrainingConfig, steps: int) -> dict[str, Any]:
    return {
        "network": config.network,
        "grid": {"shape": list(config.data.shape), "spacing": config.data.spacing},
        "scale": config.scale,
        "training": {**config.to_dict(), "steps_done": steps},
    }


class _Record:
    """metrics.jsonl always; TensorBoard where it is installed; sample pictures."""

    def __init__(self, out: Path, active: bool) -> None:
        self.active, self.out = active, out
        self.board = None
        if not active:
            return
        out.mkdir(parents=True, exist_ok=True)
        self.lines = (out / "metrics.jsonl").open("a+", encoding="utf-8")
        _end_last_line(self.lines)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("TensorBoard is not installed; metrics go to metrics.jsonl alone")
        else:
            self.board = SummaryWriter(str(out / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.active:
            return
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        self.lines.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def picture(self, network: nn.Module, pairs: list[dict[str, Tensor]], config: TrainingConfig, step: int) -> None:
        """Fixed, moving, moved and true slices of the first three validation pairs, one PNG a pass."""
        from deformgan.training.samples import save_samples

        if self.active:
            save_samples(self.out / "samples" / f"step-{step:06d}.png", network, pairs[:3], config.scale)

    def close(self) -> None:
        if self.active:
            self.lines.close()
            if self.board is not None:
                self.board.close()


def _end_last_line(lines: TextIO) -> None:
    """A run that was killed may have left half a line, which the next would go on."""
    lines.seek(0)
    if (text := lines.read()) and not text.endswith("\n"):
        lines.write("\n")


def read_metrics(out: str | Path) -> Iterator[dict[str, float]]:
    """The rows of a run's metrics.jsonl; a row written twice around a resume is given as it was written last.

    A row that was cut off when the run was killed is left out.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[int(row["step"])] = row
    return iter(rows[k] for k in sorted(rows))
