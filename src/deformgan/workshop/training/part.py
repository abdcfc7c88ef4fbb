"""Teaching a part of T alone, on starts that the rest makes once: how the shipped weights got their local stage.

T's field for every pair is kept on disk beside the pair, so a step costs the part only. Pairs vary further each time
one is drawn: mirrored, fixed and moving exchanged, intensity curves (also falling ones), noise, and starts pushed off
by a smooth field, since T errs more on people it does not know.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from deformgan.errors import UsageError
from deformgan.io.atomic import atomic
from deformgan.networks.local_stage import FixedSide, MovingSide
from deformgan.networks.pyramid import PyramidNetwork
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.simulation.draws import choice, normal, number, uniform
from deformgan.workshop.training.config import Only
from deformgan.workshop.training.pairs import KeptPairs
from deformgan.workshop.training.steps import Backward, Metrics

AVERAGE = "average"  # the name of T with a running average of its weights, beside T's
_IMAGES = ("fixed", "moving", "mask")
_DISTANCE = 1e-4  # voxels², keeps the gradient of a distance of nothing finite
_VOXELS = 4  # of the working grid to one of the fields, which are at a quarter of its resolution


class StartedPairs(Dataset):
    """Pairs drawn at random from those that are kept, with T's start, varied; item ``i`` is always the same.

    Items: ``fixed``, ``moving`` (1, d, h, w) in [0, 1] at half resolution; ``field``, ``start`` (3, d/2, h/2, w/2) in
    voxels of their grid; ``mask`` (1, d/2, h/2, w/2).

    Args:
        pairs: At half resolution, kept on disk; each is used again and again.
        network: T, whose rest makes the starts.
        seed, length: Of the items.
    """

    def __init__(self, pairs: KeptPairs, network: PyramidNetwork, seed: int, length: int) -> None:
        self.pairs, self.network, self.seed, self.length = pairs, network, seed, length
        self.folder = pairs.folder / f"starts-{_identity(network)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        chosen = choice(generator, len(self.pairs))
        item = self.pairs[chosen]
        quarter = tuple(n // 2 for n in item["fixed"].shape[1:])
        field = resize(item["field"][None], quarter)[0]
        kept = {name: item[name] for name in _IMAGES} | {"field": field, "start": self._start(chosen, item)}
        return varied(kept, generator)

    def _start(self, chosen: int, item: dict[str, Tensor]) -> Tensor:
        path = self.folder / f"{chosen:06d}.safetensors"
        if not path.exists():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                start = self.network.stages(item["fixed"][None], item["moving"][None])[1]
            quarter = tuple(n // 2 for n in item["fixed"].shape[1:])
            with atomic(path) as partial:
                save_file({"start": resize(start.float(), quarter)[0].half().contiguous()}, partial)
        return load_file(path)["start"].float()


def part_step(
    network: PyramidNetwork, optimizer: Optimizer, items: dict[str, Tensor], only: Only, backward: Backward
) -> Metrics:
    """One step of the pyramid's local stage: the weighted mean distance to the true field after each application.

    Args:
        items: A batch of `StartedPairs`.

    Returns:
        0-dim tensors: ``t_loss``, ``t_start_error`` and ``t_field_error``: the mean distance before and after all
        applications, in voxels of the working grid.
    """
    with torch.no_grad():
        both = torch.cat([items["fixed"], items["moving"]]).contiguous(memory_format=torch.channels_last_3d)
        features = network.encoder.level4(both).chunk(2)
    sides = FixedSide(items["fixed"], features[0]), MovingSide(items["moving"], features[1])
    field, errors = items["start"], []
    for _ in only.taught:
        field = network.stage(*sides, field.detach())
        errors.append(mean_distance(field, items["field"], items["mask"]))
    loss = torch.stack([weight * error for weight, error in zip(only.taught, errors, strict=True)]).sum()
    optimizer.zero_grad(set_to_none=True)
    backward(loss)
    optimizer.step()
    start_error = mean_distance(items["start"], items["field"], items["mask"])
    return {"t_loss": loss.detach(), "t_start_error": start_error, "t_field_error": errors[-1].detach()}


def mean_distance(found: Tensor, field: Tensor, mask: Tensor) -> Tensor:
    """Between two fields inside the mask, in voxels of the working grid."""
    distance = (found.float() - field).square().sum(1, keepdim=True).add(_DISTANCE).sqrt()
    return _VOXELS * (distance * mask).sum() / mask.sum()


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, step: int, most: float) -> None:
    """Move a running average of weights after ``step`` steps; at first it forgets faster than by ``most`` a step."""
    share = min(most, (step + 1) / (step + 20))
    for old, new in zip(averaged.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - share)


def begin_part(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Give T the weights of ``state`` but for one part, which begins anew and alone learns from now on.

    Raises:
        UsageError: T has no such part, or the weights are of another network.
    """
    part = getattr(network, name, None)
    if not isinstance(network, PyramidNetwork) or part is not network.stage:
        raise UsageError(f"T has no part {name!r} that can learn alone", 'use a pyramid and its part "stage"')
    kept = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
    fresh = {f"{name}.{key}": value for key, value in network.stage.state_dict().items()}
    try:
        network.load_state_dict(kept | fresh)
    except RuntimeError as error:
        hint = "take that of its config.json"
        raise UsageError("start_from is of another network than [network] describes", hint) from error
    network.requires_grad_(requires_grad=False)
    network.stage.requires_grad_(requires_grad=True)


def varied(pair: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """One pair, drawn anew; what comes and goes as in `StartedPairs`, but for the mask, which comes as an image."""
    fixed, moving, mask, field, start = (pair[name] for name in (*_IMAGES, "field", "start"))
    if number(generator) < 0.5:
        fixed, moving = moving, fixed
        mask, field, start = (fixed > 0).float(), inverse(field), inverse(start)
    axes = [axis for axis in range(3) if number(generator) < 0.5]
    fixed, moving, mask = (one.flip([a + 1 for a in axes]) for one in (fixed, moving, mask))
    sign = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(3)]).view(3, 1, 1, 1)
    field, start = (sign * one.flip([a + 1 for a in axes]) for one in (field, start))
    if number(generator) < 0.7:
        knots = normal(generator, 1, 3, 5, 5, 4)
        push = F.interpolate(knots, size=start.shape[1:], mode="trilinear", align_corners=True)
        start = start + push[0] * number(generator) * 0.7
    if number(generator) < 0.1:
        start = start * number(generator)
    fixed, moving = (recoloured(image, generator) for image in (fixed, moving))
    mask = F.avg_pool3d(mask[None], 2)[0]
    return {"fixed": fixed, "moving": moving, "field": field, "mask": mask, "start": start}


def inverse(field: Tensor) -> Tensor:
    """The field (3, d, h, w), voxels, the other way."""
    found = -field[None]
    for _ in range(12):
        found = -warp(field[None], found, padding="border")
    return found[0]


def recoloured(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the time another intensity curve, rising in most cases, and noise likewise; the background kept."""
    inside, draw = image > 0, number(generator)
    if draw < 0.5:
        knots = uniform(generator, 3 + choice(generator, 4))
        if draw < 0.35:
            knots = torch.cumsum(knots + 0.15, 0)
            knots = (knots - knots[0] * number(generator)) / knots[-1]
        if number(generator) < 0.25:
            knots = knots.flip(0) + 0.1
        at = image * (len(knots) - 1)
        below = at.floor().clamp(0, len(knots) - 2).long()
        image = torch.where(inside, torch.lerp(knots[below], knots[below + 1], at - below), image)
    if number(generator) < 0.5:
        noise = normal(generator, *image.shape)
        image = torch.where(inside, image + noise * 0.04 * number(generator), image)
    return image.clamp(0, 1)


def _identity(network: PyramidNetwork) -> str:
    """Hash of what the starts depend on."""
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("stage.")}
    return hashlib.sha256(save({key: value.contiguous() for key, value in state.items()})).hexdigest()[:12]
