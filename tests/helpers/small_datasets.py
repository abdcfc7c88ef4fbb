"""Data sets of every layout, a few voxels a file, as their makers lay them out; and ways to corrupt a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (12, 14, 10)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2.0, -10], [0, 0, 0, 1.0]])
BRATS = ("t1", "t1ce", "t2", "flair", "seg")
BRATS_2023 = ("t1n", "t1c", "t2w", "t2f", "seg")
MODALITIES = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def volume(path: Path, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE, seed: int = 0) -> Path:
    """Noise, hard to pack, so that half a file is half an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
    image = nib.Nifti1Image(data, None)
    image.set_sform(affine, code=1)
    nib.save(image, path)
    return path


def brats(folder: Path, suffixes: Iterable[str] = BRATS, join: str = "_", ending: str = ".nii.gz") -> Path:
    """A case whose files are named after its folder."""
    for suffix in suffixes:
        volume(folder / f"{folder.name}{join}{suffix}{ending}")
    return folder


def plain(folder: Path, stems: Iterable[str] = ("t1", "t2")) -> Path:
    """A case whose files are named after their contrasts."""
    for stem in stems:
        volume(folder / f"{stem}.nii.gz")
    return folder


def decathlon(root: Path, names: Iterable[str] = ("BRATS_001", "BRATS_002"), channels: int = 4) -> Path:
    """4-D images, labels and the list of both, with the hidden files that the archive has."""
    names = [*names]
    for name in names:
        volume(root / "imagesTr" / f"{name}.nii.gz", (*SHAPE, channels))
        volume(root / "labelsTr" / f"{name}.nii.gz")
        (root / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"\0\5\x16\7" * 40)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    training.append({"image": f"./imagesTr/._{names[0]}.nii.gz", "label": f"./labelsTr/._{names[0]}.nii.gz"})
    write_list(root, training)
    return root


def write_list(root: Path, training: object, modality: object = MODALITIES) -> None:
    """``dataset.json`` in the Decathlon's form."""
    content = {"name": "BRATS", "tensorImageSize": "4D", "modality": modality, "training": training}
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def pairs(root: Path, *lines: str, header: str = "name,fixed,moving") -> Path:
    """A list of pairs, and the images a and b for it to name."""
    for stem in ("a", "b", "c"):
        volume(root / "images" / f"{stem}.nii.gz")
    (root / "pairs.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root / "pairs.csv"


def cut(path: Path, share: float = 0.5) -> None:
    """The rest of the file was never downloaded."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
