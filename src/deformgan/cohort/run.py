"""A cohort from beginning to end: plan, lock, hand out, gather."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from deformgan import __version__
from deformgan.cohort.cluster import Local, workers_of
from deformgan.cohort.engine import STORAGE, run
from deformgan.cohort.group import Group, collect, write_table
from deformgan.cohort.locks import only_one
from deformgan.cohort.page import write_page
from deformgan.cohort.pair import Pair, Settings, Task
from deformgan.cohort.plan import State, judge_row
from deformgan.cohort.store import Store
from deformgan.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What is asked for.

    Attributes:
        pairs: All of them, whatever the shard.
        settings: Of every pair.
        out: The cohort's folder.
        scheduler: Address of a scheduler; None for workers on this machine.
        workers: How many on this machine; None for what fits it.
        threads: With which each worker computes, wherever it is.
        memory_bytes: What each may ask for; None for a share of this machine, and for no limit of ours elsewhere.
        scratch: Folder for what workers on this machine keep for a while; None for the system's.
        shard: (I, N): the I-th of N parts, counted from 1; None for all.
        retry_failed: Also do what failed before.
        limit: Do no more pairs than this.
        stop_on_failure: Begin no further pair once one has failed.
        verify: Compare checksums even where size and time of change are the same.
    """

    pairs: Sequence[Pair]
    settings: Settings
    out: Path
    scheduler: str | None = None
    workers: int | None = None
    threads: int = 1
    memory_bytes: int | None = None
    scratch: Path | None = None
    shard: tuple[int, int] | None = None
    retry_failed: bool = False
    limit: int | None = None
    stop_on_failure: bool = False
    verify: bool = False


@dataclass(frozen=True)
class Plan:
    """The state of each pair of the shard, and the pairs to do now."""

    states: dict[str, State]
    todo: list[Pair]

    def counts(self) -> dict[str, int]:
        """How many pairs are in each state, and how many are done now."""
        found = Counter(self.states.values())
        names: tuple[State, ...] = ("done", "failed", "pending")
        return {"total": len(self.states), **{name: found[name] for name in names}, "to_do": len(self.todo)}


def make_plan(cohort: Cohort) -> Plan:
    """Look at what is there; nothing is written."""
    store, settings = Store(cohort.out), cohort.settings
    part = cohort.pairs if cohort.shard is None else cohort.pairs[cohort.shard[0] - 1 :: cohort.shard[1]]
    states: dict[str, State] = {
        pair.name: judge_row(store.out, pair, settings, store.read_row(pair.name), verify=cohort.verify)
        for pair in part
    }
    wanted = ("pending", "failed") if cohort.retry_failed else ("pending",)
    todo = [pair for pair in part if states[pair.name] in wanted]
    return Plan(states, todo[: cohort.limit])


def conduct(
    cohort: Cohort, begun: Callable[[Plan, str], None], told: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do what is left to do, and write the group's table and page unless this is a shard.

    Args:
        begun: Hears of the plan and of who does it, before the first pair.
        told: Hears of each pair as it ends, see `deformgan.cohort.worker.run_task`.

    Returns:
        `Plan.counts`, and ``unwritten``: pairs of which not even a row could be written.

    Raises:
        UsageError: Another cohort works in the folder.
        InputError: The scheduler cannot be reached, or the folder cannot be written to.
    """
    store, failures = Store(cohort.out), Counter[str]()

    def heard(found: dict[str, Any]) -> None:
        if found["status"] == "failed":
            failures[found["kind"]] += 1
        told(found)

    def further(task: Task) -> bool:
        return not (cohort.stop_on_failure and failures)

    with only_one(store.folder, cohort.shard):
        plan = make_plan(cohort)
        name = uuid.uuid4().hex[:12]
        store.write_plan(cohort.pairs, _about(cohort, store))
        if plan.todo:
            where = _where(cohort, len(plan.todo))
            with workers_of(where) as client:
                begun(plan, _described(where, len(cast(dict[str, int], client.nthreads()))))
                wanted = takewhile(further, tasks(cohort, plan, where, name))
                run(client, wanted, heard, one_at_a_time=cohort.stop_on_failure)
        if cohort.shard is None:
            write_group(store)
    return {**plan.counts(), "unwritten": failures[STORAGE]}


def write_group(store: Store, ratings: Path | None = None) -> Group:
    """Write table, sidecar and page of what is known now.

    Raises:
        InputError: There is no cohort in the folder, or the ratings cannot be read.
    """
    group = collect(store, ratings)
    write_table(group, store.out)
    write_page(group, store)
    return group


def weights_of(settings: Settings) -> Settings:
    """The settings with the checksum of the weights, which are loaded to see that they are sound.

    Raises:
        UsageError, InputError: There are none of that name, or they are damaged.
    """
    if settings.is_linear:
        return settings
    from deformgan.models.load import load_model

    path = Path(settings.weights)
    weights = str(path.resolve()) if path.is_dir() and path.name != settings.weights else settings.weights
    return replace(settings, weights=weights, weights_sha256=load_model(weights).sha256)


def read_shard(text: str | None) -> tuple[int, int] | None:
    """``I/N`` as two numbers.

    Raises:
        UsageError: It is not such a part.
    """
    if text is None:
        return None
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--shard {text} is no part of a whole", "give I/N with I from 1 to N: --shard 3/10")
    return int(first), int(last)


def read_bytes(text: str | None) -> int | None:
    """``4GB``, ``800 MiB`` or a plain number of bytes.

    Raises:
        UsageError: It is not such a size, or less than 200 MB.
    """
    if text is None:
        return None
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(text))
    except ValueError as error:
        raise UsageError(f"--memory-limit {text} is no size", "give one such as 4GB") from error
    if size < 200_000_000:
        raise UsageError(f"--memory-limit {text} is less than 200 MB", "a pair of heads of 1 mm takes some 2 GB")
    return size


def _where(cohort: Cohort, pairs: int) -> Local | str:
    """Who does so many pairs."""
    if cohort.scheduler is not None:
        return cohort.scheduler
    return Local.fitting(pairs, cohort.workers, cohort.threads, cohort.memory_bytes, cohort.scratch)


def tasks(cohort: Cohort, plan: Plan, where: Local | str, name: str) -> Iterator[Task]:
    """The units of work of a plan, in the run of that name, for workers ``where``."""
    memory_bytes = where.memory_bytes if isinstance(where, Local) else cohort.memory_bytes
    settings = replace(cohort.settings, threads=cohort.threads, memory_bytes=memory_bytes)
    out = str(cohort.out.absolute())
    for pair in plan.todo:
        yield Task(pair, settings, out, name, cohort.retry_failed)


def _about(cohort: Cohort, store: Store) -> dict[str, Any]:
    try:
        key = store.read_plan()[2]["key"]
    except (InputError, LookupError, TypeError):
        key = uuid.uuid4().hex[:12]
    settings = asdict(cohort.settings)
    return {"key": key, "version": __version__, "digest": cohort.settings.digest(), "settings": settings}


def _described(where: Local | str, present: int) -> str:
    if isinstance(where, str):
        several = "1 worker" if present == 1 else f"{present} workers" if present else "no worker yet"
        return f"{several} at {where}" + ("" if present else ", which is waited for: start dask worker")
    several = "1 worker" if where.workers == 1 else f"{where.workers} workers"
    threads = "1 thread" if where.threads == 1 else f"{where.threads} threads"
    return f"{several} with {threads} and {where.memory_bytes / 1e9:.1f} GB each"
