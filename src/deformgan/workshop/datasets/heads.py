"""Whole-head label maps as S is taught with them: read once, kept in the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deformgan.errors import InputError
from deformgan.io.image import load_labels
from deformgan.spatial.grid import Grid
from deformgan.workshop.datasets.cache import fingerprints, look_up, store
from deformgan.workshop.datasets.patients import Source
from deformgan.workshop.simulation.contrasts import depth, strip_labels
from deformgan.workshop.simulation.head_scans import REACH_MM, LabelMap

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise when the cached maps would come out differently


def load_label_maps(root: Path, names: Sequence[str], cache: Path) -> list[LabelMap]:
    """Label maps by their paths below ``root``, from the cache where they are in it.

    Raises:
        InputError: A file cannot be read, or shows no brain.
    """
    return [LabelMap(**_cached(root / name, cache, f"{i} of {len(names)}")) for i, name in enumerate(names, 1)]


def _cached(path: Path, cache: Path, number: str) -> dict[str, Tensor]:
    key = hashlib.sha256(f"{_FORMAT} {path.name}".encode()).hexdigest()[:12]
    kept = cache / f"{path.name.split('.')[0]}-head-{key}.safetensors"
    sources = {"labels": Source(path)}
    tensors = look_up(kept, sources)
    if tensors is None:
        logger.info("preparing %s (%s)", path, number)
        made_from = fingerprints(sources)
        tensors = _prepared(path)
        kept.parent.mkdir(parents=True, exist_ok=True)
        store(kept, tensors, made_from)
    return tensors


def _prepared(path: Path) -> dict[str, Tensor]:
    image = load_labels(path)
    labels = _at_one_millimetre(image.data.astype(np.int32), image.grid)
    if not labels.any():
        raise InputError(f"{path} is empty: every voxel is 0", "give a label map of a whole head")
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(labels))
    labels = labels[box]
    try:
        _, mask = strip_labels(torch.from_numpy(labels))
    except ValueError as error:
        raise InputError(f"{path} is no label map of a head: {error}", "its ids are to be FreeSurfer's") from error
    inside = mask.numpy()
    distance = np.clip(depth(~inside) - depth(inside), -REACH_MM, REACH_MM).astype(np.int8)
    ids, index = np.unique(np.append(labels, 0), return_inverse=True)
    if len(ids) > 256 or ids[0] < 0:
        raise InputError(f"{path} has {len(ids)} different ids, or negative ones", "give a label map of a whole head")
    centre = [(at.min() + at.max()) / 2 for at in np.nonzero(inside)]
    arrays = {
        "index": index[:-1].reshape(labels.shape).astype(np.uint8),
        "ids": ids.astype(np.int32),
        "distance": distance,
        "centre": np.array(centre, np.float32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _at_one_millimetre(labels: np.ndarray, grid: Grid) -> np.ndarray:
    """Nearest neighbours on voxels of 1 mm along the world axes (RAS+)."""
    world = grid.corners_mm()
    low, high = world.min(0), world.max(0)
    shape = tuple(max(1, round(n)) for n in high - low)
    to_labels = Grid.centred(shape, 1.0, (low + high) / 2).index_to(grid)  # type: ignore[arg-type]
    return ndimage.affine_transform(labels, to_labels, output_shape=shape, order=0)
