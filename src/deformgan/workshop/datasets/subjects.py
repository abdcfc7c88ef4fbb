"""The anatomies that training pairs are made from: patients and label maps, conformed once and cached."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.errors import InputError
from deformgan.io.image import load_image, load_labels
from deformgan.losses.gradient import image_gradient
from deformgan.preprocess.conform import conform
from deformgan.spatial.field import identity_positions
from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.cache import fingerprints, look_up, store
from deformgan.workshop.datasets.choice import LACKING_HINT, lacking, named_patients
from deformgan.workshop.datasets.config import DataConfig
from deformgan.workshop.datasets.patients import OUTLINE, Patient, Source
from deformgan.workshop.simulation.contrasts import TUMOUR_CORE, TUMOUR_OEDEMA, strip_labels, synthesise
from deformgan.workshop.simulation.tumour import add_tumour

logger = logging.getLogger(__name__)

_FORMAT = 3  # raise when the cached images would come out differently


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


def load_subjects(
    config: DataConfig, patients: Sequence[str | Patient], label_maps: Sequence[str] = ()
) -> list[Subject]:
    """Conform patients and synthesise label maps, or read them from the cache.

    Args:
        config: Says how, and where they are looked for.
        patients: From `find_patients`, or the names of folders or of patients in ``config.root``.
        label_maps: Files below it.

    Returns:
        A subject for each, in order. One of `find_patients` that turns out not to be usable is logged as a warning and
        left out; what was named is wanted, and an error.

    Raises:
        InputError: Somebody who was named has fewer than two of the contrasts or a file that cannot be used, or nobody
            is left.
    """
    named = iter(named_patients(config, [p for p in patients if isinstance(p, str)]))
    total = len(patients) + len(label_maps)
    subjects = []
    for number, patient in enumerate(patients, 1):
        one = patient if isinstance(patient, Patient) else next(named)
        sources = {role: s for role, s in one.sources.items() if role in config.contrasts or role == OUTLINE}
        try:
            make = partial(_from_patient, config, one)
            subjects.append(_cached(config, one.name, sources, False, make, f"{number} of {total}"))
        except _UnusableError as error:
            if isinstance(patient, str):
                raise
            logger.warning("%s is left out: %s", one.name, error)
    for number, name in enumerate(label_maps, len(patients) + 1):
        sources = {"labels": Source(_folder(config) / name)}
        make = partial(_from_label_map, config, name)
        subjects.append(_cached(config, name, sources, True, make, f"{number} of {total}"))
    if patients and not any(not s.synthetic for s in subjects):
        raise InputError(f"none of {len(patients)} patients can be used", "see what is said of each above")
    if not subjects:
        raise InputError("there is nothing to train on", "list patients or label_maps in the [data] section")
    return subjects


class _UnusableError(InputError):
    """A subject's files are to blame, not the place where the cache lies."""


def _cached(
    config: DataConfig,
    name: str,
    sources: Mapping[str, Source],
    synthetic: bool,
    make: Callable[[], Subject],
    number: str,
) -> Subject:
    settings = {
        "contrasts": [*config.contrasts],  # their order counts (the others are aligned to the first), not their weights
        "direction": config.direction,
        "variants": config.variants,
        "realign": config.realign,
        "shape": config.shape,
        "spacing": config.spacing,
        "synthetic": synthetic,
        "format": _FORMAT,
    }
    key = hashlib.sha256(json.dumps([settings, name], sort_keys=True).encode()).hexdigest()[:12]
    path = Path(config.cache) / f"{Path(name).name.split('.')[0]}-{key}.safetensors"
    tensors = look_up(path, sources)
    if tensors is None:
        if sources:  # else there is nothing to conform, and `make` says so
            logger.info("conforming %s (%s)", name, number)
        try:
            made_from = fingerprints(sources)
            subject = make()
        except InputError as error:
            raise _UnusableError(str(error.args[0]), error.hint) from error
        tensors = {**subject.volumes, "mask": subject.mask, "lesion": subject.lesion}
        path.parent.mkdir(parents=True, exist_ok=True)
        store(path, tensors, made_from)
    mask, lesion = tensors.pop("mask"), tensors.pop("lesion")
    # in order of name, as read from a file or just made: pairs are drawn by position
    return Subject(name, dict(sorted(tensors.items())), mask, lesion, synthetic)


def _folder(config: DataConfig) -> Path:
    root = Path(config.root)
    return root.parent if root.is_file() else root  # a CSV file of pairs


def _quantised(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


def _from_patient(config: DataConfig, patient: Patient) -> Subject:
    if reason := lacking(config, patient):
        hint = LACKING_HINT if patient.images else "check the name, or name no patients to use all that are found"
        raise InputError(f"{Path(config.root) / patient.name} {reason}", hint)
    found = {c: patient.images[c] for c in config.contrasts if c in patient.images}
    images = {c: load_image(s.path, volume=s.volume) for c, s in found.items()}
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
    if patient.outline is not None:
        labels = load_labels(patient.outline.path)
        matrix = torch.from_numpy(reference.grid.index_to(labels.grid)).float()
        lesion = _sampled_affinely(torch.from_numpy((labels.data > 0).astype("float32")), matrix, config.shape) > 0.5
    quantised = {c: _quantised(v) for c, v in volumes.items()}
    return Subject(patient.name, quantised, mask.to(torch.uint8), lesion.to(torch.uint8), False)


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
    image = load_labels(_folder(config) / name)
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
