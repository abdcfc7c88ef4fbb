"""Reading untrusted files: what they claim is checked before memory is taken, and nothing in them is ever run.

Gzip goes through ISA-L, several times faster than zlib at the sizes medical images have. Arrays keep the order NIfTI
stores (first axis fastest, Fortran order), so no volume is copied to transpose it.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deformgan.errors import InputError
from deformgan.io import other_formats
from deformgan.spatial.native.cgroups import memory_bytes

MAX_VOXELS = 2**31
MAX_BYTES = 2**34  # of one file's voxels
MOST_TEXT = 1 << 20  # bytes of a file of settings or of a transform in words
GZIP_MAX_RATIO = 1032  # deflate cannot pack more than this: a larger claim is a lie or a truncated file
_MOST_WHOLE = 2**63
_CHUNK_BYTES = 4 << 20
_HEADER_HINT = "copy the file again, or repair its header"
_MOST_EXTENSIONS = 1 << 28  # bytes between header and voxels
_READ_ERRORS = (OSError, EOFError, ValueError, OverflowError)


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; a pipe would wait for ever, and a device never end.

    Raises:
        OSError: as `open`.
        InputError: it is neither a file nor a folder.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=opener)  # noqa: SIM115 — the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"{path} is a pipe or a device, not a file", "copy what it gives into a file and name that")
    return file


def read_small(path: str | os.PathLike[str], most_bytes: int = MOST_TEXT) -> bytes:
    """A regular file's contents.

    Raises:
        OSError: as `open`.
        ValueError: it is longer than ``most_bytes``.
        InputError: it is neither a file nor a folder.
    """
    with open_plain(path) as file:
        # no more than it holds: Python takes what it is asked to read before it reads
        data = file.read(min(most_bytes, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    return data


def parse_json(data: bytes | str) -> Any:
    """JSON (UTF-8, with or without a byte order mark) as it is defined, and no more than a program means by it.

    Raises:
        ValueError: not JSON, nested too deeply, a key that is there twice, or a number that is not finite
            or, if whole, has more than 64 bits.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise ValueError("a key is there twice")
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text[:20]} is no finite number")
        return value

    def whole(text: str) -> int:
        value = int(text)
        if not -_MOST_WHOLE <= value < _MOST_WHOLE:
            raise ValueError(f"{text[:20]}… is too large a number")
        return value

    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_int=whole, parse_constant=number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_nifti(path: str | Path, check: Callable[[Any], None] | None = None) -> tuple[np.ndarray, Any]:
    """Read ``.nii`` or ``.nii.gz``: the unscaled array in Fortran order and native byte order, and its nibabel header.

    What lies behind the voxels in the file is not read.

    Args:
        path: Of the file.
        check: Sees the header before memory is taken, and raises what speaks against it.

    Raises:
        InputError: the file is missing, is no NIfTI image, is truncated or damaged, or its header claims more voxels
            than the file can hold (found before memory is taken), than 2³¹, than 16 GiB or than the machine's memory.
    """
    with opened(path) as (stream, most_bytes):
        return _read_open(Path(path), stream, most_bytes, check)


def read_nifti_header(path: str | Path, *, whole: bool = False) -> Any:
    """The nibabel header alone of ``.nii`` or ``.nii.gz``; the voxels stay where they are.

    Args:
        path: Of the file.
        whole: Whether the file must hold the voxels too. A truncated one is told by its size, a gzip by the size in its
            last bytes; where that is another than the header claims, as in a gzip of several members, the stream is
            read to its end in passing.

    Raises:
        InputError: as `read_nifti`, but for what only the voxels show.
    """
    path = Path(path)
    with opened(path) as (stream, most_bytes):
        return _header_of_whole(path, stream, most_bytes) if whole else _read_header(path, stream)


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, int]]:
    """Yield a stream of a file's bytes, gunzipped if they are gzipped, and the most bytes it can hold.

    Raises:
        InputError: the file is missing, may not be read, or the block found it damaged: an ``OSError``, ``EOFError``,
            ``ValueError`` or ``OverflowError`` left it.
    """
    path = Path(path)
    if not os.path.exists(path):  # which, unlike pathlib, says so of names that no system has
        what = "is a link that leads nowhere" if os.path.islink(path) else "does not exist"
        raise InputError(f"{path} {what}", "check the path")
    if os.path.isdir(path):
        dicom = any(name.lower().endswith((".dcm", ".ima")) for name in os.listdir(path))
        hint = other_formats.DICOM if dicom else "name a .nii or .nii.gz file"
        raise InputError(f"{path} is a folder{' of DICOM files' if dicom else ''}, not an image", hint)
    try:
        with open_plain(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                yield raw, path.stat().st_size
                return
            from isal import igzip, igzip_lib

            try:
                with igzip.open(raw, "rb") as stream:
                    yield stream, path.stat().st_size * GZIP_MAX_RATIO
            except igzip_lib.IsalError as error:  # pyright: ignore[reportGeneralTypeIssues] — of a class of its own
                raise OSError(str(error)) from error
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(f"cannot read {path}: permission denied", "check its permissions") from error
        raise InputError(f"{path} is truncated or damaged: {error}", "copy or download the file again") from error


def _checked_header(path: Path, stream: Any, most_bytes: int) -> tuple[Any, int]:
    """The header and the bytes that it and the voxels take."""
    header = _read_header(path, stream)
    shape = tuple(int(n) for n in header.get_data_shape())
    size, offset = prod(shape), int(header["vox_offset"])
    if not shape or any(n < 1 for n in shape) or size > MAX_VOXELS:
        raise InputError(f"{path}: its header claims the impossible shape {shape}", _HEADER_HINT)
    if offset > _MOST_EXTENSIONS:
        raise InputError(f"{path}: its voxels start {offset} bytes behind its start", _HEADER_HINT)
    total = size * header.get_data_dtype().itemsize + max(offset, 0)
    if total <= most_bytes:  # else it is truncated, and that is said
        require_memory(path, total)
    if total > most_bytes:
        raise InputError(
            f"{path} is truncated: its header claims {shape} voxels, more than the file can hold",
            "copy or download the file again",
        )
    return header, total


def _header_of_whole(path: Path, stream: Any, most_bytes: int) -> Any:
    header, total = _checked_header(path, stream, most_bytes)
    if most_bytes == path.stat().st_size:  # not packed, and that is enough
        return header
    with open(path, "rb") as raw:
        raw.seek(-4, io.SEEK_END)
        claimed = int.from_bytes(raw.read(4), "little")
    if claimed != total % 2**32:
        while stream.tell() < total and stream.read(_CHUNK_BYTES):
            pass
        if stream.tell() < total:
            raise EOFError("the data end early")
    return header


def require_memory(path: str | Path, size: int) -> None:
    """Raise `InputError` where ``size`` bytes are more than `MAX_BYTES` or than this process may take."""
    most = min(MAX_BYTES, memory_bytes() or MAX_BYTES)
    if size > most:
        what = f"{path} would take {size / 2**30:.1f} GiB of memory, more than the {most / 2**30:.1f} it may"
        raise InputError(what, "give a smaller image, or check that its header is sound")


def _read_open(path: Path, stream: Any, most_bytes: int, check: Callable[[Any], None] | None) -> tuple[np.ndarray, Any]:
    header, _ = _checked_header(path, stream, most_bytes)
    if check is not None:
        check(header)
    dtype = header.get_data_dtype()
    skip = int(header["vox_offset"]) - stream.tell()
    while skip > 0:  # header extensions, nothing we use
        skipped = len(stream.read(min(skip, _CHUNK_BYTES)))
        if not skipped:
            raise EOFError("the data end early")
        skip -= skipped
    data = np.empty(tuple(int(n) for n in header.get_data_shape()), dtype, order="F")
    fill(data, stream)
    # reading on to the end of the stream is what checks a gzip's checksum
    stream.read(1)
    if not dtype.isnative:
        data = data.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return data, header


def fill(data: np.ndarray, stream: Any) -> None:
    """Read an array in Fortran order from a stream.

    Raises:
        EOFError: the stream ends early.
    """
    buffer = data.reshape(-1, order="F").view(np.uint8).data
    filled = 0
    while filled < len(buffer):
        got = stream.readinto(buffer[filled:])
        if not got:
            raise EOFError("the data end early")
        filled += got


def _read_header(path: Path, stream: Any) -> Any:
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    start = stream.read(4)
    length = {348: 348, 540: 540}
    size = length.get(int.from_bytes(start, "little")) or length.get(int.from_bytes(start, "big"))
    block = start + stream.read((size or 348) - 4)
    dicom = block[128:132] == b"DICM"
    hint = other_formats.DICOM if dicom else other_formats.hint(path)
    not_an_image = InputError(f"{path} is {'a DICOM file, ' if dicom else ''}not a NIfTI image", hint)
    if size is None:
        raise not_an_image
    if len(block) < size:
        raise EOFError("the header ends early")
    try:
        header = (nib.Nifti1Header if size == 348 else nib.Nifti2Header)(block, check=False)
        if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
            raise not_an_image
        axes = int(header["dim"][0])
        if 3 < axes <= 7:  # trailing axes of length 0 are taken for 1, as ITK and the NIfTI library do
            header["dim"][4 : axes + 1][header["dim"][4 : axes + 1] == 0] = 1
        header.get_data_dtype()
        header.get_data_shape()
    except (HeaderDataError, WrapStructError, KeyError) as error:
        raise not_an_image from error
    return header
