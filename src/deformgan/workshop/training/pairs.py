"""Training pairs made once: kept on disk for runs that share data, or held in memory and drawn again and again."""

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
from deformgan.workshop.simulation.draws import choice
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


class HeldPairs(Dataset):
    """A limited number of pairs, each made at its first use and held, as `KeptPairs` keeps them, where it was made.

    Item ``i`` is the ``i``-th pair while there is one, and then any of them; it is always the same.

    Args:
        pairs: As many as there are.
        length: Number of items.
        seed: Of what is drawn.
    """

    def __init__(self, pairs: PairDataset, length: int, seed: int) -> None:
        self.pairs, self.length, self.seed = pairs, length, seed
        self._held: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= len(self.pairs):
            index = choice(torch.Generator().manual_seed(self.seed * 1_000_003 + index), len(self.pairs))
        if index not in self._held:
            self._held[index] = _packed(self.pairs[index])
        return _unpacked(self._held[index])


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
