"""How files of formats with a structure of their own are corrupted."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from fuzz import mutations as m

SHAPE = (6, 5, 4)  # of the examples
_ODD = (float("nan"), float("inf"), -3.4e38, 1e30, 9e5, -9e5, 1e-42)
_TRANSFORMS = ("CompositeTransform", "DisplacementFieldTransform", "AffineTransform", "Euler3DTransform", "Odd")


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


def nifti(data: bytes, rng: Random) -> bytes:
    """Fields of its header, or bytes anywhere."""
    return (_fields_of_nifti if rng.random() < 0.7 else m.whatever)(data, rng)


def wild_field(data: bytes, rng: Random) -> bytes:
    """A field whose displacements are of any size, or whose voxels are, or lie anywhere; or as `nifti`."""
    if rng.random() < 0.4:
        return nifti(data, rng)
    image = nib.Nifti1Image.from_bytes(data)
    values, affine = np.asarray(image.dataobj, np.float32), image.affine.copy()
    with np.errstate(all="ignore"):
        for _ in range(rng.choice((1, 1, 2))):
            kind = rng.randrange(4)
            if kind == 0:
                values = (values * np.float32(10.0 ** rng.uniform(-40, 38))).astype(np.float32)
            elif kind == 1:
                affine[:3, :3] *= 10.0 ** rng.uniform(-9, 9)
            elif kind == 2:
                affine[:3, 3] += 10.0 ** rng.uniform(-3, 12) * rng.choice((-1, 1))
            else:
                values[tuple(rng.randrange(n) for n in values.shape)] = np.float32(rng.choice(_ODD))
        return nib.Nifti1Image(values, affine, image.header).to_bytes()


def numbers_first(data: bytes, rng: Random) -> bytes:
    """Numbers near the start, or bytes anywhere."""
    return m.numbers(data, rng, 300) if rng.random() < 0.5 else m.whatever(data, rng)


def whole_or_packed(inner: m.Mutation) -> m.Mutation:
    """As it is, or gzipped."""
    packed = m.gzipped(inner)
    return lambda data, rng: (packed if rng.random() < 0.5 else inner)(data, rng)


def safetensors(data: bytes, rng: Random) -> bytes:
    """The JSON in front, its length, or bytes anywhere."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = m.tree(data[8 : 8 + size], rng)
        length = len(header) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**64 - 1, size, 10**8))
        return length.to_bytes(8, "little") + header + data[8 + size :]
    return m.numbers(data, rng, size) if rng.random() < 0.3 else m.whatever(data, rng)


def hdf5(data: bytes, rng: Random) -> bytes:
    """Bytes anywhere, or another file altogether: sound HDF5, odd as a transform."""
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
        values = np.concatenate([SHAPE, [5, -7, 11], [1, 1, 1], np.eye(3).ravel()]).astype(float)
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
