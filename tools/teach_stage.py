#!/usr/bin/env python3
"""Teach the pyramid's local stage alone, on starts that the rest of T makes once: how the shipped weights got theirs.

    python tools/teach_stage.py configs/t1-t2.toml --pairs 1900 --minutes 40 --work runs/stage -o runs/stage/model

The rest of T is taken from the configuration's ``start_from`` (or the shipped weights) and stays as it is. Its field
for every pair is kept, so a step costs the stage only. Pairs vary further: mirrored, fixed and moving exchanged,
intensity curves (also falling ones), noise, and starts pushed off by a smooth field, since T errs more on people it
does not know.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.models.load import load_model, save_model
from deformgan.networks import build
from deformgan.networks.local_stage import EdgeStage, FixedSide, MovingSide
from deformgan.networks.pyramid import PyramidNetwork
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.subjects import load_subjects
from deformgan.workshop.training.config import load_config
from deformgan.workshop.training.data import PairDataset

Pair = dict[str, Tensor]
IMAGES = ("fixed", "moving", "mask")
STEPS_TAUGHT = (0.4, 0.7, 1.0)  # what the error after each iteration counts for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--pairs", type=int, default=1900)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="where pairs and their starts are kept")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the model")
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    config = load_config(options.config)
    model = load_model(config.start_from or "t1-t2", "cpu")
    old = model.network
    assert isinstance(old, PyramidNetwork)
    for parameter in old.parameters():
        parameter.requires_grad_(False)
    pairs = made_pairs(config, old, options.pairs, options.work)
    taught = teach(old, pairs, options)
    network = build({"kind": "pyramid"})
    network.load_state_dict(old.state_dict() | {f"stage.{name}": value for name, value in taught.items()})
    save_model(options.out, network, {**model.config, "network": {"kind": "pyramid"}})


def made_pairs(config, network: PyramidNetwork, count: int, folder: Path) -> list[Pair]:
    """Pairs at half resolution in 8 bits with field and T's start at 1/4 in 16, a hundred to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset, pairs = None, []
    for first in range(0, count, 100):
        path = folder / f"pairs-{first:05d}.pt"
        if not path.exists():
            if dataset is None:
                subjects = load_subjects(config.data, config.data.patients, config.data.label_maps)
                dataset = PairDataset(subjects, config.data, config.augmentation, 0.5, config.seed, count)
            made = [one_pair(network, dataset[i]) for i in range(first, min(first + 100, count))]
            torch.save(made, path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
            report(f"pairs: {first + len(made)} of {count}")
        pairs += torch.load(path, weights_only=True)
    return pairs


def one_pair(network: PyramidNetwork, item: Pair) -> Pair:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        start = network.stages(item["fixed"][None], item["moving"][None])[1]
    quarter = tuple(n // 2 for n in item["fixed"].shape[1:])
    kept = {name: (item[name] * 255).round().to(torch.uint8) for name in IMAGES}
    fields = {"field": item["field"][None], "start": start}
    return kept | {name: resize(field.float(), quarter)[0].half() for name, field in fields.items()}


def teach(network: PyramidNetwork, pairs: list[Pair], options: argparse.Namespace) -> dict[str, Tensor]:
    """Adam on the mean distance to the true field, the rate falling with time; the weights' running mean."""
    stage = EdgeStage(network.encoder.level4[0].out_channels).to(memory_format=torch.channels_last_3d)
    adam = torch.optim.AdamW(stage.parameters(), options.rate, weight_decay=1e-4)
    mean = {name: value.clone() for name, value in stage.state_dict().items()}
    begun, step, seen = time.monotonic(), 0, []
    while (progress := (time.monotonic() - begun) / (60 * options.minutes)) < 1:
        for group in adam.param_groups:
            cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * progress))
            group["lr"] = options.rate * min(1, (step + 1) / 50) * cosine
        fixed, moving, field, mask, start = (
            torch.stack(t) for t in zip(*(varied(random.choice(pairs)) for _ in range(options.batch)), strict=True)
        )
        with torch.autocast("cpu", torch.bfloat16):
            found = unrolled(network, stage, fixed, moving, start)
        errors = [mean_distance(f, field, mask) for f in found]
        loss = sum(w * e for w, e in zip(STEPS_TAUGHT, errors, strict=True))
        adam.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 2.0)
        adam.step()
        step += 1
        with torch.no_grad():
            for name, value in stage.state_dict().items():
                mean[name].lerp_(value, 1 - min(0.995, (step + 1) / (step + 20)))
        seen.append([float(e.detach()) for e in (mean_distance(start, field, mask), *errors)])
        if step % 50 == 0:
            report(f"step {step}, error in voxels: " + ", ".join(f"{sum(c) / 50:.2f}" for c in zip(*seen, strict=True)))
            seen.clear()
    return mean


def unrolled(network: PyramidNetwork, stage: EdgeStage, fixed: Tensor, moving: Tensor, field: Tensor) -> list[Tensor]:
    with torch.no_grad():
        both = torch.cat([fixed, moving]).contiguous(memory_format=torch.channels_last_3d)
        features = network.encoder.level4(both).chunk(2)
    sides, fields = (FixedSide(fixed, features[0]), MovingSide(moving, features[1])), []
    for _ in STEPS_TAUGHT:
        field = stage(*sides, field.detach())
        fields.append(field)
    return fields


def mean_distance(found: Tensor, field: Tensor, mask: Tensor) -> Tensor:
    """In voxels of the working grid, inside the mask."""
    distance = (found.float() - field).square().sum(1, keepdim=True).add(1e-4).sqrt()
    return 4 * (distance * mask).sum() / mask.sum()


def varied(pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Fixed, moving, field, mask and start of one pair, drawn anew."""
    fixed, moving, mask = (pair[name].float() / 255 for name in IMAGES)
    field, start = pair["field"].float(), pair["start"].float()
    if random.random() < 0.5:
        fixed, moving = moving, fixed
        mask, field, start = (fixed > 0).float(), inverse(field), inverse(start)
    axes = [axis for axis in range(3) if random.random() < 0.5]
    fixed, moving, mask = (one.flip([a + 1 for a in axes]) for one in (fixed, moving, mask))
    sign = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(3)]).view(3, 1, 1, 1)
    field, start = (sign * one.flip([a + 1 for a in axes]) for one in (field, start))
    if random.random() < 0.7:
        push = F.interpolate(torch.randn(1, 3, 5, 5, 4), size=start.shape[1:], mode="trilinear", align_corners=True)
        start = start + push[0] * random.random() * 0.7
    if random.random() < 0.1:
        start = start * random.random()
    return recoloured(fixed), recoloured(moving), field, F.avg_pool3d(mask[None], 2)[0], start


def inverse(field: Tensor) -> Tensor:
    found = -field[None]
    for _ in range(12):
        found = -warp(field[None], found, padding="border")
    return found[0]


def recoloured(image: Tensor) -> Tensor:
    """Half of the time another intensity curve, rising in most cases, and noise likewise; the background kept."""
    inside, draw = image > 0, random.random()
    if draw < 0.5:
        knots = torch.rand(random.choice([3, 4, 5, 6]))
        if draw < 0.35:
            knots = torch.cumsum(knots + 0.15, 0)
            knots = (knots - knots[0] * random.random()) / knots[-1]
        if random.random() < 0.25:
            knots = knots.flip(0) + 0.1
        at = image * (len(knots) - 1)
        below = at.floor().clamp(0, len(knots) - 2).long()
        image = torch.where(inside, torch.lerp(knots[below], knots[below + 1], at - below), image)
    if random.random() < 0.5:
        image = torch.where(inside, image + torch.randn_like(image) * 0.04 * random.random(), image)
    return image.clamp(0, 1)


def report(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
