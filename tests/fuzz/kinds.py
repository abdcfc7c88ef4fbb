"""What is fuzzed: for each kind of file some valid ones, how they are corrupted, and the functions that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save

from deformgan.io.atomic import write_nifti
from deformgan.io.image import Image, load_grid, load_image, load_labels
from deformgan.io.points import read_points
from deformgan.io.time_series import load_series
from deformgan.models.load import load_model
from deformgan.networks import build
from deformgan.output.report.rebuild import read_record
from deformgan.spatial.grid import Grid
from deformgan.transforms.chain import chained, single
from deformgan.transforms.formats import exchange
from deformgan.transforms.transform import Transform, load_transform
from deformgan.workshop.datasets.decathlon import read_decathlon
from deformgan.workshop.datasets.pairs import read_pairs
from deformgan.workshop.datasets.patients import Source, grid_of
from deformgan.workshop.evaluation.cases import read_meta
from deformgan.workshop.training.checkpoint import read_state
from deformgan.workshop.training.config import TrainingConfig, load_config
from deformgan.workshop.training.objective import LossWeights
from fuzz import formats
from fuzz import mutations as m

SHAPE = formats.SHAPE
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 1.5, -7], [0, 3, 0, 11], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
LINEAR = np.array([[0.9, -0.2, 0.1, 3], [0.2, 1.1, 0, -4], [0, 0.1, 1, 5], [0, 0, 0, 1]])
NETWORK = {"kind": "unet", "widths": [4, 8]}
WEIGHTS = {"network": NETWORK, "grid": {"shape": [16, 16, 16], "spacing": 6.0}, "scale": 1, "training": {"steps": 1}}
CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        share: How many of all inputs are of it, relative to the others.
        examples: Name a file has when it is read, and its valid contents.
        corrupt: What is done to them.
        read: The functions under test; what they give back is checked for being sound.
    """

    share: int
    examples: list[tuple[str, bytes]]
    corrupt: m.Mutation
    read: Callable[[Path, Random], Any]


def sound(result: Any) -> None:
    """Raise `AssertionError` where a reader gave back what it promises never to.

    Images are finite and lie on a grid with an inverse, transforms are finite, points too.
    """
    if isinstance(result, Image):
        assert np.isfinite([result.data.min(), result.data.max()]).all(), "an image that is not finite"
        sound(result.grid)
    elif isinstance(result, Grid):
        assert min(result.shape) > 0, "a grid without voxels"
        assert np.isfinite(result.world_to_index).all(), "a grid without an inverse"
    elif isinstance(result, Transform):
        assert np.isfinite(result.affine).all(), "an affine map that is not finite"
        assert np.isfinite(np.linalg.inv(result.affine)).all(), "an affine map without an inverse"
        if result.disp_mm is not None:
            assert np.isfinite(result.disp_mm).all(), "a field that is not finite"
    elif isinstance(result, np.ndarray):
        assert np.isfinite(result).all(), "numbers that are not finite"


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds; ``folder`` is where examples are made and where readers that want a folder find the rest of it."""
    images = list(_images(folder))
    settings = [("c.toml", (CONFIGS / "t1-t2" / "2.toml").read_bytes())]
    binary = formats.whole_or_packed(formats.numbers_first)
    return {
        "nifti": Kind(20, images, formats.nifti, _read_image),
        "gzip": Kind(20, [(f"{name}.gz", data) for name, data in images], m.gzipped(formats.nifti), _read_image),
        "field": Kind(8, list(_fields(folder)), formats.nifti, _read_transform),
        "chain": Kind(6, [*_fields(folder)][:1], formats.wild_field, _read_chain),
        "name": Kind(3, _long_names(folder), m.whatever, _read_named),
        "other-image": Kind(8, list(_other_images(folder)), binary, _read_other),
        "mgz": Kind(
            8,
            list(_saved(folder, "warp.mgh", "warp.mgz")),
            formats.whole_or_packed(formats.numbers_first),
            _read_transform,
        ),
        "h5": Kind(10, list(_saved(folder, "both.h5", "affine.h5")), formats.hdf5, _read_transform),
        "mat": Kind(4, list(_saved(folder, "a0GenericAffine.mat")), formats.numbers_first, _read_transform),
        "lta": Kind(4, list(_saved(folder, "affine.lta")), m.words, _read_transform),
        "itk-text": Kind(4, list(_saved(folder, "affine.txt")), m.words, _read_transform),
        "flirt": Kind(3, list(_saved(folder, "flirt.mat")), m.words, _read_transform),
        "csv": Kind(8, _tables(), m.words, _read_table),
        "json": Kind(10, _json(folder), m.tree, _read_json),
        "toml": Kind(4, settings, m.words, lambda p, _: load_config(p)),
        "weights": Kind(4, _weights(folder), formats.safetensors, lambda p, _: load_model(p.parent)),
    }


# -- examples --------------------------------------------------------------------------------------------------------


def _anatomy(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(5).integers(0, 90, shape).astype(dtype))


def _images(folder: Path) -> Iterator[tuple[str, bytes]]:
    for number, (dtype, shape) in enumerate([("float32", SHAPE), ("int16", SHAPE), ("uint8", (*SHAPE, 3))]):
        path = folder / f"image{number}.nii"
        write_nifti(path, _anatomy(dtype, shape), AFFINE)
        yield "image.nii", path.read_bytes()
    yield "image.nii", nib.Nifti2Image(_anatomy(">f8"), AFFINE).to_bytes()
    scaled = nib.Nifti1Image(_anatomy("int16"), AFFINE)
    scaled.header.set_slope_inter(0.5, 3.0)
    scaled.set_sform(None, code=0)
    yield "image.nii", scaled.to_bytes()


def _other_images(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield "image.mgh", nib.MGHImage(_anatomy(">f4"), AFFINE).to_bytes()
    yield "image.mgz", nib.MGHImage(_anatomy("uint8"), AFFINE).to_bytes()
    for kind in (nib.Nifti1Pair, nib.AnalyzeImage, nib.Spm2AnalyzeImage):
        nib.save(kind(_anatomy("int16"), AFFINE), folder / "pair.img")
        yield "pair.hdr", (folder / "pair.hdr").read_bytes()
        yield "pair.img", (folder / "pair.hdr").read_bytes()  # the header's name is what nibabel goes by


def _field() -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(6).normal(0, 2, (*SHAPE, 3)).astype(np.float32))


def _fields(folder: Path) -> Iterator[tuple[str, bytes]]:
    transform = Transform(LINEAR, _field(), GRID)
    for file_format in ("itk", "fsl-relative", "fsl-absolute"):
        path = folder / "field.nii"
        transform.save(path, onto=GRID, moving=GRID, file_format=file_format)
        yield "field.nii", path.read_bytes()


def _long_names(folder: Path) -> list[tuple[str, bytes]]:
    images = [data for _, data in _images(folder)][:2]
    return [
        ("some.bin", data) for data in (*images, _tables()[0][1], *(data for _, data in _saved(folder, "affine.txt")))
    ]


def _saved(folder: Path, *names: str) -> Iterator[tuple[str, bytes]]:
    for name in names:
        path = folder / name
        transform = Transform(LINEAR, _field(), GRID) if name.startswith(("warp", "both")) else Transform(LINEAR)
        file_format = "fsl" if name.startswith("flirt") else None
        exchange.write(path, transform, file_format=file_format, onto=GRID, moving=GRID)
        data = path.read_bytes()
        if name.endswith(".mgz"):
            import gzip

            data = gzip.decompress(data)
        yield name, data


def _tables() -> list[tuple[str, bytes]]:
    return [
        ("points.csv", b'name,X,y,z\na,1.5,-2,3\n"b, c",4e1,5,6\n,0,0,0\n'),
        ("points.csv", b"\xef\xbb\xbfz,y,x\r\n1,2,3\r\n"),
        (
            "pairs.csv",
            b"name,fixed,moving,fixed_contrast,moving_contrast,outline\np1,a.nii,b.nii,t2,t1,\n",
        ),
    ]


def _json(folder: Path) -> list[tuple[str, bytes]]:
    modalities = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    cases = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("a", "b")]
    source = {"path": "fixed.nii.gz", "sha256": "0" * 64}
    quality = {"passed": True, "verdict": "look", "reasons": [], "doubts": ["odd"], "folding_percent": 0.1}
    record = {"quality": quality, "inputs": {"fixed": source, "moving": source}, "timings": {"total": 1.5}, "notes": []}
    record["affine"] = {"rotation_degrees": 1.0, "shift_mm": 2.0, "scales": [1, 1, 1]}
    meta = {"kind": "real", "regime": "small", "seed": 3, "subject": "s", "spacing_mm": 1.5, "tumour_labels": [1, 2]}
    made = {
        "config.json": WEIGHTS,
        "dataset.json": {"name": "BRATS", "modality": modalities, "labels": {"0": "background"}, "training": cases},
        "state.json": {
            "step": 5,
            "config": TrainingConfig("run", NETWORK, loss=LossWeights("none")).to_dict(),
        },
        "registration.json": record,
        "meta.json": meta,
    }
    (folder / "model.safetensors").write_bytes(_network())
    return [(name, json.dumps(value).encode()) for name, value in made.items()]


def _network() -> bytes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return save({k: v.contiguous() for k, v in build(NETWORK).state_dict().items()})


def _weights(folder: Path) -> list[tuple[str, bytes]]:
    # in a folder of its own: the kind before mutates the configuration
    return [("weights/model.safetensors", _network())]


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_image(path: Path, rng: Random) -> Any:
    readers: tuple[Callable[[Path], Any], ...] = (
        load_image,
        load_image,
        load_labels,
        load_grid,
        load_transform,
        lambda p: load_image(p, volume=1),
        lambda p: list(load_series(p)),
        lambda p: grid_of(Source(p)),
    )
    return rng.choice(readers)(path)


def _read_other(path: Path, rng: Random) -> Any:
    if path.name.startswith("pair"):
        # both halves of a pair are there: the voxels behind whichever header was corrupted
        data = path.read_bytes()
        path.with_suffix(".hdr").write_bytes(data)
        path.with_suffix(".img").write_bytes(_anatomy("int16").tobytes(order="F"))
    return rng.choice((load_image, load_image, load_grid))(path)


def _read_transform(path: Path, rng: Random) -> Transform:
    file_format = rng.choice((None, None, "fsl")) if path.name.endswith(".nii") else None
    return load_transform(path, fixed=GRID, moving=GRID, file_format=file_format)


def _read_chain(path: Path, rng: Random) -> np.ndarray:
    """Two or three maps in a row, some the other way round: points, an image, and one map of them all."""
    odd, plain = load_transform(path), Transform(LINEAR, _field(), GRID)
    maps = [odd.inverse() if rng.random() < 0.3 else odd, *([plain] * rng.choice((1, 1, 2)))]
    rng.shuffle(maps)
    whole = chained(maps)
    task = rng.randrange(4)
    if task == 0:
        return whole.map_points(GRID.to_world(np.array([[0.0, 0, 0], [2, 2, 1]])))
    if task == 1:
        return whole.apply(Image(_anatomy("float32"), GRID), GRID).data
    if task == 2:
        sound(single(whole))
        return single(whole).displacement(GRID)
    exchange.write(path.with_name("chain.h5"), whole)
    again = load_transform(path.with_name("chain.h5"))
    return again.map_points(GRID.to_world(np.zeros((1, 3))))


def _read_named(path: Path, rng: Random) -> Any:
    """A file whose name is long, odd, or both, for the readers that go by names."""
    readers: tuple[Callable[[Path], Any], ...] = (load_image, load_labels, load_transform, load_grid, read_points)
    name = "".join(
        rng.choice("aZ9 .-_,;[]%é\u200b\n'\"$") for _ in range(rng.choice((1, 30, 120, 180, 255, 260, 5000)))
    )
    ending = rng.choice((".nii", ".nii.gz", ".mat", ".txt", ".h5", ".csv", ".lta", ".mgz", ".nrrd", "", ",inverse"))
    odd = path.with_name(f"{name.strip('.') or 'x'}{ending}")
    with suppress(OSError, ValueError):  # where the system has no such name it is not there
        odd.write_bytes(path.read_bytes())
    try:
        return rng.choice(readers)(odd)
    finally:
        with suppress(OSError, ValueError):
            odd.unlink(missing_ok=True)


def _read_table(path: Path, rng: Random) -> Any:
    return read_points(path).positions_mm if path.name.startswith("points") else read_pairs(path)


def _read_json(path: Path, rng: Random) -> Any:
    read: dict[str, Callable[[Path], Any]] = {
        "config.json": load_model,
        "dataset.json": read_decathlon,
        "state.json": lambda folder: read_state(folder, TrainingConfig),
        "registration.json": read_record,
        "meta.json": read_meta,
    }
    if path.name == "config.json" and not (path.parent / "model.safetensors").exists():
        (path.parent / "model.safetensors").write_bytes(_network())
    return read[path.name](path.parent)


def prepare(folder: Path, name: str) -> Path:
    """Where a file of this name is put; what a reader needs beside it is there."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "weights/model.safetensors":
        (path.parent / "config.json").write_text(json.dumps(WEIGHTS))
    return path


def clean(folder: Path) -> None:
    """Remove what an input left."""
    shutil.rmtree(folder, ignore_errors=True)
