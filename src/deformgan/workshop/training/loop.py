"""The training loop, top to bottom: pairs in, one step of D, of G and of T in turn, numbers and checkpoints out."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from deformgan.errors import UsageError
from deformgan.output.provenance import peak_memory_mb
from deformgan.workshop.datasets.choice import choose_patients
from deformgan.workshop.datasets.subjects import Subject, load_subjects
from deformgan.workshop.training.config import Stage, TrainingConfig, load_config
from deformgan.workshop.training.data import PairDataset
from deformgan.workshop.training.gate import gate, require, transformation_loss
from deformgan.workshop.training.pairs import HeldPairs, KeptPairs
from deformgan.workshop.training.part import StartedPairs
from deformgan.workshop.training.record import Progress, Record
from deformgan.workshop.training.run import Pairs, Run

_STAGE_SEEDS = 7919  # between the seeds of two stages


def train(
    config: TrainingConfig | str | Path, out: str | Path, progress: Progress | None = None, minutes: float = math.inf
) -> Path:
    """Train T (and G and D where configured), resuming ``out`` if it holds a checkpoint.

    Args:
        config: A configuration or the path of its TOML file.
        out: Folder of the run: ``checkpoint/``, ``metrics.jsonl``, ``samples/``, ``snapshots/``, ``stages/SCALE/`` (T
            as a stage left it) and ``model/``; the last two as `load_model` reads them.
        progress: Called after each step with the step, their number and the latest metrics.
        minutes: After which a checkpoint and the model as it is are written and training ends; the same call goes on.

    Returns:
        The folder ``out/model``.

    Raises:
        UsageError: The configuration cannot be, or ``out`` holds a run of another one, or several processes have
            a limit.
        InputError: The configuration, an image or the checkpoint cannot be used.
    """
    config = config if isinstance(config, TrainingConfig) else load_config(config)
    ends_at = time.monotonic() + 60 * minutes
    run = Run.begin(config, Path(out))
    if minutes < math.inf and run.accelerator.num_processes > 1:
        raise UsageError("a time limit is for one process", "leave it out with accelerate launch")
    learning, validation = _subjects(config)
    with closing(Record(run.out, run.accelerator.is_main_process)) as record:
        for number, (stage, start, end) in enumerate(_spans(config)):
            if run.step >= end:
                continue
            held_out = _begin_stage(run, number, validation, fresh=run.step == start)
            clock, first = time.perf_counter(), run.step
            for items in _loader(run, learning, number, skip=run.step - start):
                values = run.turn(items, stage, learning_rate(config, run.step))
                seconds = (time.perf_counter() - clock) / (run.step - first)
                values |= {"scale": stage.scale, "seconds": seconds, "memory_mb": _memory_mb()}
                _after_step(run, record, stage, held_out, values, ends_stage=run.step == end)
                if progress is not None:
                    progress(run.step, config.steps, values)
                if time.monotonic() > ends_at:
                    return run.pause()
    return run.finish()


def _begin_stage(run: Run, number: int, validation: list[Subject], *, fresh: bool) -> Pairs:
    """Bring the networks to the resolution of a stage that was not begun before, and make its validation pairs.

    Raises:
        QualityError: T is to learn, and its loss does not tell small errors apart.
    """
    config, stage = run.config, run.config.parts[number]
    if number and fresh:
        run.enter_stage(stage.scale / config.parts[number - 1].scale)
    held_out = _held_out(validation, config, stage.scale)
    if config.gate and "T" in stage.train:
        require(gate(transformation_loss(run.unwrapped, config.loss), held_out, stage.scale), config.gate)
    return held_out


def _after_step(
    run: Run, record: Record, stage: Stage, held_out: Pairs, values: dict[str, float], *, ends_stage: bool
) -> None:
    """Validate, write and keep what is due, on the process that does so for all."""
    if not run.accelerator.is_main_process:
        return
    if held_out and (ends_stage or run.step % run.config.validate_every == 0):
        values |= run.validated(held_out, stage.scale)
        record.picture(run.result, held_out, stage.scale, run.step)
    record.write(run.step, values)
    run.keep(stage, ends_stage=ends_stage)


def _spans(config: TrainingConfig) -> list[tuple[Stage, int, int]]:
    """Each stage with the steps before its first and after its last."""
    spans, start = [], 0
    for stage in config.parts:
        spans.append((stage, start, start + stage.steps))
        start += stage.steps
    return spans


def _subjects(config: TrainingConfig) -> tuple[list[Subject], list[Subject]]:
    """Those to learn from, and those of the validation pass."""
    patients, for_validation = choose_patients(config.data, config.validation)
    subjects = load_subjects(config.data, patients, config.data.label_maps)
    return subjects, load_subjects(config.data, for_validation) if for_validation else []


def _loader(run: Run, subjects: list[Subject], number: int, skip: int) -> DataLoader[dict[str, Tensor]]:
    """Pairs of a stage, without those of the ``skip`` steps that are done; each stage has a seed of its own."""
    config, stage = run.config, run.config.parts[number]
    pairs = stage.batch * run.accelerator.num_processes
    length, seed = stage.steps * pairs, config.seed + _STAGE_SEEDS * number
    of = (subjects, config.data, config.augmentation, stage.scale, seed)
    kept = config.keep_pairs or bool(config.only.part)
    device = "cpu" if kept or config.workers else run.accelerator.device
    made = config.only.pairs if config.only.part else min(config.pairs or length, length)
    dataset: Any = PairDataset(*of, made, device=device)
    if config.pairs:
        dataset = HeldPairs(dataset, length, seed)
    if kept:
        dataset = KeptPairs(dataset, Path(config.data.cache))
    if config.only.part:
        dataset = StartedPairs(dataset, run.networks["T"], seed, length)
    loader = DataLoader(
        Subset(dataset, range(skip * pairs, length)),
        stage.batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=_one_thread,
    )
    return run.accelerator.prepare(loader)


def _memory_mb() -> float:
    """The most this process has held so far: on the GPU where it trains on one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_memory_mb() or 0.0


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _held_out(subjects: list[Subject], config: TrainingConfig, scale: float) -> Pairs:
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
    """T's learning rate at a step of the run.

    Of the steps in which T learns, ``one-cycle`` goes linearly up over 5 % and by a cosine down to a hundredth,
    ``cosine`` up over 50 and down to a fiftieth.
    """
    if config.schedule == "constant":
        return config.learning_rate
    spans = [(start, end) for stage, start, end in _spans(config) if "T" in stage.train]
    steps = max(1, sum(end - start for start, end in spans))
    step = sum(min(max(step - start, 0), end - start) for start, end in spans)
    if config.schedule == "cosine":
        fall = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
        return config.learning_rate * min(1, (step + 1) / 50) * fall
    warm = max(1, round(0.05 * steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
