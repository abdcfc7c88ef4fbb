"""A tumour with an irregular core and oedema that follows the white matter, drawn into a label map."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deformgan.workshop.simulation.contrasts import TUMOUR_CORE, TUMOUR_OEDEMA, coarse_noise, depth
from deformgan.workshop.simulation.draws import choice, uniform

WHITE = (2, 41)  # cerebral white matter, where a tumour begins
_SPREADING = (*WHITE, 77, 78, 79)
_SPARED = (0, 4, 5, 14, 15, 24, 43, 44, 72)  # fluid is pushed aside, not infiltrated; so is everything outside
_HINDBRAIN = (7, 8, 15, 16, 46, 47)


def add_tumour(
    labels: Tensor,
    generator: torch.Generator,
    radius_mm: float | None = None,
    spacing_mm: float = 1.5,
    centre: tuple[int, int, int] | None = None,
) -> Tensor:
    """A copy of ``labels`` with core (100) and oedema (101).

    The core is a ball distorted by smooth noise that takes all tissue but fluid; oedema spreads around it, further in
    white matter than in grey.

    Args:
        labels: (D, H, W), integer FreeSurfer-like ids of a brain.
        generator: Source of all randomness.
        radius_mm: Radius of the undistorted core; default: 9 to 17 mm, drawn.
        spacing_mm: Size of a voxel.
        centre: Voxel the tumour grows from; default: a drawn one deep in the white matter of the cerebrum.

    Raises:
        ValueError: There is no white matter (ids 2 and 41) to grow in, or ``centre`` is outside the brain.
    """
    ids = labels.cpu().numpy()
    size = uniform(generator, 2).tolist()
    radius = (9 + 8 * size[0] if radius_mm is None else radius_mm) / spacing_mm
    seed = _seed(ids, radius, generator) if centre is None else centre
    if not ids[tuple(seed)]:
        raise ValueError(f"the tumour's centre {tuple(seed)} is outside the brain")
    reach = np.array([int(np.ceil(2.8 * radius)) + 4] * 3)
    low = np.maximum(np.array(seed) - reach, 0)
    box = tuple(slice(a, b + 1) for a, b in zip(low, np.array(seed) + reach, strict=True))
    local = ids[box]
    distance = _distorted_distance(local.shape, np.array(seed) - low, radius, generator)
    core = _connected((distance < radius) & ~np.isin(local, _SPARED), tuple(np.array(seed) - low))
    white = np.isin(local, _SPREADING)
    spread = radius * (1.45 + 0.35 * size[1])
    oedema = white & (distance < spread) | ~np.isin(local, _SPARED) & (distance < 1.12 * radius)
    out = ids.copy()
    out[box] = np.where(core, TUMOUR_CORE, np.where(oedema, TUMOUR_OEDEMA, local))
    return torch.from_numpy(out).to(labels.device)


def _seed(ids: np.ndarray, radius: float, generator: torch.Generator) -> tuple[int, int, int]:
    """A drawn white-matter voxel of the cerebrum, as deep as the core is wide where there is one so deep."""
    inwards = depth(np.pad((ids > 0) & ~np.isin(ids, _HINDBRAIN), 1))[1:-1, 1:-1, 1:-1]
    white = np.isin(ids, WHITE)
    if not white.any():
        raise ValueError("these labels have no white matter (ids 2, 41) for a tumour to grow in")
    deep = np.argwhere(white & (inwards >= min(0.9 * radius, inwards[white].max())))
    pick = choice(generator, len(deep))
    a, b, c = deep[pick].tolist()
    return a, b, c


def _distorted_distance(
    shape: tuple[int, ...], centre: np.ndarray, radius: float, generator: torch.Generator
) -> np.ndarray:
    """Distance from ``centre`` in voxels plus lobes of about half a radius and a finer fringe."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)))
    lobes = coarse_noise(shape, max(2.0, 0.8 * radius), generator)[0, 0].cpu().numpy()
    fringe = coarse_noise(shape, max(1.5, 0.3 * radius), generator)[0, 0].cpu().numpy()
    return distance + 0.22 * radius * np.clip(lobes, -1.8, 1.8) + 0.08 * radius * fringe


def _connected(mask: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """The component of ``mask`` at ``seed``, or the largest one if the seed is not in it."""
    components = np.asarray(ndimage.label(mask)[0])  # type: ignore[index]
    wanted = components[seed] or np.argmax(np.bincount(components.ravel())[1:], keepdims=False) + 1
    return components == wanted
