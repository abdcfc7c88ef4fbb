"""Places that do not take what is written (a full disk, a quota, a read-only folder), and two that write to one."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torture.harness import damage
from torture.victims import Victim, prepare, start

QUOTAS = (0, 1_000, 20_000)
DISKS_KIB = (8, 24)


@dataclass
class Conditions:
    """What came of it: how often each was tried, and what should not have been."""

    tried: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{', '.join(f'{name} {n}' for name, n in self.tried.items())}, {len(self.broken)} broken"


def conditions(home: Path) -> Conditions:
    """Try them all; a full disk and one that is read-only need the right to mount."""
    found = Conditions()
    for name, victim in prepare(home, all_of_them=False).items():
        for most in QUOTAS:
            _quota(home, name, victim, most, found)
        for size in DISKS_KIB:
            with _disk(home / "work", f"size={size}k") as mounted:
                if mounted:
                    _refused(home, f"{name} on a disk of {size} KiB", victim, found, "a full disk")
        with _disk(home / "work", "ro") as mounted:
            if mounted:
                _refused(home, f"{name} on a read-only disk", victim, found, "a read-only disk")
        _two(home, name, victim, found)
    return found


def _quota(home: Path, name: str, victim: Victim, most: int, found: Conditions) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    with _empty(home / "work"):
        # what it says goes to a pipe, which has no size
        _refused(home, f"{name} with files of {most} bytes at most", victim, found, "a quota", limit)


def _refused(home: Path, what: str, victim: Victim, found: Conditions, kind: str, first: object = None) -> None:
    """Either all of it is written, or nothing, and why is said in one line."""
    found.tried[kind] += 1
    code, said = start(home, victim.words, fork=True, first=first).end()  # type: ignore[arg-type]
    work = home / "work"
    left = {str(one.relative_to(work)) for one in work.rglob("*") if one.is_file()}
    if code not in (0, 3, 4):
        found.broken.append(f"{what}: exit {code}: {said[-600:]}")
    if left != (set(victim.names) if code != 3 else set()):
        found.broken.append(f"{what}: exit {code} and {sorted(left)} is left")
    if code == 3 and said and "cannot write" not in said:
        found.broken.append(f"{what}: it says {said[-300:]}")
    found.broken += [f"{what}: {one}: {why}" for one in left if (why := damage(work / one)) is not None]


def _two(home: Path, name: str, victim: Victim, found: Conditions) -> None:
    """Two at once into one new place: one gets it, the other is told; with --force either set is whole."""
    for force in (False, True):
        with _empty(home / "work"):
            found.tried["two writers"] += 1
            pair = [start(home, victim.again(force), fork=True) for _ in range(2)]
            ends = [run.end() for run in pair]
            codes = sorted(code for code, _ in ends)
            what = f"{name} twice at once{' --force' if force else ''}: exits {codes}"
            # one after the other, where the second began when the first had ended, is refused alike
            if not (codes[0] in (0, 4) or codes[1] == 4) or (not force and 2 not in codes) or set(codes) - {0, 2, 4}:
                found.broken.append(f"{what}: {[said[-300:] for _, said in ends]}")
            work = home / "work"
            left = {str(one.relative_to(work)) for one in work.rglob("*") if one.is_file()}
            if left != set(victim.names):
                found.broken.append(f"{what}: {sorted(left)} is left")
            found.broken += [f"{what}: {one}: {why}" for one in left if (why := damage(work / one)) is not None]


@contextmanager
def _empty(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield


@contextmanager
def _disk(folder: Path, how: str) -> Iterator[bool]:
    """A small disk in memory; False where it may not be mounted."""
    with _empty(folder):
        command = ["mount", "-t", "tmpfs", "-o", how, "none", os.fspath(folder)]
        mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
        try:
            yield mounted
        finally:
            if mounted:
                subprocess.run(["umount", os.fspath(folder)], check=True)
