"""A small pair with all that goes with it, and the ways in which each file is corrupted."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from deformgan.models.load import save_model
from deformgan.networks import build
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import itk

SHAPE = (24, 26, 22)
AFFINE = np.array([[4.0, 0, 0, -46], [0, 4, 0, -50], [0, 0, 4, -42], [0, 0, 0, 1]])
NETWORK = {"kind": "unet", "widths": [4, 8]}
WEIGHTS = {"network": NETWORK, "grid": {"shape": [16, 16, 16], "spacing": 8.0}}
CONFIG = 'name = "a"\n[network]\nkind = "unet"\nwidths = [4, 8]\n[loss]\nsimilarity = "lg"\n'

Corruption = Callable[[Path], object]


def anatomy() -> np.ndarray:
    """(D, H, W) float32: two nested balls off the middle, textured; 0 outside."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = sum((x - c) ** 2 for x, c in zip(axes, (0.1, -0.05, 0.0), strict=True)) ** 0.5
    noise = np.random.default_rng(1).normal(0, 0.02, SHAPE)
    return np.where(radius < 0.8, 0.4 + 0.4 * (radius < 0.45) + noise, 0).astype(np.float32)


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """A NIfTI file by nibabel alone."""
    nib.Nifti1Image(data, affine).to_filename(path)


def furnish(folder: Path) -> None:
    """A pair, labels, points, transforms, weights, settings of a training and results, all sound."""
    t1 = anatomy()
    write(folder / "fixed.nii.gz", np.where(t1 > 0, 1.2 - t1, 0).astype(np.float32))
    write(folder / "moving.nii.gz", np.roll(t1, 1, axis=0))
    write(folder / "labels.nii.gz", (t1 > 0.6).astype(np.int16))
    (folder / "points.csv").write_text("x,y,z\n1,2,3\n")
    itk.write_affine(folder / "affine.txt", np.eye(4))
    itk.write_displacement(folder / "warp.nii.gz", np.zeros((*SHAPE, 3), np.float32), Grid(SHAPE, AFFINE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        save_model(folder / "weights", build(NETWORK), WEIGHTS)
    (folder / "settings.toml").write_text(CONFIG)
    (folder / "results").mkdir()
    (folder / "results" / "registration.json").write_text("{}")


# -- anything --------------------------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    """it is not there"""
    path.unlink()


def a_folder(path: Path) -> None:
    """a folder"""
    path.unlink()
    path.mkdir()


def empty_file(path: Path) -> None:
    """an empty file"""
    path.write_bytes(b"")


def a_text(path: Path) -> None:
    """some other text"""
    path.write_bytes(b"these are not the voxels you are looking for" * 40)


def random_bytes(path: Path) -> None:
    """random bytes"""
    path.write_bytes(np.random.default_rng(3).bytes(4000))


def truncated(path: Path) -> None:
    """cut off in the middle"""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def a_pipe(path: Path) -> None:
    """a pipe that nobody writes into"""
    path.unlink()
    os.mkfifo(path)


def zeros_for_ever(path: Path) -> None:
    """a device (`/dev/zero`)"""
    path.unlink()
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    """a device (`/dev/null`)"""
    path.unlink()
    path.symlink_to("/dev/null")


def circle(path: Path) -> None:
    """a link to itself"""
    path.unlink()
    path.symlink_to(path.name)


def forbidden(path: Path) -> None:
    """no permission to read it"""
    path.chmod(0)


ANYTHING: tuple[Corruption, ...] = (
    *(missing, a_folder, empty_file, a_text, random_bytes, truncated, a_pipe, zeros_for_ever, nothing, circle),
    forbidden,
)

# -- images ----------------------------------------------------------------------------------------------------------


def dicom_folder(path: Path) -> None:
    """a folder of DICOM slices"""
    path.unlink()
    path.mkdir()
    (path / "IM0001.dcm").write_bytes(b"\0" * 128 + b"DICM")


def dicom_file(path: Path) -> None:
    """a DICOM file"""
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 400)


def gzip_of_text(path: Path) -> None:
    """gzipped, but no image inside"""
    path.write_bytes(gzip.compress(b"these are not the voxels you are looking for" * 40, mtime=0))


def flipped_bits(path: Path) -> None:
    """a byte changed in the middle"""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def bomb(path: Path) -> None:
    """a gzip whose header claims 3 GB, and which holds 4 MB"""
    raw = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), AFFINE).to_bytes()[:352])
    raw[40:56] = struct.pack("<8h", 3, 1200, 1200, 1200, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(raw) + bytes(1 << 22), mtime=0))


def huge(path: Path) -> None:
    """a header that claims 32000³ voxels"""
    raw = bytearray(nib.Nifti1Image(anatomy(), AFFINE).to_bytes())
    raw[40:56] = struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(raw), mtime=0))


def negative(path: Path) -> None:
    """a header that claims −5 voxels"""
    raw = bytearray(nib.Nifti1Image(anatomy(), AFFINE).to_bytes())
    raw[40:56] = struct.pack("<8h", 3, -5, 4, 4, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(raw), mtime=0))


def far_offset(path: Path) -> None:
    """a header that says the voxels start 10¹² bytes on"""
    raw = bytearray(nib.Nifti1Image(anatomy(), AFFINE).to_bytes())
    raw[108:112] = struct.pack("<f", 1e12)
    path.write_bytes(gzip.compress(bytes(raw), mtime=0))


def two_d(path: Path) -> None:
    """2-D"""
    write(path, anatomy()[:, :, 11])


def one_slice(path: Path) -> None:
    """one slice"""
    write(path, anatomy()[:, :, 11:12])


def one_voxel(path: Path) -> None:
    """one voxel"""
    write(path, anatomy()[12:13, 13:14, 11:12])


def four_d(path: Path) -> None:
    """4-D"""
    write(path, np.stack([anatomy(), anatomy()], -1))


def rgb(path: Path) -> None:
    """colours (RGB)"""
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    write(path, colour)


def complex_numbers(path: Path) -> None:
    """complex numbers"""
    write(path, anatomy().astype(np.complex64))


def all_zero(path: Path) -> None:
    """all zero"""
    write(path, np.zeros(SHAPE, np.float32))


def constant(path: Path) -> None:
    """constant"""
    write(path, np.full(SHAPE, 7, np.float32))


def nan(path: Path) -> None:
    """NaN in one voxel"""
    data = anatomy()
    data[3, 4, 5] = np.nan
    write(path, data)


def infinite(path: Path) -> None:
    """infinity in one voxel"""
    data = anatomy()
    data[3, 4, 5] = -np.inf
    write(path, data)


def too_large_numbers(path: Path) -> None:
    """64-bit numbers beyond 32-bit ones"""
    write(path, anatomy().astype(np.float64) * 1e300)


def _with_sform(path: Path, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(anatomy(), None)
    image.header["sform_code"] = 1
    for row, values in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
        image.header[row] = values
    raw = bytearray(image.to_bytes())
    # nibabel renews the header as it writes: ours once more
    raw[252:256] = struct.pack("<2h", 0, 1)
    raw[280:328] = np.asarray(affine[:3], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw), mtime=0))


def singular(path: Path) -> None:
    """a singular affine"""
    affine = AFFINE.copy()
    affine[:3, 2] = affine[:3, 1]
    _with_sform(path, affine)


def affine_of_nan(path: Path) -> None:
    """an affine that is not finite"""
    affine = AFFINE.copy()
    affine[0, 3] = np.nan
    _with_sform(path, affine)


def wide_voxels(path: Path) -> None:
    """voxels of 4 km"""
    _with_sform(path, np.diag([4e6, 4e6, 4e6, 1]))


def metres(path: Path) -> None:
    """voxels of 0.4 nm"""
    _with_sform(path, np.diag([4e-7, 4e-7, 4e-7, 1]))


def far_away(path: Path) -> None:
    """a metre away from the other"""
    affine = AFFINE.copy()
    affine[:3, 3] += 1000
    write(path, anatomy(), affine)


IMAGES: tuple[Corruption, ...] = (
    *ANYTHING,
    *(dicom_folder, dicom_file, gzip_of_text, flipped_bits, bomb, huge, negative, far_offset),
    *(two_d, one_slice, one_voxel, four_d, rgb, complex_numbers, all_zero, constant, nan, infinite, too_large_numbers),
    *(singular, affine_of_nan, wide_voxels, metres),
)

PLACES: tuple[Corruption, ...] = (far_away,)


def fractions(path: Path) -> None:
    """fractions"""
    write(path, anatomy())


LABELS: tuple[Corruption, ...] = (*ANYTHING, two_d, four_d, rgb, nan, fractions, huge, singular)

# -- transforms ------------------------------------------------------------------------------------------------------


def no_affine(path: Path) -> None:
    """an ITK transform of another kind"""
    text = path.read_text()
    path.write_text(text.replace("AffineTransform", "BSplineTransform"))


def singular_matrix(path: Path) -> None:
    """a singular matrix"""
    itk_text(path, "1 0 0 1 0 0 0 0 1 0 0 0")


def matrix_of_nan(path: Path) -> None:
    """a matrix that is not finite"""
    itk_text(path, "nan 0 0 0 1 0 0 0 1 0 0 0")


def far_matrix(path: Path) -> None:
    """a shift of 10¹² mm"""
    itk_text(path, "1 0 0 0 1 0 0 0 1 1e12 0 0")


def itk_text(path: Path, numbers: str) -> None:
    """An ITK text transform of these parameters."""
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    path.write_text(f"{head}Parameters: {numbers}\nFixedParameters: 0 0 0\n")


def long_text(path: Path) -> None:
    """2 MB of text"""
    path.write_text("#" * (2 << 20))


AFFINES: tuple[Corruption, ...] = (*ANYTHING, no_affine, singular_matrix, matrix_of_nan, far_matrix, long_text)


def an_image(path: Path) -> None:
    """an image in its place"""
    write(path, anatomy())


def field_of_nan(path: Path) -> None:
    """NaN in one displacement"""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[3, 4, 5, 1] = np.nan
    itk.write_displacement(path, field, Grid(SHAPE, AFFINE))


def far_field(path: Path) -> None:
    """a displacement of 10³⁰ mm"""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[3, 4, 5, 1] = 1e30
    itk.write_displacement(path, field, Grid(SHAPE, AFFINE))


def fsl_field(path: Path) -> None:
    """a field of FSL's that does not say so"""
    write(path, np.zeros((*SHAPE, 3), np.float32))


FIELDS: tuple[Corruption, ...] = (*ANYTHING, an_image, field_of_nan, far_field, fsl_field, huge)

# -- points, weights, settings, records ------------------------------------------------------------------------------


def _text(doc: str, text: str | bytes) -> Corruption:
    def corrupt(path: Path) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    corrupt.__doc__ = doc
    return corrupt


POINTS: tuple[Corruption, ...] = (
    *ANYTHING,
    _text("other columns", "a,b\n1,2\n"),
    _text("no lines below the header", "x,y,z\n"),
    _text("a word where a number should be", "x,y,z\n1,2,three\n"),
    _text("NaN", "x,y,z\n1,2,nan\n"),
    _text("a light year away", "x,y,z\n1,2,9.5e18\n"),
    _text("a line with too few cells", "x,y,z\n1,2\n"),
    _text("a cell of a million letters", "x,y,z\n" + "1" * 10**6 + ",2,3\n"),
    _text("another encoding (UTF-16)", "x,y,z\n1,2,3\n".encode("utf-16")),
)


def no_weights(folder: Path) -> None:
    """no `model.safetensors` in the folder"""
    (folder / "model.safetensors").unlink()


def half_weights(folder: Path) -> None:
    """weights cut off in the middle"""
    truncated(folder / "model.safetensors")


def pickled(folder: Path) -> None:
    """a pickle in place of the weights"""
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95" + b"cos\nsystem\n(S'echo'\ntR." * 9)


def long_header(folder: Path) -> None:
    """weights whose header claims 2⁶³ bytes"""
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + data[8:])


def _setting(doc: str, **network: object) -> Corruption:
    def corrupt(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({**WEIGHTS, "network": {**NETWORK, **network}}))

    corrupt.__doc__ = doc
    return corrupt


def _config(doc: str, text: str) -> Corruption:
    def corrupt(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    corrupt.__doc__ = doc
    return corrupt


MODELS: tuple[Corruption, ...] = (
    *(no_weights, half_weights, pickled, long_header),
    _config("a configuration that is no JSON", "{"),
    _config("a configuration nested 100 000 deep", "[" * 10**5),
    _config("a configuration with a key twice", '{"network": {}, "network": {}}'),
    _config("a configuration with NaN", '{"network": {"kind": "unet"}, "scale": NaN}'),
    _config("a configuration with a number of 5000 digits", '{"network": {"kind": ' + "9" * 5000 + "}}"),
    _setting("of another network", widths=[4, 16]),
    _setting("of a network of an unknown kind", kind="oracle"),
    _setting("of a network with a billion channels", widths=[10**9, 10**9]),
    _setting("of a version with another setting", attention=True),
)
SETTINGS: tuple[Corruption, ...] = (
    *(s for s in ANYTHING if s is not truncated),
    _text("an unknown setting", CONFIG.replace("name", "nmae", 1)),
    _text("a number as a word", 'steps = "many"\n' + CONFIG),
    _text("a number that is none", "learning_rate = nan\n" + CONFIG),
    _text("a number of 5000 digits", "steps = " + "9" * 5000 + "\n" + CONFIG),
    _text("lists 100 000 deep", "steps = " + "[" * 10**5),
    _text("a setting twice", CONFIG + CONFIG),
)
RECORDS: tuple[Corruption, ...] = (
    *(s for s in ANYTHING if s not in (truncated,)),
    _text("no JSON object", "[1]"),
    _text("lists 100 000 deep", "[" * 10**5),
    _text("another program's record", '{"quality": 1}'),
)
