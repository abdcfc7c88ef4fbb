"""Training pairs kept on disk: runs that share data, as a comparison of losses does, make each pair once."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from deformgan.io.atomic import atomic
from deformgan.workshop.training.data import PairDataset

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise when the same settings would give other pairs
_IMAGES = ("fixed", "moving", "mask")


class KeptPairs(Dataset):
    """The items of a `PairDataset`, images rounded to 8 bits and fields to half precision, each made at its first use.

    An item is the same whether it was just made or read back.

    Args:
        pairs: Where items come from; it must not be `complete`.
        cache: Folder for them; a folder inside is named by what they depend on.
    """

    def __init__(self, pairs: PairDataset, cache: Path) -> None:
        if pairs.complete:
            raise ValueError("pairs for validation are not kept")
        self.pairs = pairs
        self.folder = Path(cache) / f"pairs-{_identity(pairs)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path = self.folder / f"{index:06d}.safetensors"
        if path.exists():
            try:
                return _unpacked(load_file(path))
            except (OSError, KeyError, SafetensorError) as error:
                logger.warning("%s is damaged and is made anew: %s", path, error)
        packed = _packed(self.pairs[index])
        with atomic(path) as partial:
            save_file(packed, partial)
        return _unpacked(packed)


def _packed(item: dict[str, Tensor]) -> dict[str, Tensor]:
    images = {name: (255 * item[name]).round().to(torch.uint8) for name in _IMAGES}
    return images | {"field": item["field"].half(), "regime": item["regime"]}


def _unpacked(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    images = {name: packed[name].float() / 255 for name in _IMAGES}
    return images | {"field": packed["field"].float(), "regime": packed["regime"]}


def _identity(pairs: PairDataset) -> str:
    """Hash of everything an item depends on but its number."""
    data = asdict(pairs.data) | {"cache": "", "root": "", "patients": (), "label_maps": ()}
    subjects = [
        (subject.name, {name: zlib.crc32(volume.numpy().tobytes()) for name, volume in subject.volumes.items()})
        for subject in (*pairs.real, *pairs.synthetic)
    ]
    settings = [_FORMAT, data, asdict(pairs.augmentation), pairs.scale, pairs.seed, subjects]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
