"""How many threads to compute with: no more than this process may use, nor than others leave free.

Threads that share a core with another program's wait for each other at the end of every step, so one thread too many
costs far more than one too few.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from deformgan.spatial.native.cgroups import MEMBERSHIP, ROOT, folders

Found = TypeVar("Found")
_SMALL = 1 << 15  # numbers below which waking another thread costs more than it gains
_SHORTEST = 0.2  # seconds over which others' use of the cores can be told
_KERNELS: ContextVar[int | None] = ContextVar("threads of the kernels", default=None)  # None: as many as PyTorch


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for everything inside: thousands of small operations lose more at barriers than they win."""
    with _threads(1, 1):
        yield


@contextmanager
def kernels_first() -> Iterator[None]:
    """PyTorch on one thread inside, the kernels on as many as before, where PyTorch's threads would be in their way.

    These go on turning for a while after each operation, in case there is another, on the cores that the kernels need;
    so work that is mostly done by kernels is faster without them. Nothing changes where there are no kernels, nor where
    threads that wait sleep, as in the command (``GOMP_SPINCOUNT=0``).
    """
    from deformgan.spatial.native.use import usable

    most = most_threads()
    with _threads(1 if os.environ.get("GOMP_SPINCOUNT") != "0" and usable() else most, most):
        yield


@contextmanager
def pytorch_too() -> Iterator[None]:
    """Inside `kernels_first`: PyTorch on as many threads again, for what it does alone."""
    most = most_threads()
    with _threads(most, most):
        yield


@contextmanager
def _threads(pytorch: int, kernels: int) -> Iterator[None]:
    import torch

    before, token = torch.get_num_threads(), _KERNELS.set(kernels)
    torch.set_num_threads(pytorch)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _KERNELS.reset(token)


def most_threads() -> int:
    """On how many threads anything may compute."""
    import torch

    return _KERNELS.get() or torch.get_num_threads()


def beside(call: Callable[[], Found]) -> Callable[[], Found]:
    """Begin something on a thread of its own; what is returned waits for its result, or raises what it raised.

    Where there is one thread nothing goes on beside another: the work is then done when it is first asked for.
    """
    import torch

    if most_threads() == 1:
        return cache(call)
    # a thread begins with the number that was set last, on whatever thread that was
    pool = ThreadPoolExecutor(1, "beside", torch.set_num_threads, (torch.get_num_threads(),))
    job = pool.submit(copy_context().run, call)
    pool.shutdown(wait=False)
    return job.result


def native_threads(size: int) -> int:
    """As many as there may be, one for work on few numbers."""
    return 1 if size < _SMALL else most_threads()


def available_cpus() -> int:
    """Cores this process may use: those it may run on, or fewer where a control group (a container) has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(ROOT, MEMBERSHIP)
    return cores if quota is None else max(1, min(cores, math.ceil(quota - 0.25)))


def _quota(root: Path, membership: Path) -> float | None:
    """The least number of cores that a control group of this process, or one above it, allows; None without a limit."""
    found = [_limit_in(folder) for folder in folders("cpu", root, membership)]
    return min((limit for limit in found if limit), default=None)


def _limit_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip() for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Usage:
    """What went on up to a moment.

    Args:
        at: The moment, seconds.
        busy: Processor seconds that anybody took of the cores this process may run on; those of patient programs
            (``nice``) are left out, since they make room.
        own: What this process took of it.
    """

    at: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> Usage | None:
        """The present one; None where the system does not tell."""
        try:
            lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
            allowed, ticks = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
            busy = sum(_busy_ticks(line) for line in lines if _core_of(line) in allowed) / ticks
        except (OSError, ValueError, AttributeError):
            return None
        return cls(time.monotonic(), busy, time.process_time())


def _core_of(line: str) -> int | None:
    name = line.split(" ", 1)[0].removeprefix("cpu")
    return int(name) if line.startswith("cpu") and name.isdecimal() else None


def _busy_ticks(line: str) -> int:
    """User, system, interrupts and what the host took, of a line of ``/proc/stat``; neither ``nice`` nor idle."""
    numbers = [int(text) for text in line.split()[1:9]]
    return sum(number for place, number in enumerate(numbers) if place in (0, 2, 5, 6, 7))


def free_cpus(before: Usage | None, after: Usage | None) -> int:
    """Whole cores that other programs left to this one between two moments, at least 1; all where nothing is known."""
    most = available_cpus()
    if before is None or after is None or after.at - before.at < _SHORTEST:
        return most
    others = (after.busy - before.busy - (after.own - before.own)) / (after.at - before.at)
    return max(1, min(most, round(most - others)))


def _one_thread_in_a_fork() -> None:
    """PyTorch's threads are not there in a forked child, which would wait for them for ever."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_in_a_fork)
