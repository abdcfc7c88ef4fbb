"""The workers: of this machine, as many as it can carry, or those of a scheduler somewhere else."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deformgan.errors import InputError, UsageError

if TYPE_CHECKING:
    from distributed import Client

BYTES_A_WORKER = 3 * 10**9  # a pair of whole heads of 1 mm stays below
SHARE_OF_MEMORY = 0.9
PATIENCE_SECONDS = 15.0
_ADDRESS = re.compile(r"((tcp|tls|ucx|ws|wss)://)?([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")
_OFTEN_BLAMED = 20  # dask also blames pairs that only waited in a queue; claims count for themselves
_LOCAL = {
    # one pair is one task: there is nothing to spill, and a pause would never end
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.scheduler.allowed-failures": _OFTEN_BLAMED,
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.timeouts.connect": "60s",
}

# the next pair needs as much: glibc keeps it, a twentieth of the time is spared
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}


@dataclass(frozen=True, kw_only=True)
class Local:
    """Workers on this machine.

    Attributes:
        workers: Processes that take pairs.
        threads: Threads with which each computes.
        memory_bytes: What each may ask for.
        scratch: Folder for what they keep for a while; None for the system's.
    """

    workers: int
    threads: int
    memory_bytes: int
    scratch: Path | None = None

    @classmethod
    def fitting(
        cls, pairs: int, workers: int | None, threads: int, memory_bytes: int | None, scratch: Path | None = None
    ) -> Local:
        """As asked for, the rest from the machine: its cores and memory, or what a container leaves of them.

        Raises:
            UsageError: Less than one worker or thread.
        """
        from dask.system import CPU_COUNT
        from distributed.system import MEMORY_LIMIT

        for name, value in (("--workers", workers), ("--threads-per-worker", threads)):
            if value is not None and value < 1:
                raise UsageError(f"{name} {value} is less than 1", "leave it out for what fits this machine")
        usable = int(MEMORY_LIMIT * SHARE_OF_MEMORY)
        by_memory = max(1, usable // (memory_bytes or BYTES_A_WORKER))
        number = workers or max(1, min(CPU_COUNT // threads, by_memory, pairs))
        return cls(workers=number, threads=threads, memory_bytes=memory_bytes or usable // number, scratch=scratch)


@contextmanager
def workers_of(where: Local | str) -> Iterator[Client]:
    """A client of workers on this machine, or of the scheduler at an address; local workers end with the block.

    Raises:
        InputError: Nobody answers at the address.
    """
    if isinstance(where, str):
        with _remote(where) as client:
            yield client
        return
    from dask.config import set as configured
    from distributed import Client, LocalCluster

    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(where.threads))
    settings: dict[str, Any] = {**_LOCAL, "distributed.nanny.pre-spawn-environ": threads | _KEPT_MEMORY}
    scratch = {}
    if where.scratch is not None:
        where.scratch.mkdir(parents=True, exist_ok=True)
        scratch["local_directory"] = str(where.scratch.absolute())
        # set in the workers alone: what is set before they are spawned stays in this process
        settings["distributed.nanny.environ"] = {"TMPDIR": scratch["local_directory"]}
    with (
        configured(settings),
        LocalCluster(
            n_workers=where.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=where.memory_bytes,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            host="127.0.0.1",
            **scratch,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def ask_scheduler(address: str) -> int:
    """How many workers the scheduler at an address has now.

    Raises:
        UsageError: It is no address.
        InputError: No scheduler answers there in time, whatever else may.
    """
    if not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"{address!r} is no address of a scheduler", "give tcp://HOST:PORT, as dask scheduler shows it"
        )
    hint = "check the address (tcp://HOST:PORT) and that dask scheduler runs there"
    try:
        with ThreadPoolExecutor(1) as own:  # in a notebook this thread has a loop already
            said = own.submit(asyncio.run, asyncio.wait_for(_identity(address), PATIENCE_SECONDS)).result()
    except (TimeoutError, OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"no scheduler answers at {address} within {PATIENCE_SECONDS:g} s", hint) from error
    if not isinstance(said, dict) or said.get("type") != "Scheduler":
        raise InputError(f"what answers at {address} is no scheduler", hint)
    return len(said.get("workers", ()))


async def _identity(address: str) -> Any:
    from distributed import Security
    from distributed.comm.core import connect

    comm = await connect(address, timeout=PATIENCE_SECONDS, **Security().get_connection_args("client"))
    try:
        await comm.write({"op": "identity", "n_workers": -1})
        return await comm.read()
    finally:
        comm.abort()


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    ask_scheduler(address)  # the client itself would try on and on with a server of another kind
    try:
        client = Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the scheduler at {address} went away", "start it, then the same command again") from error
    with client:
        yield client
