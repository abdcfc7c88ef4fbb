"""How S is trained: scans made of label maps in, one step of S after each, an average of its weights out.

Nothing of a run depends on when it ends: the learning rate falls with the root of the steps done, and the weights that
are kept are a running average. A run may therefore be stopped, used and resumed at any step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deformgan.errors import UsageError
from deformgan.losses import soft_dice
from deformgan.models.anatomy import load_anatomy_model
from deformgan.models.device import pick_precision
from deformgan.models.load import save_model
from deformgan.networks import build
from deformgan.workshop.datasets.heads import load_label_maps
from deformgan.workshop.simulation.draws import choice
from deformgan.workshop.simulation.head_scans import LabelMap, Scan, draw_scan
from deformgan.workshop.simulation.structures import STRUCTURES
from deformgan.workshop.training.anatomy_config import AnatomyConfig
from deformgan.workshop.training.checkpoint import find_checkpoint, read_state, restore, save_checkpoint
from deformgan.workshop.training.record import Progress, Record

logger = logging.getLogger(__name__)

_VALIDATION_SEED = 1_000_000_007
_VALIDATION = [("t1", False), ("t2", False), ("flair", False), ("random", False), ("t1gd", False)]
_VALIDATION += [("t1", True), ("t2", True), ("random", True)]  # contrast, and whether the skull is stripped
_LEAST_BLOCKS = 4.0  # of a structure, that it is judged by
_EVERY = 20  # steps between two rows of the record


def train_anatomy(
    config: AnatomyConfig, out: Path, progress: Progress | None = None, minutes: float = math.inf
) -> Path:
    """Train S, resuming ``out`` if it holds a checkpoint.

    Args:
        out: Folder of the run: ``checkpoint/``, ``metrics.jsonl`` and ``model/`` with the averaged weights, renewed at
            each checkpoint.
        progress: Called with the step, their number and the latest metrics.
        minutes: After which a checkpoint and the model are written and training ends; the same call goes on.

    Returns:
        The folder ``out/model``.

    Raises:
        UsageError: The configuration cannot be, or ``out`` holds a run of another one.
        InputError: A label map or the checkpoint cannot be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, checkpoint = _Run.begin(config, device), out / "checkpoint"
    if find_checkpoint(checkpoint):
        run.step, before = read_state(checkpoint, AnatomyConfig)
        _require_same(before, config)
        restore(checkpoint, run.networks, {"S": run.optimizer})
        logger.info("resuming %s at step %d", out, run.step)
    held_out = list(_held_out(config))
    saved = time.monotonic()
    ends_at = saved + 60 * minutes
    with closing(Record(out, active=True)) as record:
        for scans in _batches(config, run.step, device):
            values = run.descend(scans)
            last = run.step == config.steps or time.monotonic() > ends_at
            look = run.step % config.validate_every == 0
            if last or look:
                values |= validate(run.networks["average"], held_out)
            if last or look or run.step % _EVERY == 0:
                record.write(run.step, values)
            if last or time.monotonic() - saved > config.checkpoint_seconds:
                save_checkpoint(checkpoint, config, run.step, run.networks, {"S": run.optimizer})
                save_model(out / "model", run.networks["average"], _model_config(config, run.step))
                saved = time.monotonic()
            if progress is not None:
                progress(run.step, config.steps, values)
            if last:
                break
    return out / "model"


@dataclass
class _Run:
    """S and what changes with it.

    Args:
        networks: ``S``, and ``average``: the same with a running average of its weights.
        step: Steps done.
    """

    config: AnatomyConfig
    device: torch.device
    networks: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def begin(cls, config: AnatomyConfig, device: torch.device) -> _Run:
        torch.manual_seed(config.seed)
        networks = {}
        for name in ("S", "average"):
            networks[name] = _built(config).to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if config.start_from:
            networks["S"].load_state_dict(load_anatomy_model(Path(config.start_from)).network.state_dict())
        networks["average"].load_state_dict(networks["S"].state_dict())
        optimizer = torch.optim.AdamW(networks["S"].parameters(), config.learning_rate, (0.9, 0.99), weight_decay=1e-4)
        return cls(config, device, networks, optimizer)

    def descend(self, scans: Sequence[Scan]) -> dict[str, float]:
        """One step; returns its losses."""
        config, network = self.config, self.networks["S"]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        bf16 = pick_precision(config.precision, self.device, training=True) == "bf16"
        scan = Scan(*(torch.cat([getattr(one, name) for one in scans]) for name in ("image", "structures", "mask")))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            losses = _losses(network, scan.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        self.optimizer.step()
        self.step += 1
        _follow(self.networks["average"], network, min(config.average, (1 + self.step) / (20 + self.step)))
        return {name: float(value.detach()) for name, value in losses.items()}


def learning_rate(config: AnatomyConfig, step: int) -> float:
    """At a step: a linear rise, then a fall with the root of the steps."""
    rise = min(1.0, (step + 1) / config.warm_up)
    return config.learning_rate * rise / math.sqrt(1 + step / config.half_life)


@torch.inference_mode()
def validate(network: nn.Module, scans: Sequence[tuple[str, Scan]]) -> dict[str, float]:
    """Dice of the mask and mean Dice of the structures, overall and for each kind of scan.

    Args:
        scans: Each with the name of its kind.
    """
    found: dict[str, list[float]] = {}
    device = next(network.parameters()).device
    for kind, one in scans:
        scan = one.to(device)
        logits, mask = network(scan.image)
        said, true = (F.one_hot(s.argmax(1), len(STRUCTURES)).movedim(-1, 1).float() for s in (logits, scan.structures))
        present = true.sum((0, 2, 3, 4)) >= _LEAST_BLOCKS
        structures = soft_dice(said, true, 0.0)[0][present][2:].mean()
        dice = soft_dice((mask > 0).float(), scan.mask, 1e-6).mean()
        for name, value in (("mask", dice), ("structures", structures)):
            found.setdefault(f"val_{name}_{kind}", []).append(float(value))
            found.setdefault(f"val_{name}", []).append(float(value))
    return {name: sum(v) / len(v) for name, v in found.items()}


def _losses(network: nn.Module, scan: Scan) -> dict[str, Tensor]:
    """What a step descends on (``loss``), and its parts worth looking at."""
    logits, mask = network(scan.image)
    log = F.log_softmax(logits, 1)
    present = scan.structures.sum((2, 3, 4)) >= _LEAST_BLOCKS
    dice = soft_dice(log.exp(), scan.structures)[present].mean()
    mask_dice = soft_dice(mask.sigmoid(), scan.mask).mean()
    entropy = -(scan.structures * log).sum(1).mean()
    mask_entropy = F.binary_cross_entropy_with_logits(mask, scan.mask)
    loss = entropy + (1 - dice) + mask_entropy + (1 - mask_dice)
    return {"loss": loss, "structures": dice, "mask": mask_dice}


class _Scans(Dataset[list[Scan]]):
    """The samples of every step; a step's are the same in every run of a seed."""

    def __init__(self, config: AnatomyConfig, first: int, device: torch.device) -> None:
        maps = load_label_maps(Path(config.root), config.label_maps, Path(config.cache))
        self.maps = [one.to(device) for one in maps]
        self.config, self.first, self.device = config, first, device

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __getitem__(self, item: int) -> list[Scan]:
        config, scans = self.config, []
        for k in range(config.batch):
            seed = config.seed * 1_000_003 + (self.first + item) * config.batch + k
            generator = torch.Generator(self.device).manual_seed(seed)
            one = self.maps[choice(generator, len(self.maps))]
            scans.append(draw_scan(one, generator, config.scans))
        return scans


def _batches(config: AnatomyConfig, first: int, device: torch.device) -> Iterator[list[Scan]]:
    if first >= config.steps:
        return iter(())
    scans = _Scans(config, first, torch.device("cpu") if config.workers else device)
    return iter(DataLoader(scans, None, num_workers=config.workers, worker_init_fn=_one_thread))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _held_out(config: AnatomyConfig) -> Iterator[tuple[str, Scan]]:
    """The validation scans: every kind once, of the label maps in turn, all of the head in view."""
    maps: list[LabelMap] = load_label_maps(Path(config.root), config.validation, Path(config.cache))
    scans = dataclasses.replace(config.scans, cropped=0.0)
    for k, (modality, stripped) in enumerate(_VALIDATION if maps else []):
        generator = torch.Generator().manual_seed(_VALIDATION_SEED + k)
        kind = f"{modality}_stripped" if stripped else modality
        yield kind, draw_scan(maps[k % len(maps)], generator, scans, modality, stripped)


@torch.no_grad()
def _follow(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Each averaged weight becomes ``share`` of itself and the rest of the network's."""
    for old, new in zip(averaged.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - share)


def _built(config: AnatomyConfig) -> nn.Module:
    try:
        return build(config.network, "S")
    except (TypeError, ValueError) as error:
        raise UsageError(f"the configuration has a network that cannot be: {error}", "correct its section") from error


def _require_same(before: AnatomyConfig, now: AnatomyConfig) -> None:
    """Raise `UsageError` where a run would go on with other settings; it may be made longer, or lie elsewhere."""
    free = ("root", "cache", "steps", "workers", "precision", "validate_every", "checkpoint_seconds")
    was, is_now = (json.loads(json.dumps(config.to_dict())) for config in (before, now))
    if changed := [name for name in was if name not in free and was[name] != is_now[name]]:
        raise UsageError(
            f"the checkpoint was made with other settings: {', '.join(changed)}", "give a new output folder"
        )


def _model_config(config: AnatomyConfig, step: int) -> dict[str, Any]:
    return {
        "network": config.network,
        "structures": list(STRUCTURES),
        "grid": {"shape": list(config.scans.shape), "spacing": config.scans.spacing},
        "training": {**config.to_dict(), "steps_done": step},
    }
