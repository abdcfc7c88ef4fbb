"""What is in an HDF5 file of a stranger: links are not followed, and nothing is unpacked before its size is known."""

from __future__ import annotations

import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.reading import GZIP_MAX_RATIO, require_memory

_MEND = "give a .h5 file as ITK and ANTs write it"
_MOST_LETTERS = 128
_SMALL_CHUNK = 1 << 20  # bytes that a chunk may have whatever the size of its data set
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3  # HDF5's numbers of its filters
_CHECKSUM = 4  # bytes


def member(group: Any, name: str, kind: type, path: Path, h5py: Any) -> Any:
    """A member of a group that lies in this very file, or None."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path} links to another place ({name})", _MEND)
    found = group[name]
    return found if isinstance(found, kind) else None


def numbers(group: Any, names: tuple[str, ...], path: Path, h5py: Any, *, most: int) -> np.ndarray:
    """A data set's contents, checked before memory is taken; empty where there is none (an identity has none).

    Args:
        names: What it may be called.
        most: Numbers, or texts, that it may hold.

    Raises:
        InputError: it is larger, in another file, of another type, or packed into what unpacks to more than it claims.
    """
    for name in names:
        data = member(group, name, h5py.Dataset, path, h5py)
        if data is None:
            continue
        text = h5py.check_string_dtype(data.dtype)
        if data.is_virtual or data.external or not (text is not None or data.dtype.kind in "fiu"):
            raise InputError(f"{path} keeps {name} in another file or in no numbers", _MEND)
        if data.shape is None or data.size > most or (text is not None and (text.length or 0) > _MOST_LETTERS):
            raise InputError(
                f"{path} is damaged: {data.size} numbers in {name}, at most {most} expected", "write it again"
            )
        size = data.size * data.dtype.itemsize
        if text is None and size > data.id.get_storage_size() * GZIP_MAX_RATIO:
            raise InputError(f"{path} is truncated: {name} claims more than the file holds", "write it again")
        require_memory(path, size)
        _check_chunks(data, size, path)
        return np.asarray(data[()])
    return np.zeros(0)


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
