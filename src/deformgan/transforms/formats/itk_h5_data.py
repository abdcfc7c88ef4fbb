"""What is in an untrusted HDF5 file: links are not followed, and nothing is unpacked before its size is known.

HDF5's own library is not made for damaged files. What it loops over for ever or takes any memory for, texts of variable
length and packed chunks that claim to be small, it is not given: the first are read here, the second checked here.
"""

from __future__ import annotations

import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.io.untrusted import GZIP_MAX_RATIO, open_plain, require_memory

_HINT = "give a .h5 file as ITK and ANTs write it"
_MOST_LETTERS = 128
_SMALL_CHUNK = 1 << 20  # bytes that a chunk may have whatever the size of its data set
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3  # HDF5's numbers of its filters
_CHECKSUM = 4  # bytes
_REFERENCE = struct.Struct("<IQI")  # to a text: its length, where its heap is, its number there
_HEAP = struct.Struct("<4sB3xQ")  # "GCOL", version, size
_OBJECT = struct.Struct("<HHIQ")  # number, references, nothing, size
_MOST_HEAP = 1 << 20  # bytes; HDF5 starts a new one after 4096


def member(group: Any, name: str, kind: type, path: Path, h5py: Any) -> Any:
    """A member of a group that lies in this very file, or None."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path} links to another place ({name})", _HINT)
    found = group[name]
    return found if isinstance(found, kind) else None


def text(group: Any, name: str, path: Path, h5py: Any) -> str:
    """The one text of a data set, at most 128 letters; empty where there is none.

    Raises:
        InputError: it is longer, elsewhere, or the file is damaged.
    """
    data = member(group, name, h5py.Dataset, path, h5py)
    if data is None or (kind := h5py.check_string_dtype(data.dtype)) is None:
        return ""
    _require_here(data, name, path)
    if data.size != 1 or (kind.length or 0) > _MOST_LETTERS:
        raise InputError(f"{path} is damaged: {name} is not one short text", "write it again")
    if kind.length is not None:
        _check_chunks(data, kind.length, path)
        found = np.asarray(data[()]).ravel()[0]
    else:
        found = _heap_text(data, path)
    return found.rstrip(b"\0").decode("ascii", "replace")


def _heap_text(data: Any, path: Path) -> bytes:
    """A text of variable length, of the global heap that the data set refers to."""
    damaged = InputError(f"{path} is damaged: a text is not where it should be", "write it again")
    plan = data.file.id.get_create_plist()
    at = data.id.get_offset()
    if at is None or plan.get_userblock() or plan.get_sizes() != (8, 8):
        raise InputError(f"{path} keeps its texts in another way than ITK", _HINT)
    with open_plain(path) as file:
        file.seek(at)
        try:
            length, address, wanted = _REFERENCE.unpack(file.read(_REFERENCE.size))
            file.seek(min(address, path.stat().st_size))
            signature, version, size = _HEAP.unpack(file.read(_HEAP.size))
            heap = file.read(min(size, _MOST_HEAP))
            if (signature, version) != (b"GCOL", 1) or length > _MOST_LETTERS:
                raise damaged
            at = 0
            while True:
                number, _, _, size = _OBJECT.unpack_from(heap, at)
                at += _OBJECT.size
                if number == wanted and number:
                    if size < length:
                        raise damaged
                    return heap[at : at + length]
                at += (size + 7) // 8 * 8
        except struct.error as error:  # the end came first
            raise damaged from error


def numbers(group: Any, names: tuple[str, ...], path: Path, h5py: Any, *, most: int) -> np.ndarray:
    """A data set's contents, checked before memory is taken; empty where there is none (an identity has none).

    Args:
        names: What it may be called.
        most: Numbers that it may hold.

    Raises:
        InputError: it is larger, in another file, of another type, or packed into what unpacks to more than it claims.
    """
    for name in names:
        data = member(group, name, h5py.Dataset, path, h5py)
        if data is None:
            continue
        _require_here(data, name, path)
        if data.dtype.kind not in "fiu":
            raise InputError(f"{path} keeps {name} in no numbers", _HINT)
        if data.shape is None or data.size > most:
            raise InputError(
                f"{path} is damaged: {data.size} numbers in {name}, at most {most} expected", "write it again"
            )
        size = data.size * data.dtype.itemsize
        if size > data.id.get_storage_size() * GZIP_MAX_RATIO:
            raise InputError(f"{path} is truncated: {name} claims more than the file holds", "write it again")
        require_memory(path, size)
        _check_chunks(data, size, path)
        return np.asarray(data[()])
    return np.zeros(0)


def _require_here(data: Any, name: str, path: Path) -> None:
    if data.is_virtual or data.external:
        raise InputError(f"{path} keeps {name} in another file", _HINT)


def _check_chunks(data: Any, size: int, path: Path) -> None:
    """Refuse chunks that unpack to more than they claim: HDF5 itself would follow them to any size."""
    if data.chunks is None:
        return
    claimed = prod(data.chunks) * data.dtype.itemsize
    if claimed > max(2 * size, _SMALL_CHUNK):
        raise InputError(f"{path} is damaged: it has chunks larger than their data", "write it again")
    packing = data.id.get_create_plist()
    filters = [packing.get_filter(n)[0] for n in range(packing.get_nfilters())]
    if not set(filters) <= {_DEFLATE, _SHUFFLE, _FLETCHER} or len(set(filters)) < len(filters):
        raise InputError(f"{path} is packed in another way than ITK's", "write it with gzip or unpacked")
    if _DEFLATE not in filters:
        return
    deflate_bit = 1 << filters.index(_DEFLATE)
    for number in range(data.id.get_num_chunks()):
        chunk = data.id.get_chunk_info(number)
        if chunk.filter_mask & deflate_bit:  # left as it was by a writer to whom packing was no gain
            continue
        _, packed = data.id.read_direct_chunk(chunk.chunk_offset)
        try:
            unpacked = zlib.decompressobj().decompress(packed, claimed + _CHECKSUM + 1)
        except zlib.error as error:
            raise InputError(f"{path} is damaged: {error}", "write it again") from error
        if len(unpacked) > claimed + _CHECKSUM:
            raise InputError(f"{path} is damaged: a chunk holds more than it claims", "write it again")
