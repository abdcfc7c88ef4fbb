"""Give corrupted files to the readers, one after another, and count what came back.

    python tests/fuzz --inputs 100000 --seed 1 --log fuzz.jsonl
    python tests/fuzz --kind gzip --seed 1 --only 4711 --keep corrupted/     # one input again, kept

An input is good where the reader returned something sound or raised one of our own errors, within the time and without
taking memory. Input ``n`` of a kind and seed is the same on every run. The readers work in a child process, so that a
crash of a library is one finding and not the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from deformgan.errors import DeformganError
from fuzz.kinds import Kind, kinds, prepare, sound
from fuzz.state import State

HANG_S = 5.0  # of the processor, for one input; the readers of these few kilobytes take milliseconds
WAIT_S = 60.0  # by the clock, for one that waits; the machine may be busy
DEAF_S = 90.0  # by the clock, after which a child that does not hear its alarm is ended
GROWTH_MB = 512.0  # of the resident memory, over what it is after the first input
SPACE_MB = 4096.0  # of address space that may be taken in all, over what is mapped at the start


class Hang(BaseException):
    """An input took longer than it may; no reader catches this."""


@dataclass
class Tally:
    """What came back.

    Args:
        counts: ``ok``, ``ours`` (one of our errors), ``other``, ``hang``, ``memory``, ``crash``.
        findings: Every input that was neither ``ok`` nor ``ours``.
        slowest_s: The longest that one took.
        growth_mb: By how much the resident memory grew.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_mb: float = 0.0


def corrupted(kind: Kind, name: str, seed: int, number: int) -> tuple[str, bytes, Random]:
    """File name and contents of one input, and the random numbers that its reader goes on with."""
    rng = Random(f"{seed}/{name}/{number}")
    file, data = rng.choice(kind.examples)
    return file, kind.corrupt(data, rng), rng


def try_one(kind: Kind, name: str, seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Read one input: what it counts as, and the traceback where it is a finding."""
    file, data, rng = corrupted(kind, name, seed, number)
    path = prepare(folder, file)
    path.write_bytes(data)
    try:
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        signal.setitimer(signal.ITIMER_REAL, WAIT_S)
        try:
            sound(kind.read(path, rng))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except DeformganError as error:
        return ("other", f"of {len(str(error))} letters") if len(str(error)) > 10**6 else ("ours", "")
    except Hang:
        return "hang", traceback.format_exc(limit=-4)
    except MemoryError:
        return "memory", traceback.format_exc(limit=-4)
    except Exception:
        return "other", traceback.format_exc(limit=-4)
    return "ok", ""


def run_kind(name: str, kind: Kind, seed: int, inputs: int, folder: Path) -> Tally:
    """All inputs of a kind, in as many children as it takes.

    Raises:
        RuntimeError: the fuzzer itself has a bug.
    """
    tally = Tally()
    state = State()
    start = 0
    while start < inputs:
        reader, writer = os.pipe()
        state.begin(start)
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(name, kind, seed, range(start, inputs), folder, state, writer)
        os.close(writer)
        told, why = _watch(child, reader, state)
        for line in told.splitlines():
            finding = json.loads(line)
            if "broken" in finding:
                raise RuntimeError(finding["broken"])
            tally.findings.append(finding)
        if not why:
            break
        state.count(why)
        tally.findings.append({"kind": name, "seed": seed, "input": state.number, "as": why, "trace": ""})
        start = state.number + 1
    tally.counts.update({what: n for what, n in state.counts.items() if n})
    tally.slowest_s, tally.growth_mb = state.slowest_s, state.growth_mb
    return tally


def _watch(child: int, reader: int, state: State) -> tuple[bytes, str]:
    """What a child told, and what ended it if it did not end itself."""
    parts, why = [], ""
    while True:
        if select.select([reader], [], [], 1.0)[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            parts.append(part)
        elif state.since_s > DEAF_S:
            os.kill(child, signal.SIGKILL)
            why = "hang"
            break
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return b"".join(parts), why or ("crash" if status else "")


def _work(name: str, kind: Kind, seed: int, numbers: range, folder: Path, state: State, writer: int) -> None:
    """The child: never returns."""
    try:
        _listen()
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        most = mapped + int(SPACE_MB * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        base = 0.0
        for number in numbers:
            state.begin(number)
            what, trace = try_one(kind, name, seed, number, folder)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            base = base or peak
            growth = peak - base
            if growth > GROWTH_MB and what in ("ok", "ours"):
                what, trace, base = "memory", f"grew by {growth:.0f} MB", peak
            state.end(what, growth)
            if trace:
                _tell(writer, {"kind": name, "seed": seed, "input": number, "as": what, "trace": trace})
    except BaseException:  # whatever it is, it is ours, and the child must not go on as a second parent
        _tell(writer, {"broken": traceback.format_exc()})
    finally:
        os._exit(0)


def _tell(writer: int, what: dict[str, Any]) -> None:
    line = json.dumps(what).encode() + b"\n"
    while line:
        line = line[os.write(writer, line) :]


def _listen() -> None:
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _alarm)


def _alarm(*_: object) -> None:
    raise Hang


def shares(chosen: dict[str, Kind], inputs: int) -> dict[str, int]:
    """How many inputs each kind gets; together exactly ``inputs``."""
    total = sum(kind.share for kind in chosen.values())
    counts = {name: inputs * kind.share // total for name, kind in chosen.items()}
    counts[next(iter(counts))] += inputs - sum(counts.values())
    return counts


def run(inputs: int, seed: int, only: tuple[str, ...] = (), log: Path | None = None) -> dict[str, Tally]:
    """Fuzz all kinds, or some; findings are appended to ``log`` as they come, one JSON object a line."""
    tallies = {}
    # in memory where the system has it: the disk is not what is tested
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=home) as name:
        (made := Path(name) / "made").mkdir()
        (work := Path(name) / "work").mkdir()
        chosen = {key: kind for key, kind in kinds(made).items() if not only or key in only}
        for key, count in shares(chosen, inputs).items():
            began = time.process_time() + sum(os.times()[2:4])
            tallies[key] = run_kind(key, chosen[key], seed, count, work)
            spent = time.process_time() + sum(os.times()[2:4]) - began
            _say(key, count, tallies[key], spent)
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(finding) + "\n" for finding in tallies[key].findings)
    return tallies


def _say(key: str, count: int, tally: Tally, spent_s: float) -> None:
    counts = ", ".join(f"{n} {what}" for what, n in sorted(tally.counts.items()))
    sys.stdout.write(
        f"{key:12s} {count:7d} inputs: {counts}; slowest {tally.slowest_s:.2f} s, memory +{tally.growth_mb:.0f} MB, "
        f"{spent_s:.0f} CPU s\n"
    )
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 where anything but ``ok`` and our own errors came back."""
    parser = argparse.ArgumentParser("fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", default=[], help="of file; may be repeated; default: all")
    parser.add_argument("--log", type=Path, help="findings are appended to it, one JSON object a line")
    parser.add_argument("--only", type=int, help="this input of the one --kind alone, with its traceback")
    parser.add_argument("--keep", type=Path, help="with --only: the folder that the file is written to")
    options = parser.parse_args(arguments)
    if options.only is not None:
        return _again(options)
    tallies = run(options.inputs, options.seed, tuple(options.kind), options.log)
    total = sum((tally.counts for tally in tallies.values()), Counter())
    bad = sum(n for what, n in total.items() if what not in ("ok", "ours"))
    sys.stdout.write(f"{sum(total.values())} inputs: {dict(total)}; {bad} findings\n")
    return int(bad > 0)


def _again(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        (key,) = options.kind
        kind = kinds(Path(name))[key]
        work = options.keep or Path(name) / "work"
        work.mkdir(parents=True, exist_ok=True)
        _listen()
        what, trace = try_one(kind, key, options.seed, options.only, work)
        sys.stdout.write(f"{what}\n{trace}")
    return int(bool(trace))
