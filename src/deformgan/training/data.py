"""Training pairs: subjects conformed once and cached, then deformed anew for every pair by a known field."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from deformgan.conform import conform
from deformgan.errors import InputError
from deformgan.field import compose, identity_positions, resize
from deformgan.files import atomic
from deformgan.grid import Grid
from deformgan.image import load_image, load_labels
from deformgan.losses import ngf_similarity
from deformgan.simulation.artefacts import degrade
from deformgan.simulation.contrasts import TUMOUR_CORE, TUMOUR_OEDEMA, strip_labels, synthesise
from deformgan.simulation.deformation import sample_deformation
from deformgan.simulation.tumour import add_tumour
from deformgan.training.config import AugmentationConfig, DataConfig
from deformgan.warp import warp

logger = logging.getLogger(__name__)

_OUTLINES = ("seg", "lesion")  # file stems of an expert's or an algorithm's outline
_FORMAT = 1  # raise when the cached images would come out differently


@dataclass(frozen=True)
class Subject:
    """One anatomy seen in several contrasts.

    Args:
        name: Of the folder or file it came from.
        volumes: Contrast → (1, 1, D, H, W) uint8 on the working grid, aligned with each other.
        mask: (1, 1, D, H, W) uint8, 1 in the brain.
        lesion: (1, 1, D, H, W) uint8, 1 in the outlined lesion; all 0 where none is outlined.
        synthetic: Whether the contrasts were made from a label map.
    """

    name: str
    volumes: dict[str, Tensor]
    mask: Tensor
    lesion: Tensor
    synthetic: bool


def load_subjects(config: DataConfig, patients: tuple[str, ...], label_maps: tuple[str, ...] = ()) -> list[Subject]:
    """Conform patients and synthesise label maps, or read them from the cache.

    Raises:
        InputError: A folder holds fewer than two of the contrasts, or a file cannot be used.
    """
    subjects = []
    for name in (*patients, *label_maps):
        make = _from_label_map if name in label_maps else _from_patient
        subjects.append(_cached(config, name, make))
    if not subjects:
        raise InputError("there is nothing to train on", "list patients or label_maps in the [data] section")
    return subjects


def _cached(config: DataConfig, name: str, make) -> Subject:
    settings = asdict(config) | {"cache": "", "patients": (), "label_maps": (), "synthetic": 0, "root": "", "format": _FORMAT}
    key = hashlib.sha256(json.dumps([settings, name], sort_keys=True).encode()).hexdigest()[:12]
    path = Path(config.cache) / f"{Path(name).name.split('.')[0]}-{key}.safetensors"
    if path.exists():
        tensors = load_file(path)
        mask, lesion = tensors.pop("mask"), tensors.pop("lesion")
        return Subject(name, tensors, mask, lesion, make is _from_label_map)
    logger.info("conforming %s", name)
    subject = make(config, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        save_file({**subject.volumes, "mask": subject.mask, "lesion": subject.lesion}, partial)
    return subject


def _quantised(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


def _from_patient(config: DataConfig, name: str) -> Subject:
    folder = Path(config.root) / name
    found = {c: p for c in config.contrasts if (p := folder / f"{c}.nii.gz").exists()}
    if len(found) < 2:
        raise InputError(
            f"{folder} holds {len(found)} of the contrasts {', '.join(config.contrasts)}", "give a folder with at least two"
        )
    images = {c: load_image(p) for c, p in found.items()}
    first = next(iter(images))
    reference = conform(images[first], config.shape, config.spacing)
    volumes, mask = {first: reference.tensor}, reference.mask
    for contrast, image in images.items():
        if contrast == first:
            continue
        other = conform(image, config.shape, config.spacing, centre_mm=reference.grid.centre_mm)
        tensor = _aligned_along_z(reference.tensor, other.tensor) if config.realign else other.tensor
        volumes[contrast] = tensor
        mask = torch.maximum(mask, other.mask)
    lesion = torch.zeros_like(mask)
    outline = next((p for stem in _OUTLINES if (p := folder / f"{stem}.nii.gz").exists()), None)
    if outline is not None:
        labels = load_labels(outline)
        matrix = torch.from_numpy(reference.grid.index_to(labels.grid)).float()
        lesion = _sampled_affinely(torch.from_numpy((labels.data > 0).astype("float32")), matrix, config.shape) > 0.5
    quantised = {c: _quantised(v) for c, v in volumes.items()}
    return Subject(name, quantised, mask.to(torch.uint8), lesion.to(torch.uint8), False)


def _sampled_affinely(volume: Tensor, matrix: Tensor, shape: tuple[int, ...], mode: str = "linear") -> Tensor:
    """(D, H, W) at the voxels ``matrix`` (4, 4) maps a grid of ``shape`` to, (1, 1, d, h, w)."""
    positions = identity_positions(shape)
    source = torch.einsum("ij,bjdhw->bidhw", matrix[:3, :3], positions) + matrix[:3, 3].view(1, 3, 1, 1, 1)
    return warp(volume[None, None], source - positions, mode)


def _aligned_along_z(fixed: Tensor, moving: Tensor, reach: float = 2.5, step: float = 0.125) -> Tensor:
    """``moving`` shifted along the last axis to where the squared normalised gradient product is largest.

    Contrasts of one patient can differ by a slice or so; a field learned from them would inherit the offset.
    """
    best, shift = -math.inf, 0.0
    for k in range(-int(reach / step), int(reach / step) + 1):
        field = torch.zeros(1, 3, *fixed.shape[2:])
        field[:, 2] = k * step
        score = float(ngf_similarity(fixed, warp(moving, field), epsilon=0.03, squared=True))
        if score > best:
            best, shift = score, k * step
    if abs(shift) < 0.2:
        return moving
    logger.info("shifted by %.2f voxels along z", shift)
    field = torch.zeros(1, 3, *fixed.shape[2:])
    field[:, 2] = shift
    return warp(moving, field, "cubic").clamp(0, 1)


def _from_label_map(config: DataConfig, name: str) -> Subject:
    image = load_labels(Path(config.root) / name)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    generator = torch.Generator().manual_seed(seed)
    whole = torch.from_numpy(image.data.astype("int32"))
    stripped, mask = strip_labels(whole, float(image.grid.spacing.mean()))
    centre = image.grid.to_world(torch.nonzero(mask).double().mean(0).numpy())
    grid = Grid.centred(config.shape, config.spacing, centre)
    matrix = torch.from_numpy(grid.index_to(image.grid)).float()
    labels = _sampled_affinely(stripped, matrix, config.shape, "nearest")[0, 0].long()
    mask = (labels > 0)[None, None]
    anatomy = add_tumour(labels, generator, spacing_mm=config.spacing)
    lesion = ((anatomy == TUMOUR_CORE) | (anatomy == TUMOUR_OEDEMA))[None, None]
    volumes = {}
    for k in range(config.variants):
        modality = ("t1", "t2", "random", "random", "flair", "t1gd", "random", "random")[k % 8]
        volumes[f"{modality}-{k}"] = _quantised(synthesise(anatomy, modality, generator))
    return Subject(name, volumes, mask.to(torch.uint8), lesion.to(torch.uint8), True)


class PairDataset(Dataset):
    """An endless, seeded series of training pairs at half or full resolution: item ``i`` is always the same pair.

    Each item is a dict of ``fixed`` and ``moving`` (1, d, h, w) in [0, 1], ``field`` (3, d, h, w), the known pull-back
    displacement in voxels of that resolution, ``mask`` (1, d, h, w) the content of the fixed image, and ``regime`` (index).

    Args:
        subjects: From `load_subjects`.
        data, augmentation: How they are drawn and deformed.
        scale: 1 or 0.5.
        seed: Of all pairs.
        length: Number of items.
        complete: Whether items hold ``moving_true``, ``lesion`` and ``moving_lesion``, which only validation looks at.
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
    ) -> None:
        if scale == 1:
            subjects = [replace(s, mask=s.mask * 255, lesion=s.lesion * 255) for s in subjects]
        else:
            subjects = [_at_half_resolution(s) for s in subjects]
        self.real = [s for s in subjects if not s.synthetic]
        self.synthetic = [s for s in subjects if s.synthetic]
        self.data, self.augmentation, self.seed, self.length = data, augmentation, seed, length
        self.scale, self.complete = scale, complete
        self.shape = tuple(round(n * scale) for n in data.shape)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        subject, names = self._draw_subject(generator)
        augmentation = self.augmentation
        weights = torch.tensor(augmentation.weights)
        regime = int(torch.multinomial(weights, 1, generator=generator))
        config = list(augmentation.regimes.values())[regime]

        # fields are drawn at a quarter of the working grid: they are smooth, and this is where the time goes
        coarse = tuple(n // 4 for n in self.data.shape)
        mask = F.interpolate(subject.mask.float() / 255, size=coarse, mode="trilinear", align_corners=False)
        common = {"mask": mask, "keep_inside": False}  # content that leaves the volume is cut off, as in real scans
        anatomy = sample_deformation(coarse, augmentation.anatomy.scaled(0.25), generator, **common, polish=0, steps=4).forward
        common["mask"] = warp(mask, anatomy)
        pair = sample_deformation(coarse, config.scaled(0.25), generator, **common, polish=2, steps=5)
        anatomy, forward, inverse = (resize(f, self.shape) for f in (anatomy, pair.forward, pair.inverse))

        flip = float(torch.rand(1, generator=generator)) < augmentation.flip
        fixed = _sampled(subject.volumes[names[0]], anatomy, self.scale, flip)
        to_moving = compose(anatomy, inverse)
        moving = _sampled(subject.volumes[names[1]], to_moving, self.scale, flip)
        inside = _sampled(subject.mask, anatomy, self.scale, flip)
        fixed, moving = (
            degrade(i, i > 0, generator, augmentation.degradation * float(torch.rand(1, generator=generator)))
            for i in (fixed, moving)
        )
        item = {
            "fixed": fixed[0],
            "moving": moving[0],
            "field": forward[0],
            "mask": (inside[0] > 0.5).float(),
            "regime": torch.tensor(regime),
        }
        if self.complete:
            item["moving_true"] = _sampled(subject.volumes[names[1]], anatomy, self.scale, flip)[0]
            item["lesion"] = _sampled(subject.lesion, anatomy, self.scale, flip)[0]
            item["moving_lesion"] = _sampled(subject.lesion, to_moving, self.scale, flip)[0]
        return item

    def _draw_subject(self, generator: torch.Generator) -> tuple[Subject, list[str]]:
        synthetic = float(torch.rand(1, generator=generator)) < self.data.synthetic
        pool = (self.synthetic if synthetic else self.real) or self.real or self.synthetic
        subject = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        names = list(subject.volumes)
        weights = torch.tensor([self.data.contrasts.get(n.split("-")[0], 1.0) for n in names])
        drawn = torch.multinomial(weights, 2, generator=generator).tolist()
        return subject, [names[i] for i in drawn]


def _at_half_resolution(subject: Subject) -> Subject:
    volumes = {name: _averaged(volume) for name, volume in subject.volumes.items()}
    return replace(subject, volumes=volumes, mask=_averaged(subject.mask * 255), lesion=_averaged(subject.lesion * 255))


def _averaged(volume: Tensor) -> Tensor:
    """Means over 2³ voxels at every voxel (``i`` covers ``i`` and ``i + 1``), uint8: what T's first step makes of an image."""
    return F.avg_pool3d(F.pad(volume.float(), [0, 1] * 3, mode="replicate"), 2, stride=1).round().to(torch.uint8)


def _sampled(volume: Tensor, field: Tensor, scale: float, flip: bool) -> Tensor:
    """A uint8 volume at ``x + field(x)``, in [0, 1], at the field's resolution.

    At half resolution the volume is one of `_averaged`, still on the full grid, so that nothing is blurred twice.
    """
    image = volume.float() / 255
    if scale != 1:
        positions = identity_positions(tuple(field.shape[2:]))
        field = 2 * (positions + field) - positions  # voxel i of the halved grid is voxel 2 i of the averaged volume
    if flip:
        image = image.flip(2)
    return warp(image, field)
