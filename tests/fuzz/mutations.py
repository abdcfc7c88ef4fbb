"""How a valid file becomes an invalid one, or one that is valid and absurd."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_WHOLE = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)
_REAL = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"), 2.0**53)
_SIZES = "bBhHiIqQ"
_WORDS = (
    *("nan", "inf", "-inf", "1e999", "-1e400", "1e-400", "1e30", "-1e9", "0", "-0", "1", "-1", "", " ", "x", "0x10"),
    *(
        "1_0",
        "٣",
        "1,5",
        "9" * 400,
        "9" * 5000,
        "-",
        "+",
        ".",
        "e",
        "\0",
        "\x1b[2J",
        "é",
        "\ufeff",
        "'",
        '"',
        "\\",
        "#",
    ),
    *(
        "../../../etc/passwd",
        "/dev/zero",
        "true",
        "null",
        "[]",
        "{}",
        "=",
        ":",
        "a" * 3000,
        "\n",
        "\r",
        "\t",
        "2 2",
        "1 4 4",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        64,
        10**4,
        10**9,
        -(10**9),
        10**18,
        10**400,
        0.5,
        -0.5,
        1e-300,
        1e300,
        "",
        "x",
    ),
    *([], {}, [[]], [1], [0, 0, 0], [10**9] * 3, [1, 2, 3, 4], ["a"], {"a": 1}, "../../x", "/dev/zero", "a" * 2000),
    *("\0", "\x1b[2J", "\n", float("nan"), float("inf"), [None] * 300, {"kind": "unet"}, "generator", "pyramid"),
)


def bits(data: bytes, rng: Random) -> bytes:
    """Some bits flipped."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncated(data: bytes, rng: Random) -> bytes:
    """The end cut off, anywhere or just so."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 16))))]


def grown(data: bytes, rng: Random) -> bytes:
    """Something behind the end, or the file twice."""
    return data + rng.choice((b"\0" * 64, rng.randbytes(rng.randrange(1, 200)), data))


def spliced(data: bytes, rng: Random) -> bytes:
    """A piece taken out, doubled, emptied, or put somewhere else."""
    if not data:
        return data
    a, b, c = (rng.randrange(len(data) + 1) for _ in range(3))
    start, stop = sorted((a, min(b, a + 4096)))
    piece = data[start:stop]
    kind = rng.randrange(4)
    if kind == 0:
        return data[:start] + data[stop:]
    if kind == 1:
        return data[:stop] + piece + data[stop:]
    if kind == 2:
        return data[:start] + rng.choice((b"\0", b"\xff")) * len(piece) + data[stop:]
    return data[:c] + piece + data[c + len(piece) :]


def numbers(data: bytes, rng: Random, within: int = 0) -> bytes:
    """Extreme numbers, of any size and byte order, at places where numbers are aligned.

    Args:
        within: The first bytes alone; 0: anywhere.
    """
    out = bytearray(data)
    end = min(within or len(out), len(out))
    for _ in range(rng.choice((1, 1, 2, 4))):
        order = rng.choice("<>")
        if rng.random() < 0.5:
            code = rng.choice(_SIZES)
            size = struct.calcsize(code)
            value = rng.choice(_WHOLE) % (1 << 8 * size)
            packed = value.to_bytes(size, "little" if order == "<" else "big")
        else:
            code = rng.choice("fd")
            packed = struct.pack(order + code, rng.choice(_REAL))
        at = rng.randrange(0, max(1, end), 2)
        out[at : at + len(packed)] = packed
    return bytes(out)


def whatever(data: bytes, rng: Random) -> bytes:
    """Any of the above, once or several times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((bits, truncated, grown, spliced, numbers))(data, rng)
    return data


def fields(layout: Sequence[tuple[int, str]], length: int) -> Mutation:
    """A mutation of a header's fields.

    Args:
        layout: Offset and `struct` code, with its byte order, of each number in the header.
        length: Of the header in bytes; a third of the results are mutated as bytes there.
    """

    def change(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.33:
            return numbers(data, rng, length)
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            at, code = rng.choice(layout)
            size = struct.calcsize(code)
            if code[-1] in "fd":
                packed = struct.pack(code, rng.choice(_REAL))
            else:
                whole = rng.choice((*_WHOLE, rng.randrange(64), rng.randrange(3000))) % (1 << 8 * size)
                packed = whole.to_bytes(size, "big" if code[0] == ">" else "little")
            out[at : at + size] = packed
        return bytes(out)

    return change


def gzipped(inner: Mutation) -> Mutation:
    """Packed: what is inside is mutated, or the packed stream, or the way it is packed."""

    def change(data: bytes, rng: Random) -> bytes:
        kind = rng.randrange(6)
        if kind < 3:
            return packed(inner(data, rng))
        whole = packed(data)
        if kind == 3:
            return whatever(whole, rng)
        if kind == 4:  # several members, of which the later may be anything
            cut = rng.randrange(len(data) + 1)
            return packed(data[:cut]) + rng.choice((packed(data[cut:]), whatever(packed(data[cut:]), rng), b"\0" * 9))
        flags = bytearray(whole)
        flags[rng.randrange(10)] = rng.randrange(256)
        return bytes(flags)

    return change


def packed(data: bytes) -> bytes:
    """Gzipped, without a time in the header."""
    deflate = zlib.compressobj(1, wbits=31)
    return deflate.compress(data) + deflate.flush()


def words(data: bytes, rng: Random) -> bytes:
    """Text whose words or lines are changed, or which is mutated as bytes."""
    if rng.random() < 0.25:
        return whatever(data, rng)
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.6:
            spots = [match.span() for match in re.finditer(r"[^\s,:=\[\]{}\"]+", text)]
            if spots:
                start, stop = rng.choice(spots)
                text = text[:start] + rng.choice(_WORDS) + text[stop:]
        else:
            lines = text.splitlines(keepends=True) or [""]
            at = rng.randrange(len(lines))
            times = rng.choice((0, 2, min(500, 200_000 // (len(lines[at]) + 1))))
            line = rng.choice((lines[at] * times, lines[at].rstrip("\n"), "\n", ",,,\n"))
            lines[at] = rng.choice((line, rng.choice(lines)))
            text = "".join(lines)
    return text.encode("utf-8", "replace")


def tree(data: bytes, rng: Random) -> bytes:
    """JSON of which a branch is another value, is missing, is there twice, or is very deep."""
    if rng.random() < 0.2:
        return words(data, rng)
    root = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        root = _changed(root, rng)
    text = json.dumps(root)
    kind = rng.randrange(12)
    if kind == 0:
        depth = rng.choice((10, 1000, 20000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        text = text.replace(
            rng.choice(re.findall(r"\d+|null", text) or ["0"]), opening * depth + "1" + closing * depth, 1
        )
    elif kind == 1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + ", " + text[1:]
    return text.encode("utf-8", "replace")


def _changed(root: Any, rng: Random) -> Any:
    node, path = root, []
    while isinstance(node, (dict, list)) and node and (not path or rng.random() < 0.75):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if not path or rng.random() < 0.01:
        return rng.choice(_VALUES)
    parent, key = path[-1]
    if rng.random() < 0.15:
        del parent[key]
    else:
        parent[key] = json.loads(json.dumps(rng.choice(_VALUES)))
    return root
