"""What a control group (a container, a scheduler's job) lets this process take of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # version 1 says a number like this for none


def folders(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Where the limits of this process's groups, and of those above them, may be read.

    Args:
        controller: ``cpu`` or ``memory``.
        root: Where control groups are mounted.
        membership: The file that names this process's groups.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        own = root / controllers / path.strip("/")
        # in a container the path may be the host's, and only the root is there
        for folder in {root / controllers, root, own, *own.parents}:
            if folder.is_relative_to(root):
                yield folder


def memory_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The least number of bytes that a control group of this process, or one above it, allows; None without a limit."""
    found = [limit for folder in folders("memory", root, membership) if (limit := _memory_in(folder)) is not None]
    return min(found, default=None)


def memory_bytes() -> int | None:
    """Memory that this process may take: the machine's, or less where a control group says so; None if unknown."""
    known = [memory_limit()]
    if hasattr(os, "sysconf"):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((one for one in known if one is not None), default=None)


def _memory_in(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            limit = int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max" is no number, and no limit
            continue
        return limit if 0 < limit < _NO_LIMIT else None
    return None
