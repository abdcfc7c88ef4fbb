"""The anatomies that training pairs are made from: patients and label maps, conformed once and cached."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deformgan.conform import conform
from deformgan.datasets.config import DataConfig
from deformgan.errors import InputError
from deformgan.field import identity_positions
from deformgan.files import atomic
from deformgan.grid import Grid
from deformgan.image import load_image, load_labels
from deformgan.losses.gradient import image_gradient
from deformgan.simulation.contrasts import TUMOUR_CORE, TUMOUR_OEDEMA, strip_labels, synthesise
from deformgan.simulation.tumour import add_tumour
from deformgan.warp import warp

logger = logging.getLogger(__name__)

_OUTLINES = ("seg", "lesion")  # file stems of an expert's or an algorithm's outline
_FORMAT = 2  # raise when the cached images would come out differently


@dataclass(frozen=True)
class Subject:
    """One anatomy seen in several contrasts.

    Args:
        name: Of the folder or file it came from.
        volumes: Contrast → (1, 1, D, H, W) uint8 on the working grid, aligned with each other; in order of name.
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


def _cached(config: DataConfig, name: str, make: Callable[[DataConfig, str], Subject]) -> Subject:
    settings = asdict(config) | {
        "cache": "",
        "patients": (),
        "label_maps": (),
        "contrasts": [*config.contrasts],  # their order counts (the others are aligned to the first), not their weights
        "synthetic": 0,
        "root": "",
        "format": _FORMAT,
    }
    key = hashlib.sha256(json.dumps([settings, name], sort_keys=True).encode()).hexdigest()[:12]
    path = Path(config.cache) / f"{Path(name).name.split('.')[0]}-{key}.safetensors"
    if path.exists():
        try:
            return _read_cache(path, config, name, make is _from_label_map)
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged and is made anew: %s", path, error)
    logger.info("conforming %s", name)
    subject = make(config, name)
    # as the cache gives them back: pairs are drawn by position
    subject = replace(subject, volumes=dict(sorted(subject.volumes.items())))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        save_file({**subject.volumes, "mask": subject.mask, "lesion": subject.lesion}, partial)
    return subject


def _read_cache(path: Path, config: DataConfig, name: str, synthetic: bool) -> Subject:
    tensors = load_file(path)
    if any(t.shape != (1, 1, *config.shape) or t.dtype != torch.uint8 for t in tensors.values()):
        raise ValueError("not 8-bit images on the working grid")
    mask, lesion = tensors.pop("mask"), tensors.pop("lesion")
    if len(tensors) < 2:
        raise ValueError("fewer than two images")
    return Subject(name, dict(sorted(tensors.items())), mask, lesion, synthetic)


def _quantised(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


def _from_patient(config: DataConfig, name: str) -> Subject:
    folder = Path(config.root) / name
    found = {c: p for c in config.contrasts if (p := folder / f"{c}.nii.gz").exists()}
    if len(found) < 2:
        raise InputError(
            f"{folder} holds {len(found)} of the contrasts {', '.join(config.contrasts)}",
            "give a folder with at least two",
        )
    images = {c: load_image(p) for c, p in found.items()}
    first = next(iter(images))
    reference = conform(images[first], config.shape, config.spacing)
    volumes, mask = {first: reference.tensor}, reference.mask
    for contrast, image in images.items():
        if contrast == first:
            continue
        other = conform(image, grid=reference.grid)
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
    shift = _best_shift(fixed, moving, reach, step)
    if abs(shift) < 0.2:
        return moving
    logger.info("shifted by %.2f voxels along z", shift)
    field = torch.zeros(1, 3, *fixed.shape[2:])
    field[:, 2] = shift
    return warp(moving, field, "cubic").clamp(0, 1)


def _best_shift(fixed: Tensor, moving: Tensor, reach: float, step: float, epsilon: float = 0.03) -> float:
    """The shift along the last axis that maximises `ngf_similarity`, squared, of ``fixed`` and the shifted ``moving``.

    Between whole shifts the sampled image, and with it its gradient, is a mean of two: no image is sampled here, and
    products of gradients are taken once for each whole shift.
    """
    depth, margin = fixed.shape[-1], math.ceil(reach) + 1
    normal = image_gradient(fixed)[0]
    normal /= (normal.square().sum(0) + epsilon**2).sqrt()
    gradient = image_gradient(F.pad(moving, [margin, margin]))[0]
    squared = gradient.square().sum(0)
    mixed = (gradient[..., :-1] * gradient[..., 1:]).sum(0)
    at = [slice(k, k + depth) for k in range(2 * margin)]
    dots = [(normal * gradient[..., window]).sum(0) for window in at]
    scores = {}
    for k in range(-int(reach / step), int(reach / step) + 1):
        whole, part = divmod(k * step, 1)
        here = margin + int(whole)
        lower, upper = at[here], at[here + 1]
        dot = torch.lerp(dots[here], dots[here + 1], part)
        length = (1 - part) ** 2 * squared[..., lower] + 2 * part * (1 - part) * mixed[..., lower]
        length += part**2 * squared[..., upper] + epsilon**2
        scores[k * step] = float(dot.square_().div_(length).sum())
    return max(scores, key=scores.__getitem__)


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
    try:
        anatomy = add_tumour(labels, generator, spacing_mm=config.spacing)
    except ValueError as error:
        raise InputError(f"{name} is no label map of a brain: {error}", "its labels are to be FreeSurfer's") from error
    lesion = ((anatomy == TUMOUR_CORE) | (anatomy == TUMOUR_OEDEMA))[None, None]
    volumes = {}
    for k in range(config.variants):
        cycle = config.direction or ("t1", "t2", "random", "random", "flair", "t1gd", "random", "random")
        modality = cycle[k % len(cycle)]
        volumes[f"{modality}-{k}"] = _quantised(synthesise(anatomy, modality, generator))
    return Subject(name, volumes, mask.to(torch.uint8), lesion.to(torch.uint8), True)
