"""What is fuzzed: for each kind of file some valid ones, how they are spoilt, and the functions that read them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save

from deformgan.datasets.decathlon import read_decathlon
from deformgan.datasets.pairs import read_pairs
from deformgan.datasets.patients import Source, grid_of
from deformgan.evaluation.cases import read_meta
from deformgan.files import write_nifti
from deformgan.formats import exchange
from deformgan.formats.points import read_points
from deformgan.grid import Grid
from deformgan.image import Image, load_grid, load_image, load_labels
from deformgan.models import load_model
from deformgan.networks import build
from deformgan.report.rebuild import read_record
from deformgan.series import load_series
from deformgan.training.checkpoint import read_state
from deformgan.training.config import TrainingConfig, load_config
from deformgan.training.steps import LossWeights
from deformgan.transform import Transform, load_transform
from fuzz import mutations as m

SHAPE = (6, 5, 4)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 1.5, -7], [0, 3, 0, 11], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
LINEAR = np.array([[0.9, -0.2, 0.1, 3], [0.2, 1.1, 0, -4], [0, 0.1, 1, 5], [0, 0, 0, 1]])
NETWORK = {"kind": "unet", "widths": [4, 8]}
WEIGHTS = {"network": NETWORK, "grid": {"shape": [16, 16, 16], "spacing": 6.0}, "scale": 1, "training": {"steps": 1}}
_TRANSFORMS = ("CompositeTransform", "DisplacementFieldTransform", "AffineTransform", "Euler3DTransform", "Odd")
CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        share: How many of all inputs are of it, relative to the others.
        examples: Name a file has when it is read, and its valid contents.
        spoil: What is done to them.
        read: The functions under test; what they give back is checked for being sound.
    """

    share: int
    examples: list[tuple[str, bytes]]
    spoil: m.Mutation
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
    settings = [("c.toml", (CONFIGS / "t1-t2-finetune.toml").read_bytes())]
    return {
        "nifti": Kind(20, images, _nifti, _read_image),
        "gzip": Kind(20, [(f"{name}.gz", data) for name, data in images], m.gzipped(_nifti), _read_image),
        "field": Kind(8, list(_fields(folder)), _nifti, _read_transform),
        "other-image": Kind(8, list(_other_images(folder)), _whole_or_packed(_numbers_first), _read_other),
        "mgz": Kind(8, list(_saved(folder, "warp.mgh", "warp.mgz")), _whole_or_packed(_numbers_first), _read_transform),
        "h5": Kind(10, list(_saved(folder, "both.h5", "affine.h5")), _hdf5, _read_transform),
        "mat": Kind(4, list(_saved(folder, "a0GenericAffine.mat")), _numbers_first, _read_transform),
        "lta": Kind(4, list(_saved(folder, "affine.lta")), m.words, _read_transform),
        "itk-text": Kind(4, list(_saved(folder, "affine.txt")), m.words, _read_transform),
        "flirt": Kind(3, list(_saved(folder, "flirt.mat")), m.words, _read_transform),
        "csv": Kind(8, _tables(), m.words, _read_table),
        "json": Kind(10, _json(folder), m.tree, _read_json),
        "toml": Kind(4, settings, m.words, lambda p, _: load_config(p)),
        "weights": Kind(4, _weights(folder), _safetensors, lambda p, _: load_model(p.parent)),
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


# -- spoiling --------------------------------------------------------------------------------------------------------


def _layout() -> list[tuple[int, str]]:
    """Offset and code of the numbers in a NIfTI-1 header."""
    found = []
    for name, (dtype, at, *_) in nib.Nifti1Header.template_dtype.fields.items():
        base, shape = dtype.subdtype or (dtype, ())
        if base.kind in "iuf":
            weight = 3 if name in ("dim", "datatype", "bitpix", "vox_offset", "scl_slope", "srow_x", "pixdim") else 1
            for n in range(int(np.prod(shape))):
                found += [(at + n * base.itemsize, "<" + base.char)] * weight
    return found


_fields_of_nifti = m.fields(_layout(), 352)


def _nifti(data: bytes, rng: Random) -> bytes:
    return (_fields_of_nifti if rng.random() < 0.7 else m.whatever)(data, rng)


def _numbers_first(data: bytes, rng: Random) -> bytes:
    return m.numbers(data, rng, 300) if rng.random() < 0.5 else m.whatever(data, rng)


def _whole_or_packed(inner: m.Mutation) -> m.Mutation:
    packed = m.gzipped(inner)
    return lambda data, rng: (packed if rng.random() < 0.5 else inner)(data, rng)


def _safetensors(data: bytes, rng: Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = m.tree(data[8 : 8 + size], rng)
        length = len(header) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**64 - 1, size, 10**8))
        return length.to_bytes(8, "little") + header + data[8 + size :]
    return m.numbers(data, rng, size) if rng.random() < 0.3 else m.whatever(data, rng)


def _hdf5(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.6:
        return m.numbers(data, rng) if rng.random() < 0.5 else m.whatever(data, rng)
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=rng.choice(("earliest", "latest"))) as file:
        group = file.create_group(rng.choice(("TransformGroup",) * 9 + ("Other",)))
        for number in range(70 if rng.random() < 0.01 else rng.choice((1, 1, 2, 3))):
            one = group.require_group(str(number if rng.random() < 0.95 else rng.randrange(-2, 99)))
            text: Any = [rng.choice(_TRANSFORMS) + rng.choice(("_double_3_3", "_float_3_3", "_double_2_2", ""))]
            text = rng.choice((text, text, text, text[0], text * 3, [1.0], ["x" * 4000]))
            if rng.random() < 0.95 and "TransformType" not in one:
                one["TransformType"] = text
            _numbers_in(one, "TransformFixedParameters", rng, rng.choice((0, 3, 3, 4, 18, 18, 500)))
            name = rng.choice(("TransformParameters", "TranformParameters"))
            _numbers_in(one, name, rng, rng.choice((0, 6, 12, 360, 360, 9999)))
    whole = stream.getvalue()
    return m.whatever(whole, rng) if rng.random() < 0.2 else whole


def _numbers_in(group: Any, name: str, rng: Random, count: int) -> None:
    if rng.random() < 0.05:
        return
    values = np.array([rng.choice((0.0, 1.0, rng.uniform(-9, 9))) for _ in range(count)])
    if count == 18 and rng.random() < 0.8:
        values = np.concatenate([SHAPE, AFFINE[:3, 3], [1, 1, 1], np.eye(3).ravel()]).astype(float)
        values[rng.randrange(18)] = rng.choice((values[0], 0, -1, 1e9, 1e300, np.nan, np.inf, 0.5, 5))
    dtype = rng.choice(("f8", "f4", "f2", ">f8", "i4", "u1", "S9", "c16", "?"))
    if rng.random() < 0.7:
        dtype = "f8"
    how: dict[str, Any] = {}
    if count and rng.random() < 0.5:
        how = {"chunks": (rng.choice((1, 7, count)),), "compression": rng.choice((None, "gzip", "lzf"))}
        how |= {"shuffle": rng.random() < 0.3, "fletcher32": rng.random() < 0.3}
    shape = (count,) if rng.random() < 0.9 else rng.choice(((count, 1), (10**6,), (2**40,), ()))
    try:
        if shape == (count,):
            with np.errstate(all="ignore"):
                group.create_dataset(name, data=values.astype(dtype), **how)
        else:
            group.create_dataset(name, shape, dtype, **(how if len(shape) == 1 else {}))
    except (TypeError, ValueError, OverflowError):  # what h5py itself does not write
        return


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
        # both halves of a pair are there: the voxels behind whichever header was spoilt
        data = path.read_bytes()
        path.with_suffix(".hdr").write_bytes(data)
        path.with_suffix(".img").write_bytes(_anatomy("int16").tobytes(order="F"))
    return rng.choice((load_image, load_image, load_grid))(path)


def _read_transform(path: Path, rng: Random) -> Transform:
    file_format = rng.choice((None, None, "fsl")) if path.name.endswith(".nii") else None
    return load_transform(path, fixed=GRID, moving=GRID, file_format=file_format)


def _read_table(path: Path, rng: Random) -> Any:
    return read_points(path).positions_mm if path.name.startswith("points") else read_pairs(path)


def _read_json(path: Path, rng: Random) -> Any:
    read: dict[str, Callable[[Path], Any]] = {
        "config.json": load_model,
        "dataset.json": read_decathlon,
        "state.json": read_state,
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
