"""Samples to teach S with: a head as a random scanner sees it, and what S must say of it.

Every sample is made anew from a label map: another head (affine and smooth deformation, mirrored or not), another
contrast, bias field, blur, slice thickness, noise and field of view; the skull is kept, or stripped along a wavering
border. A sample of 80×96×80 voxels of 2 mm takes some 0.15 s on one thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.workshop.simulation.artefacts import gaussian_blur, rician_noise, thick_slices
from deformgan.workshop.simulation.contrasts import MODALITIES, coarse_noise, label_means, normalise
from deformgan.workshop.simulation.draws import normal, number, signed, uniform, weighted
from deformgan.workshop.simulation.structures import MIRRORED, STRUCTURES, structure_of_ids

REACH_MM = 12  # from the brain's border, up to which the distance is known
_BONE = 515
_AROUND = 500  # ids from here on are skull, skin and the like
_CONTRASTS = {"random": 0.5, "t1": 0.2, "t2": 0.12, "flair": 0.12, "t1gd": 0.06}


@dataclass(frozen=True)
class LabelMap:
    """A whole-head label map at 1 mm, its axes to the right, to anterior and to superior.

    Args:
        index: (X, Y, Z) uint8, indices into ``ids``.
        ids: (N,) FreeSurfer id of each index, the first 0.
        distance: (X, Y, Z) int8, millimetres to the border of the brain (sulci closed), negative inside.
        centre: (3,) voxel at the brain's centre.
    """

    index: Tensor
    ids: Tensor
    distance: Tensor
    centre: Tensor

    def to(self, device: torch.device) -> LabelMap:
        """The same with its volumes on another device."""
        return replace(self, index=self.index.to(device), distance=self.distance.to(device))


@dataclass(frozen=True)
class ScanConfig:
    """How samples vary; lengths in millimetres, axes to the right, to anterior and to superior.

    Args:
        shape: Voxels of a sample; even.
        spacing: Size of a voxel.
        rotation: Largest rotation about each axis, degrees.
        log_scale: Largest absolute logarithm of the size; half of it is added for each axis apart.
        shear: Largest shear.
        shift: Largest shift of the brain's centre along each axis.
        elastic: Largest standard deviations of the smooth displacement, coarse to fine.
        elastic_every: Distance between its independent points.
        stripped: How often the skull is stripped.
        slices: Thickest slice.
        cropped: Expected number of sides at which part of the head lies outside the field of view, over 1.5.
        finer: A head is made on voxels so many times smaller, which are then averaged: a voxel holds several tissues.
    """

    shape: tuple[int, int, int] = (80, 96, 80)
    spacing: float = 2.0
    rotation: float = 20.0
    log_scale: float = 0.18
    shear: float = 0.08
    shift: float = 22.0
    elastic: tuple[float, ...] = (5.0, 2.5)
    elastic_every: tuple[float, ...] = (64.0, 28.0)
    stripped: float = 0.4
    slices: float = 5.0
    cropped: float = 0.3
    finer: int = 1

    @property
    def fine(self) -> ScanConfig:
        """The same on the smaller voxels."""
        shape = tuple(self.finer * n for n in self.shape)
        return replace(self, shape=shape, spacing=self.spacing / self.finer, finer=1)


@dataclass(frozen=True)
class Scan:
    """An image and what S must say of it; D runs to the right, H to anterior, W to superior.

    Args:
        image: (1, 1, D, H, W) in [0, 1].
        structures: (1, S, D/2, H/2, W/2), the share of each of `STRUCTURES` in a block of 2×2×2 voxels.
        mask: (1, 1, D, H, W), 1 in the brain, 0 elsewhere; the share of brain where voxels were averaged.
    """

    image: Tensor
    structures: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Scan:
        """The same on another device."""
        return Scan(self.image.to(device), self.structures.to(device), self.mask.to(device))


def draw_scan(
    labels: LabelMap,
    generator: torch.Generator,
    config: ScanConfig,
    modality: str | None = None,
    stripped: bool | None = None,
) -> Scan:
    """One random sample; the same state of ``generator`` gives the same one.

    Args:
        modality: One of `MODALITIES`; drawn if it is None.
        stripped: Whether the skull is stripped; drawn if it is None.
    """
    mirrored = _chance(generator, 0.5)
    index, distance = _moved(labels, mirrored, generator, config.fine)
    structures = torch.from_numpy(structure_of_ids(int(labels.ids.max())))[labels.ids.long()].long()
    if mirrored:
        structures = torch.tensor(MIRRORED)[structures]
    structure = structures.to(index.device)[index]
    if stripped is None:
        stripped = _chance(generator, config.stripped)
    shown = torch.ones_like(structure, dtype=torch.bool)
    if stripped:
        beyond = 3.5 * number(generator) - 0.5
        shown = distance < beyond + 1.2 * coarse_noise(config.fine.shape, 8 * config.finer, generator)[0, 0]
    image = _image(index, shown, labels.ids, modality, stripped, generator, config)
    view = _field_of_view(config, generator)
    seen = shown & enlarged(view, config.finer)
    mask = averaged(((distance <= 0) & seen).float()[None, None], config.finer)
    kept = image * view * (averaged(shown.float()[None, None], config.finer)[0, 0] > 0)
    return Scan(kept[None, None], shares(structure * seen, len(STRUCTURES), 2 * config.finer), mask)


def shares(structure: Tensor, count: int, side: int = 2) -> Tensor:
    """Indices (D, H, W), int64 → the share of each in every block of ``side``³ voxels, (1, count, D/2, H/2, W/2)."""
    d, h, w = (n // side for n in structure.shape)
    blocks = structure.reshape(d, side, h, side, w, side).permute(1, 3, 5, 0, 2, 4).reshape(side**3, -1)
    found = torch.zeros(count, d * h * w, device=structure.device)
    found.scatter_add_(0, blocks, torch.full_like(blocks, 1 / side**3, dtype=torch.float32))
    return found.view(1, count, d, h, w)


def averaged(volume: Tensor, finer: int) -> Tensor:
    """(1, 1, D, H, W) on voxels ``finer`` times larger."""
    return volume if finer == 1 else F.avg_pool3d(volume, finer)


def enlarged(view: Tensor, finer: int) -> Tensor:
    """(D, H, W) on voxels ``finer`` times smaller."""
    for axis in range(3 if finer > 1 else 0):
        view = view.repeat_interleave(finer, axis)
    return view


def _chance(generator: torch.Generator, probability: float) -> bool:
    return number(generator) < probability


def _moved(labels: LabelMap, mirrored: bool, generator: torch.Generator, config: ScanConfig) -> tuple[Tensor, Tensor]:
    """Indices and distances of another head on the sample's grid, nearest neighbours, both (X, Y, Z)."""
    shape, spacing, device = config.shape, config.spacing, labels.index.device
    matrix = _matrix(generator, config)
    if mirrored:
        matrix = torch.diag(torch.tensor([-1.0, 1.0, 1.0])) @ matrix
    offset = labels.centre + config.shift * signed(generator, 3)
    elastic = torch.zeros(3, *shape, device=device)
    for most, every in zip(config.elastic, config.elastic_every, strict=True):
        strength = most * number(generator)
        for axis in range(3):
            elastic[axis] += strength * coarse_noise(shape, every / spacing, generator)[0, 0]
    x, y, z = ((torch.arange(n, device=device) - (n - 1) / 2) * spacing for n in shape)
    place = torch.zeros(shape, dtype=torch.long, device=device)
    inside = torch.ones(shape, dtype=torch.bool, device=device)
    for row, n in enumerate(labels.index.shape):
        plane = (x * matrix[row, 0])[:, None, None] + (y * matrix[row, 1])[:, None]
        voxel = (plane + (z * matrix[row, 2] + offset[row]) + elastic[row]).round_().long()
        inside &= (voxel >= 0) & (voxel < n)
        place = place * n + voxel.clamp_(0, n - 1)
    index = labels.index.reshape(-1)[place.view(-1)].view(shape).long() * inside
    distance = labels.distance.reshape(-1)[place.view(-1)].view(shape).float()
    return index, torch.where(inside, distance, float(REACH_MM))


def _matrix(generator: torch.Generator, config: ScanConfig) -> Tensor:
    """A random 3×3 matrix: rotation, size and shear."""
    rotation = torch.eye(3)
    for axis, angle in enumerate(torch.deg2rad(config.rotation * signed(generator, 3)).tolist()):
        one, (i, j) = torch.eye(3), [a for a in range(3) if a != axis]
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ one
    size = config.log_scale * (signed(generator) + 0.5 * signed(generator, 3))
    shear = torch.eye(3) + config.shear * torch.triu(signed(generator, 9).view(3, 3), 1)
    return rotation @ torch.diag(size.exp()) @ shear


def _image(
    index: Tensor,
    shown: Tensor,
    ids: Tensor,
    modality: str | None,
    stripped: bool,
    generator: torch.Generator,
    config: ScanConfig,
) -> Tensor:
    """The scan, (X, Y, Z) in [0, 1]."""
    means = _means(ids, modality, generator)
    spread = 0.08 * uniform(generator, len(ids)).cpu() * number(generator)
    air = 0 if stripped else 0.06 * number(generator) ** 2
    means[0], spread[0] = air, air / 2
    means, spread = means.to(index.device), spread.to(index.device)
    image = (means[index] + spread[index] * normal(generator, *index.shape))[None, None] * shown
    image = gaussian_blur(image, config.finer * (0.3 + 0.6 * number(generator))).clamp_(min=0)
    image = averaged(image, config.finer)
    bias = 0.35 * number(generator) * coarse_noise(config.shape, 36, generator).clamp_(-2, 2)
    image = image * bias.exp_()
    thickness = 1 + (config.slices - 1) * number(generator)
    if _chance(generator, 0.5) and thickness > config.spacing:
        image = thick_slices(image, int(3 * number(generator)), thickness / config.spacing)
    image = normalise(image, image > 0, 99.5, 50_000).pow_(math.exp(0.5 * float(signed(generator))))
    image = rician_noise(image, 0.06 * number(generator) ** 2, generator)
    return (image * (0.5 + 0.75 * number(generator))).clamp_(0, 1)[0, 0]


def _means(ids: Tensor, modality: str | None, generator: torch.Generator) -> Tensor:
    """A grey value for each id: a drawn contrast of the brain, any grey in the head around it."""
    if modality is None:
        weights = torch.tensor([_CONTRASTS[name] for name in MODALITIES])
        modality = MODALITIES[weighted(generator, weights)[0]]
    means = label_means(int(ids.max()), modality, generator)[ids.long()]
    around = ids >= _AROUND
    brightest = 0.8 * float(means[~around].max()) * 4 ** number(generator)  # fat outshines the brain in many scans
    means[around] = brightest * uniform(generator, int(around.sum())).cpu()
    if _chance(generator, 0.6):
        means[ids == _BONE] *= 0.25
    return means


def _field_of_view(config: ScanConfig, generator: torch.Generator) -> Tensor:
    """Where the scan has data, (X, Y, Z)."""
    seen = torch.ones(config.shape, dtype=torch.bool, device=generator.device)
    for axis, n in enumerate(config.shape):
        for first in (True, False):
            cut = int(0.4 * n * number(generator))
            if _chance(generator, config.cropped / 4):
                seen.narrow(axis, 0 if first else n - cut, cut).zero_()
    return seen
