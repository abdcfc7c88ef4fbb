"""``deformgan cohort``: many pairs, over night, on one machine or on many; ``cohort status`` and ``cohort merge``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deformgan.align.options import Options
from deformgan.commands.console import Console, success
from deformgan.commands.options import Json, Messages, ModelName, OutFolder
from deformgan.errors import CohortError, QualityError, UsageError

if TYPE_CHECKING:
    from deformgan.cohort.pair import Pair, Settings
    from deformgan.cohort.run import Cohort as Asked

_LIBRARIES = ("dask", "distributed")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: fits the machine)")] = None
    """Processes on this machine that take one pair after another."""
    threads_per_worker: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Threads with which each computes; one each is the fastest for many pairs."""
    memory_limit: Annotated[
        str | None, tyro.conf.arg(metavar="SIZE", help_behavior_hint="(default: the machine's, shared out)")
    ] = None
    """Memory of each, such as 4GB; a pair that needs more fails and the others go on."""
    work_dir: Annotated[
        Path | None, tyro.conf.arg(aliases=["-w"], metavar="DIR", help_behavior_hint="(default: the system's)")
    ] = None
    """Folder for what workers on this machine keep for a while; nothing in it is needed afterwards."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="(optional)")] = None
    """Address of a Dask scheduler (tcp://HOST:PORT), whose workers are used instead."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="(optional)")] = None
    """Only the I-th of N parts, for job arrays; when all have ended: deformgan cohort merge."""


@dataclass(frozen=True, kw_only=True)
class What(Options):
    """What is registered, and with what: the options of register, for every pair."""

    model: ModelName = "t1-t2"
    no_inverse: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write inverse warps."""
    no_jacobian: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write Jacobian maps."""
    no_report: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write the pairs' pages."""

    def settings(self) -> Settings:
        """These, with the checksum of the weights.

        Raises:
            UsageError, InputError: The weights are not there or damaged.
        """
        from deformgan.cohort.pair import Settings
        from deformgan.cohort.run import weights_of

        return weights_of(
            Settings(
                **self.options_as_dict(),
                weights=self.model,
                inverse=not self.no_inverse,
                jacobian=not self.no_jacobian,
                report=not self.no_report,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Again:
    """What is done of what is left."""

    retry_failed: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Also do what failed before."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Do no more pairs than this."""
    stop_on_first_crash: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Begin no further pair once one has failed; those in hand are finished."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Only say what there is to do."""
    verify: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Compare checksums even where size and time of a file are as they were."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Register many pairs; the same command again goes on where it stopped.

    SOURCE is a CSV or TSV file with columns fixed and moving (and id, moving_labels, moving_points, fixed_mask, moving_mask, fixed_lesion, moving_lesion, init where wanted), or a BIDS data set. The output folder gets a folder for each pair, and group_registration.tsv and .html: which pairs to look at. deformgan cohort status DIR: how far it is. deformgan cohort merge DIR: the table and the page of what is there.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")]
    """Table of pairs, or folder of a BIDS data set."""
    out: OutFolder
    """Folder for the results; made if it is not there."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    what: What = field(default_factory=What)
    workers: Workers = field(default_factory=Workers)
    again: Again = field(default_factory=Again)

    def run(self, console: Console) -> None:
        """Do what is left to do, and answer.

        Raises:
            CohortError: Some pairs could not be registered.
            QualityError: All could, but the quality check of some failed.
        """
        with needed_libraries():
            conduct(
                console,
                asked(self.out, read_pairs(console, self.source), self.what, self.workers, self.again),
                self.again.dry_run,
            )


@dataclass(frozen=True, kw_only=True)
class CohortStatus:
    """Say how far a cohort is, whoever runs it: done, failed, running, to do, and why pairs failed."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
    """Folder of the cohort."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Count, answer."""
        from deformgan.cohort.status import line, status
        from deformgan.cohort.store import Store

        counts = status(Store(self.out))
        console.result(f"{self.out}: {line(counts)}", success({"out": str(self.out), **counts}))
        for name, cause in list(counts["names"]["failed"].items())[:20]:
            console.note(f"failed: {name}: {cause}")


@dataclass(frozen=True, kw_only=True)
class CohortMerge:
    """Write the group's table and page of what a cohort has done so far, by however many shards."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
    """Folder of the cohort."""
    ratings: Annotated[Path | None, tyro.conf.arg(metavar="TSV", help_behavior_hint="(optional)")] = None
    """Ratings saved from the page, to be kept in the folder and in the table."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Gather, write, answer; exit codes as of the cohort."""
        from deformgan.cohort.run import write_group
        from deformgan.cohort.store import Store

        store = Store(self.out)
        write_group(store, self.ratings)
        answer(console, self.out, {})


@contextmanager
def needed_libraries() -> Iterator[None]:
    """Turn the absence of dask into what to do about it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _LIBRARIES:
            raise
        raise UsageError("cohorts need dask and distributed", "pip install 'deformgan[cohort]'") from error


def read_pairs(console: Console, source: Path) -> list[Pair]:
    """Pairs of a table or of a BIDS data set; every mistake of a table is told."""
    from deformgan.cohort.table import TableError, nothing_there, read_table

    if source.is_dir():
        from deformgan.cohort.bids import Selection, find_pairs

        pairs, notes = find_pairs(source, Selection())
        tell(console, notes)
        return pairs
    try:
        pairs = read_table(source)
    except TableError as error:
        for mistake in error.mistakes[:50] if len(error.mistakes) > 1 else ():
            console.note(f"{source}: {mistake}")
        raise
    missing = nothing_there(pairs)
    if missing is not None:
        raise UsageError(
            f"{source}: none of its files is there, the first being {missing}",
            f"relative paths start from the table's folder, {source.absolute().parent}",
        )
    return pairs


def tell(console: Console, notes: Sequence[str], most: int = 20) -> None:
    """Notes on a data set, the first of them."""
    for note in notes[:most]:
        console.note(note)
    if len(notes) > most:
        console.note(f"and {len(notes) - most} more")


def asked(out: Path, pairs: list[Pair], what: What, workers: Workers, again: Again) -> Asked:
    """The options as what the package takes.

    Raises:
        UsageError: One of them makes no sense.
    """
    from deformgan.cohort.run import Cohort as Asked
    from deformgan.cohort.run import read_bytes, read_shard

    if again.limit is not None and again.limit < 1:
        raise UsageError(f"--limit {again.limit} is less than 1", "leave it out to do all")
    if workers.scheduler is not None and (workers.workers is not None or workers.work_dir is not None):
        option = "--work-dir" if workers.workers is None else "--workers"
        raise UsageError(
            f"{option} is for workers on this machine, and --scheduler means others", "give one of the two"
        )
    return Asked(
        pairs=pairs,
        settings=what.settings(),
        out=out,
        scheduler=workers.scheduler,
        workers=workers.workers,
        threads=workers.threads_per_worker,
        memory_bytes=read_bytes(workers.memory_limit),
        scratch=workers.work_dir,
        shard=read_shard(workers.shard),
        retry_failed=again.retry_failed,
        limit=again.limit,
        stop_on_failure=again.stop_on_first_crash,
        verify=again.verify,
    )


def conduct(console: Console, cohort: Asked, dry_run: bool) -> None:
    """Run a cohort, or say what there is to do, and answer."""
    from deformgan.cohort.progress import CohortProgress
    from deformgan.cohort.run import conduct as run_cohort
    from deformgan.cohort.run import make_plan

    if dry_run:
        plan = make_plan(cohort)
        counts = plan.counts()
        words = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())
        names = [pair.name for pair in plan.todo]
        console.result(f"{cohort.out}: {words}", success({"out": str(cohort.out), **counts, "pairs": names}))
        return
    with CohortProgress(console.note) as progress:
        plan_counts = run_cohort(
            cohort, lambda plan, where: progress.begin(len(plan.todo), where, plan.counts()["done"]), progress
        )
    answer(console, cohort.out, {"to_do_before": plan_counts["to_do"], "unwritten": plan_counts["unwritten"]})


def answer(console: Console, out: Path, more: dict[str, Any]) -> None:
    """Say how the cohort stands and end with the code that fits.

    Raises:
        CohortError: Some pairs failed.
        QualityError: None did, but the quality check of some failed.
    """
    from deformgan.cohort.status import line, status
    from deformgan.cohort.store import Store

    counts = status(Store(out))
    failed, unsound = counts["failed"] + more.get("unwritten", 0), counts["verdicts"]["fail"]
    code = CohortError.exit_code if failed else QualityError.exit_code if unsound else 0
    kind = "failed" if failed else "quality" if unsound else "ok"
    console.result(f"{out}: {line(counts)}", {"status": kind, "exit_code": code, "out": str(out), **counts, **more})
    if failed:
        names = list(counts["names"]["failed"])
        named = f": {', '.join(names[:5])}{', …' if failed > 5 else ''}" if names else ""
        raise CohortError(
            f"{failed} of {counts['total']} pairs failed{named}",
            f"see deformgan cohort status {out}; --retry-failed does them again",
        )
    if unsound:
        raise QualityError(f"the quality check of {unsound} pairs failed", "look at group_registration.html")
