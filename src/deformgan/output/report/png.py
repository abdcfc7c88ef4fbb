"""PNG files from arrays, without an imaging library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from isal import isal_zlib

_COLOUR_TYPE = {1: 0, 3: 2}  # grey, RGB


def encode(pixels: np.ndarray) -> bytes:
    """A PNG of (rows, columns) grey or (rows, columns, 3) RGB values, uint8.

    Raises:
        ValueError: Another dtype or shape.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in _COLOUR_TYPE:
        raise ValueError(f"no PNG is made of {pixels.dtype} {pixels.shape}")
    rows, columns = pixels.shape[:2]
    # filter 2, the difference to the row above, suits smooth pictures
    flat = np.ascontiguousarray(pixels).reshape(rows, columns * channels)
    filtered = np.empty((rows, 1 + columns * channels), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = flat[0]
    filtered[1:, 1:] = flat[1:] - flat[:-1]
    header = struct.pack(">IIBBBBB", columns, rows, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    body = isal_zlib.compress(filtered.tobytes(), 3)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def data_url(pixels: np.ndarray) -> str:
    """`encode` as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
