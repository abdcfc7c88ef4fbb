"""Who works where: one cohort a folder, one worker a pair; a lock goes with the process that holds it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deformgan.errors import UsageError

_POLL_SECONDS = 0.2


def _take(descriptor: int, *, shared: bool = False) -> bool:
    """Whether the lock could be had; it is never waited for."""
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def only_one(folder: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Keep every other cohort out of a folder; shards of one cohort let each other in.

    Raises:
        UsageError: Another is at work there.
    """
    names = ["lock"] if shard is None else ["lock", f"lock-{shard[0]}-of-{shard[1]}"]
    with _opened(folder / names[0]) as whole, _opened(folder / names[-1]) as part:
        free = _take(whole, shared=shard is not None) and (shard is None or _take(part))
        mine = whole if shard is None else part
        if not free:
            raise UsageError(
                f"another cohort works in {folder.parent}{_who(mine) or _who(whole)}",
                "wait for it, or give another output folder",
            )
        who = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(mine, 0)
        os.pwrite(mine, json.dumps(who).encode(), 0)
        yield


def _who(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        return f" (process {who['process']} on {who['host']}, since {who['since']})"
    except (ValueError, KeyError, TypeError):
        return ""


@contextmanager
def claim(path: Path, run: str) -> Iterator[int]:
    """Hold a pair, so that nobody else works on it, and yield how many workers have died of it in this run.

    Waits while another worker has it. The file holds the runs in which the pair was begun and not ended; it goes when
    the block ends, and stays when the process dies.
    """
    while True:
        with _opened(path) as descriptor:
            if not _take(descriptor):
                time.sleep(_POLL_SECONDS)
                continue
            if not _is_still(descriptor, path):  # its last holder has removed it meanwhile
                continue
            begun = os.pread(descriptor, 1 << 16, 0).decode("utf-8", "replace").split()
            os.pwrite(descriptor, f"{run}\n".encode(), os.fstat(descriptor).st_size)
            try:
                yield begun.count(run)
            finally:
                path.unlink(missing_ok=True)
            return


def is_held(path: Path) -> bool:
    """Whether a living worker has the pair of this file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
