"""Training pairs: an anatomy, deformed anew for every pair by a known field."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from deformgan.spatial.field import compose, identity_positions, resize
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.datasets.subjects import Subject
from deformgan.workshop.simulation.artefacts import degrade
from deformgan.workshop.simulation.deformation import polished_inverse, sample_deformation
from deformgan.workshop.simulation.draws import choice, number, weighted
from deformgan.workshop.training.config import AugmentationConfig


class PairDataset(Dataset):
    """A seeded series of training pairs at full, half or quarter resolution: item ``i`` is always the same pair.

    Each item is a dict of ``fixed`` and ``moving`` (1, d, h, w) in [0, 1]; ``field`` (3, d, h, w), the known pull-back
    displacement in voxels of that resolution; ``mask`` (1, d, h, w), the content of the fixed image; and ``regime``,
    its number.

    Args:
        subjects: From `load_subjects`.
        data, augmentation: How they are drawn and deformed.
        scale: 1, 0.5 or 0.25.
        seed: Of all pairs.
        length: Number of items.
        complete: Whether items hold ``moving_true``, ``lesion`` and ``moving_lesion``, which only validation looks at.
        device: Where pairs are made, and lie; each device has random numbers of its own.
    """

    def __init__(
        self,
        subjects: list[Subject],
        data: DataConfig,
        augmentation: AugmentationConfig,
        scale: float,
        seed: int,
        length: int,
        complete: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        subjects = [_on(device, _reduced(s, round(1 / scale))) for s in subjects]
        self.real = [s for s in subjects if not s.synthetic]
        self.synthetic = [s for s in subjects if s.synthetic]
        self.data, self.augmentation, self.seed, self.length = data, augmentation, seed, length
        self.scale, self.complete, self.device = scale, complete, device
        self.shape = tuple(round(n * scale) for n in data.shape)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + index)
        subject, names = self._draw_subject(generator)
        augmentation = self.augmentation
        regime, (anatomy, forward, inverse) = self._draw_fields(subject, generator)
        flip = number(generator) < augmentation.flip
        to_moving = compose(anatomy, inverse)
        fixed = _sampled(subject.volumes[names[0]], anatomy, self.scale)
        moving = _sampled(subject.volumes[names[1]], to_moving, self.scale)
        inside = _sampled(subject.mask, anatomy, self.scale)
        fixed, moving = (
            degrade(i, i > 0, generator, augmentation.degradation * number(generator)) for i in (fixed, moving)
        )
        item = {
            "fixed": fixed[0],
            "moving": moving[0],
            "field": forward[0],
            "mask": (inside[0] > 0.5).float(),
            "regime": torch.tensor(regime),
        }
        if self.complete:
            item["moving_true"] = _sampled(subject.volumes[names[1]], anatomy, self.scale)[0]
            item["lesion"] = _sampled(subject.lesion, anatomy, self.scale)[0]
            item["moving_lesion"] = _sampled(subject.lesion, to_moving, self.scale)[0]
        return _mirrored(item) if flip else item

    def _draw_fields(self, subject: Subject, generator: torch.Generator) -> tuple[int, list[Tensor]]:
        """The regime's number; the fields of another head, from fixed to moving and back, (1, 3, D, H, W) in voxels."""
        augmentation = self.augmentation
        regime = weighted(generator, torch.tensor(augmentation.weights))[0]
        config = list(augmentation.regimes.values())[regime]

        # fields are drawn at a quarter of the working grid: they are smooth, and this is where the time goes
        coarse = tuple(n // 4 for n in self.data.shape)
        mask = F.interpolate(subject.mask.float() / 255, size=coarse, mode="trilinear", align_corners=False)
        common = {"mask": mask, "keep_inside": False}  # content that leaves the volume is cut off, as in real scans
        anatomy = sample_deformation(
            coarse, augmentation.anatomy.scaled(0.25), generator, **common, polish=0, steps=4
        ).forward
        common["mask"] = warp(mask, anatomy)
        pair = sample_deformation(coarse, config.scaled(0.25), generator, **common, polish=2, steps=5)
        anatomy, forward, inverse = (resize(f, self.shape) for f in (anatomy, pair.forward, pair.inverse))
        # between coarse voxels the two are some tenths of a voxel off
        return regime, [anatomy, forward, polished_inverse(forward, inverse, 1)]

    def _draw_subject(self, generator: torch.Generator) -> tuple[Subject, list[str]]:
        synthetic = number(generator) < self.data.synthetic
        pool = (self.synthetic if synthetic else self.real) or self.real or self.synthetic
        subject = pool[choice(generator, len(pool))]
        names = list(subject.volumes)
        if self.data.direction:
            return subject, [_one_of(names, contrast, generator) for contrast in self.data.direction]
        weights = torch.tensor([self.data.contrasts.get(n.split("-")[0], 1.0) for n in names])
        return subject, [names[i] for i in weighted(generator, weights, 2)]


def _one_of(names: list[str], contrast: str, generator: torch.Generator) -> str:
    """One of a subject's images of a contrast; a label map may have been given several (``t1-0``, ``t1-4``)."""
    found = [name for name in names if name.split("-")[0] == contrast]
    return found[choice(generator, len(found))]


def _reduced(subject: Subject, factor: int) -> Subject:
    volumes = {name: _averaged(volume, factor) for name, volume in subject.volumes.items()}
    mask, lesion = _averaged(subject.mask * 255, factor), _averaged(subject.lesion * 255, factor)
    return replace(subject, volumes=volumes, mask=mask, lesion=lesion)


def _on(device: torch.device | str, subject: Subject) -> Subject:
    volumes = {name: volume.to(device) for name, volume in subject.volumes.items()}
    return replace(subject, volumes=volumes, mask=subject.mask.to(device), lesion=subject.lesion.to(device))


def _averaged(volume: Tensor, factor: int) -> Tensor:
    """Means over cubes at every voxel (``i`` covers ``factor`` voxels from ``i`` on), uint8: what T is shown."""
    if factor == 1:
        return volume
    padded = F.pad(volume.float(), [0, factor - 1] * 3, mode="replicate")
    return F.avg_pool3d(padded, factor, stride=1).round().to(torch.uint8)


def _mirrored(item: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same pair with left and right exchanged."""
    item = {name: value.flip(1) if value.ndim == 4 else value for name, value in item.items()}
    item["field"][0].neg_()
    return item


def _sampled(volume: Tensor, field: Tensor, scale: float) -> Tensor:
    """A uint8 volume at ``x + field(x)``, in [0, 1], at the field's resolution.

    Below full resolution the volume is one of `_averaged`, still on the full grid, so that nothing is blurred twice.
    """
    image = volume.float() / 255
    if scale != 1:
        positions = identity_positions(tuple(field.shape[2:]), field.device)
        # voxel i of the reduced grid is voxel i / scale of the averaged volume
        field = (positions + field) / scale - positions
    return warp(image, field)
