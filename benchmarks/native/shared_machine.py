"""How a registration shares the machine: beside a busy program, three at once, on one core, and by a quota of one.

    python benchmarks/native/shared_machine.py FIXED MOVING [--rounds 3] [--results DIR] [-- OPTIONS OF REGISTER]

Each situation is timed by the clock, as whole processes, one after the other within every round, so that a machine that
changes its mind changes all of them: ``alone``; ``busy core``, beside a loop that does nothing else; ``three in turn``
and ``three at once``; ``one core`` (``taskset``); ``quota``, one core's worth of all of them (``cpu.max`` of a control
group, where this user may make one). The ratios of one round count, and their median is given, with the
threads that the runs took: without --threads they leave the cores that others use. An older version is measured with
PYTHONPATH=OTHER_CHECKOUT/src before the command. A JSON file joins benchmarks/native/results. For a quiet machine: with
other programs running, all of them are busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

RATIOS = {
    "busy core / alone": ("busy core", "alone"),
    "three at once / three in turn": ("three at once", "three in turn"),
    "one core / alone": ("one core", "alone"),
    "quota / alone": ("quota", "alone"),
}
_GROUPS = Path("/sys/fs/cgroup")


class Runs:
    """Whole runs of the command on one pair."""

    def __init__(self, fixed: Path, moving: Path, options: list[str], work: Path) -> None:
        self._command = [sys.executable, "-m", "deformgan", "register", "-f", str(fixed), "-m", str(moving), *options]
        self._work = work

    def start(self, number: int = 0, core: int | None = None, group: Path | None = None) -> subprocess.Popen:
        """One run, on one core or in a control group if it is given."""

        def settle() -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        out = ["--force", "-o", str(self._work / str(number))]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*self._command, *out], preexec_fn=settle, **quiet)

    def wait(self, *runs: subprocess.Popen) -> None:
        """Until all have ended; 4, a failed quality check, will do.

        Raises:
            RuntimeError: One failed otherwise.
        """
        for run in runs:
            if run.wait() not in (0, 4):
                raise RuntimeError(f"exit code {run.returncode} of {run.args}")

    def threads(self, number: int = 0) -> int | None:
        """How many the last run of that number took, which by default depends on what others leave free."""
        record = json.loads((self._work / str(number) / "registration.json").read_text(encoding="utf-8"))
        return record["settings"].get("threads")


@contextmanager
def busy_core() -> Iterator[None]:
    """A program that takes all of the first core it may run on."""
    core = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    loop = subprocess.Popen([sys.executable, "-c", pin])
    time.sleep(0.5)
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


@contextmanager
def quota_of_one_core() -> Iterator[Path | None]:
    """A control group that may use one core's worth of time; None where this user cannot make one (version 2 alone)."""
    group = _GROUPS / f"deformgan-benchmark-{os.getpid()}"
    try:
        if not (_GROUPS / "cgroup.controllers").exists():
            raise OSError
        group.mkdir()
        (group / "cpu.max").write_text("100000 100000")
    except OSError:
        if group.exists():
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def three_in_turn(runs: Runs) -> None:
    for _ in range(3):
        runs.wait(runs.start())


def one_round(runs: Runs) -> tuple[dict[str, float], dict[str, int | None]]:
    """Every situation once: seconds, and the threads that its first run took."""
    first, found, threads = min(os.sched_getaffinity(0)), {}, {}

    def situation(name: str, call: Callable[[], None]) -> None:
        found[name] = seconds(call)
        threads[name] = runs.threads()

    situation("alone", lambda: runs.wait(runs.start()))
    with busy_core():
        situation("busy core", lambda: runs.wait(runs.start()))
    situation("three in turn", lambda: three_in_turn(runs))
    situation("three at once", lambda: runs.wait(*[runs.start(number) for number in range(3)]))
    situation("one core", lambda: runs.wait(runs.start(core=first)))
    with quota_of_one_core() as group:
        if group is not None:
            situation("quota", lambda: runs.wait(runs.start(group=group)))
    return found, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--label", default="", help="what is measured, such as a commit; kept in the result")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options, register_options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        runs = Runs(options.fixed, options.moving, [o for o in register_options if o != "--"], Path(work))
        runs.wait(runs.start())  # files and libraries are in memory now
        rounds = [one_round(runs) for _ in range(options.rounds)]
    each = [found for found, _ in rounds]
    there = {name: pair for name, pair in RATIOS.items() if set(pair) <= set(each[0])}
    ratios = {name: statistics.median(r[a] / r[b] for r in each) for name, (a, b) in there.items()}
    times = {name: statistics.median(r[name] for r in each) for name in each[0]}
    threads = {name: [taken[name] for _, taken in rounds] for name in each[0]}
    result = {
        "machine": machine(),
        "label": options.label,
        "options": register_options,
        "seconds": times,
        "threads": threads,
    }
    result |= {"ratios": ratios, "rounds": each}
    options.results.mkdir(parents=True, exist_ok=True)
    Console().print(times, threads, ratios, keep("shared-machine", result, options.results))


if __name__ == "__main__":
    main()
