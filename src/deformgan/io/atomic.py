"""Files on disk are whole or absent when written; how they are read is in `deformgan.io.untrusted`.

Gzip goes through ISA-L, several times faster than zlib at the sizes medical images have. Arrays keep the order NIfTI
stores (first axis fastest, Fortran order), so no volume is copied to transpose it.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from deformgan.errors import DeformganError, UsageError, unwritable
from deformgan.io.nifti_header import is_sheared

_CHUNK_BYTES = 4 << 20
_UNITS_MM_SECOND = 10
_WRITE_LEVEL = 1


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a hidden temporary path beside ``path``; it becomes ``path`` on success and vanishes on any failure.

    An existing ``path`` is replaced only at the very end, and survives a failure or an interruption.

    Raises:
        UsageError: the folder does not exist, or ``path`` is a folder.
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.parent} is not a folder", "create the folder first")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder", "name a file")
    # short whatever the name, and with the process's number, by which a killed one's is known for a left-over
    partial = path.with_name(f".deformgan-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        # a KeyboardInterrupt leaves nothing behind either
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, DeformganError):
            raise unwritable(path, error) from error
        raise


def open_to_append(path: str | Path) -> TextIO:
    """Open a text file to add lines to and read them; one that is no plain file is replaced, a link not followed.

    Raises:
        InputError: It cannot be written.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    path = Path(path)
    try:
        if path.is_symlink():
            path.unlink()
        # a file's name may be no UTF-8
        return open(path, "a+", encoding="utf-8", errors="backslashreplace", opener=opener)
    except OSError as error:
        raise unwritable(path, error) from error


def write_nifti(
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    intent: int = 0,
    sign: tuple[float, ...] | None = None,
    description: str = "",
) -> None:
    """Write an array as ``.nii`` or ``.nii.gz``, atomically and without a second copy of it.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        data: (D, H, W), or any NIfTI shape up to 7-D; quickest in Fortran order. Stored in its own dtype, but for
            those that `storable` changes.
        affine: 4×4 voxel index → world mm (RAS+); written as sform and qform, both with code 1 (scanner).
        intent: NIfTI intent code (1007: vector).
        sign: Factor for each index of the last axis, applied while writing.
        description: Up to 79 characters for the header.

    Raises:
        UsageError: another file ending, or the folder is missing.
        InputError: the folder is read-only or the disk is full.
    """
    data = storable(data)
    header = nifti_header(data.shape, data.dtype, affine)
    header["intent_code"] = intent
    header["descrip"] = description.encode()[:79]
    _write_nifti(path, header, fortran_chunks(data, sign))


def write_nifti_slices(
    path: str | Path, shape: tuple[int, int, int], affine: np.ndarray, slices: Iterable[np.ndarray]
) -> None:
    """`write_nifti` for a float32 volume of ``shape`` (D, H, W) that is never there as a whole.

    Args:
        slices: (n, H, D) float32, C-contiguous: the volume's slices along its last axis, a few at a time.
    """
    _write_nifti(path, nifti_header(shape, np.dtype(np.float32), affine), slices)


def _write_nifti(path: str | Path, header: Any, chunks: Iterable[np.ndarray]) -> None:
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"cannot write {path}: unknown ending", "use .nii or .nii.gz")
    write_stream(path, header_bytes(header), chunks)


def write_stream(path: str | Path, start: bytes, chunks: Iterable[np.ndarray]) -> None:
    """Write bytes and then C-contiguous arrays, atomically; gzipped where ``path`` ends in ``gz``."""
    path = Path(path)
    with atomic(path) as partial, open(partial, "wb") as raw:
        if path.name.endswith("gz"):
            from isal import igzip_threaded

            # the compression runs in its own threads, beside the caller's
            with igzip_threaded.open(raw, "wb", compresslevel=_WRITE_LEVEL, threads=_writer_threads()) as packed:
                _write_all(packed, start, chunks)
        else:
            _write_all(raw, start, chunks)


def storable(data: np.ndarray) -> np.ndarray:
    """``data`` in the machine's byte order, booleans as uint8 and 16-bit floats as 32-bit; most arrays as they are."""
    if data.dtype.kind == "b":
        return data.view(np.uint8)
    if data.dtype == np.float16:
        return data.astype(np.float32)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _writer_threads() -> int:
    from deformgan.spatial.native.threads import most_threads  # the user's --threads; it wants PyTorch

    return max(1, min(4, most_threads()))


def _write_all(file: Any, header: bytes, chunks: Iterable[np.ndarray]) -> None:
    file.write(header)
    for chunk in chunks:
        file.write(chunk.data.cast("B"))


def nifti_header(shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray) -> Any:
    """A nibabel header for unscaled data, mm and seconds: the affine as sform and, unless it is sheared, as qform."""
    import nibabel as nib

    # NIfTI-1 stores sizes in 16 bits
    header = (nib.Nifti1Header if max(shape) < 2**15 else nib.Nifti2Header)()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    # a qform knows no shear: one of another place would mislead those who take it first
    header.set_qform(affine, code=0 if is_sheared(affine, shape[:3]) else 1)  # type: ignore[arg-type]
    header.set_sform(affine, code=1)
    header["xyzt_units"] = _UNITS_MM_SECOND
    header["magic"] = header.single_magic
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = header.single_vox_offset
    return header


def header_bytes(header: Any) -> bytes:
    """What stands before the voxels of a NIfTI file with this header."""
    stream = io.BytesIO()
    header.write_to(stream)
    stream.write(b"\0" * (int(header["vox_offset"]) - stream.tell()))
    return stream.getvalue()


def fortran_chunks(data: np.ndarray, sign: tuple[float, ...] | None = None) -> Iterator[np.ndarray]:
    """The array's bytes in file order, a few MB at a time, each a C-contiguous array; ``sign`` as in `write_nifti`."""
    if sign is not None:
        for index, factor in enumerate(sign):
            for chunk in fortran_chunks(data[..., index], None):
                yield chunk if factor == 1 else chunk * chunk.dtype.type(factor)
        return
    transposed = data.T  # C order of this is the order of the file
    if transposed.flags.c_contiguous:
        flat = transposed.reshape(-1)
        step = max(1, _CHUNK_BYTES // data.itemsize)
        yield from (flat[i : i + step] for i in range(0, flat.size, step))
        return
    rows = max(1, _CHUNK_BYTES // max(1, transposed[0].nbytes))
    yield from (np.ascontiguousarray(transposed[i : i + rows]) for i in range(0, transposed.shape[0], rows))
