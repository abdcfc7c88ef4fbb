"""Start a command, send it a signal at a random moment, look at what it left, run it again, look once more.

What may be there after the signal: nothing, or the whole set of results; of what resumes, any part, each file whole.
After a SIGKILL a hidden folder may be left, which the next run clears. What is said must be true, and the exit code
that of the signal.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from deformgan.output.staging import PREFIX
from torture.victims import Victim, prepare, start

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)
_AS_USERS_DO = 12  # one in so many is started as a process of its own
_MOST_TRIES = 3  # for each signal that is to be in time
_PAUSE = 0.005  # seconds
_RARE = 20  # what cannot be forked gets one turn in so many


@dataclass
class Count:
    """What came of it.

    Args:
        sent: Signals sent to a command that was still at work, by command and signal.
        late: Those that came when it had ended.
        ends: How the commands ended, by exit code.
        broken: What should not have been, in words.
    """

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    late: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """All of them that were sent in time."""
        return sum(self.sent.values())

    def __str__(self) -> str:
        commands, signals = Counter[str](), Counter[str]()
        for (command, number), times in self.sent.items():
            commands[command] += times
            signals[number] += times
        told = [", ".join(f"{name} {n}" for name, n in each.items()) for each in (commands, signals)]
        ends = ", ".join(f"{code}: {n}" for code, n in sorted(self.ends.items()))
        return (
            f"{self.runs} signals ({'; '.join(told)}), {self.late} too late, exit codes {ends}, "
            f"{len(self.broken)} broken"
        )


def torture(home: Path, times: int, seed: int = 0, *, all_of_them: bool = True) -> Count:
    """Send ``times`` signals to commands at work, in turn, at random moments of their run; late ones do not count."""
    chance, count, victims = random.Random(seed), Count(), prepare(home, all_of_them=all_of_them)
    usual: dict[tuple[str, bool], float] = {}
    often = [name for name, one in victims.items() if one.forks]
    rare = [name for name in victims if name not in often]
    for number in range(_MOST_TRIES * times):
        if count.runs >= times:
            break
        name = rare[number // _RARE % len(rare)] if rare and number % _RARE == _RARE - 1 else often[number % len(often)]
        victim = victims[name]
        fork = victim.forks and number % _AS_USERS_DO != _AS_USERS_DO - 1
        if (name, fork) not in usual:
            runs = [_whole_run(home, victim, count, fork=fork, force=False) for _ in range(2)]
            usual[name, fork] = min(runs)  # the first may have imports to do
        sent = SIGNALS[(number // len(often)) % len(SIGNALS)]
        moment = chance.uniform(0, usual[name, fork])
        took = _one(home, name, victim, sent, moment, count, fork=fork, force=chance.random() < 0.5)
        usual[name, fork] = usual[name, fork] if took is None else min(usual[name, fork], took)
    return count


def _whole_run(home: Path, victim: Victim, count: Count, *, fork: bool, force: bool) -> float:
    """Run to the end into an empty or a used folder; seconds."""
    work = home / "work"
    if not force and (not victim.resumes or not work.exists()):
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    since = time.monotonic()
    code, said = start(home, victim.again(force), fork=fork).end()
    there = _there(work)
    missing = set(victim.names) - there
    extra = set() if victim.resumes else there - set(victim.names)
    if code not in (0, 4) or missing or extra or [one for one in there if PREFIX in one]:
        count.broken.append(f"{victim.words[0]} ended with {code}, left {sorted(there)}: {said[-600:]}")
    return time.monotonic() - since


def _one(
    home: Path, name: str, victim: Victim, sent: signal.Signals, wait: float, count: Count, *, fork: bool, force: bool
) -> float | None:
    """One signal, and a look at what is left; the seconds that the command took, where it was over before."""
    work = home / "work"
    if not force or victim.resumes or _there(work) != set(victim.names):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if force and not victim.resumes:
            _whole_run(home, victim, count, fork=fork, force=False)
    run = start(home, victim.again(force), fork=fork)
    since = time.monotonic()
    while not (late := run.is_over()) and (past := time.monotonic() - since) < wait:
        time.sleep(min(_PAUSE, wait - past))
    took = time.monotonic() - since if late else None
    run.send(sent)
    code, said = run.end()
    count.late += late
    count.sent[name, sent.name] += not late
    count.ends[code] += 1
    what = f"{name}{' --force' if force else ''}, {sent.name} after {wait:.2f} s: exit {code}"
    # before Python runs our code, a signal ends it as it ends every program
    allowed = {0, 4, -sent} if sent == signal.SIGKILL else {0, 4, 128 + sent, -sent}
    if code not in allowed:
        count.broken.append(f"{what}: {said[-600:]}")
    if "Traceback" in said and code not in (0, 4, -sent):
        count.broken.append(f"{what}: a traceback: {said[-600:]}")
    _look(work, victim, what, count, killed=sent == signal.SIGKILL, force=force)
    if sent == signal.SIGKILL or code in (0, 4) or victim.resumes:
        _whole_run(home, victim, count, fork=fork, force=bool(_there(work)))
    return took


def _look(work: Path, victim: Victim, what: str, count: Count, *, killed: bool, force: bool) -> None:
    left = _there(work)
    hidden = {one for one in left if any(part.startswith(PREFIX) for part in Path(one).parts)}
    if not killed and hidden:
        count.broken.append(f"{what}: left-overs {sorted(hidden)}")
    seen = left - hidden
    # only a SIGKILL in the milliseconds of moving can come between an old set and a new one
    if seen and seen != set(victim.names) and not victim.resumes and not (killed and force):
        count.broken.append(f"{what}: half a set {sorted(seen)}")
    for one in seen:
        if (why := damage(work / one)) is not None:
            count.broken.append(f"{what}: {one} is not whole: {why}")


def damage(path: Path) -> str | None:
    """Why a file is no whole one of its kind; None where it is."""
    try:
        if path.name.endswith((".nii.gz", ".nii")):
            np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                json.loads(line)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            load_file(path)
        elif path.suffix == ".h5":
            import h5py

            with h5py.File(path) as file:
                file.visititems(lambda _, one: one[()] if isinstance(one, h5py.Dataset) else None)
        elif not path.stat().st_size and path.suffix not in (".lock", ""):
            return "it is empty"
    except (OSError, EOFError, ValueError) as error:
        return str(error)
    return None


def _there(work: Path) -> set[str]:
    return {str(one.relative_to(work)) for one in work.rglob("*") if one.is_file()}
