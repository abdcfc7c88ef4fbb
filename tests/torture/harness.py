"""Start a command, send it a signal at a random moment, look at what it left, run it again, look once more.

What may be there after the signal: nothing, or the whole set of results. After a SIGKILL a hidden folder may be left,
which the next run clears. What is said must be true, and the exit code that of the signal.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from tiny import write_tiny_model

from deformgan.output.staging import PREFIX
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.itk import write_affine, write_displacement

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)
SHAPE = (40, 44, 36)


@dataclass
class Count:
    """What came of it.

    Args:
        runs: Signals sent to a command that was still at work.
        late: Those that came when it had ended.
        broken: What should not have been, in words.
    """

    runs: int = 0
    late: int = 0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.runs} signals, {self.late} too late, {len(self.broken)} broken"


def prepare(home: Path) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """Inputs in ``home``; for each command its words, and the names that it writes as one set in ``home/work``."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    head = sum(x**2 for x in axes) < 0.6
    for name in ("fixed", "moving"):
        nib.Nifti1Image((head * rng.uniform(0.5, 1, SHAPE)).astype(np.float32), affine).to_filename(
            home / f"{name}.nii.gz"
        )
    write_affine(home / "a.txt", np.eye(4))
    write_displacement(home / "w.nii.gz", rng.standard_normal((*SHAPE, 3)).astype(np.float32), Grid(SHAPE, affine))
    write_tiny_model(home / "weights")
    pair = ["-f", "fixed.nii.gz", "-m", "moving.nii.gz", "--model", "weights", "--refine-steps", "2", "--no-report"]
    whole = ("moved.nii.gz", "warp.nii.gz", "inverse_warp.nii.gz", "affine.txt", "jacobian.nii.gz", "registration.json")
    images = ["moving.nii.gz", "work/x.nii.gz", "fixed.nii.gz", "work/y.nii.gz"]
    return {
        "register": (["register", *pair, "-o", "work/out"], tuple(f"out/{name}" for name in whole)),
        "apply": (["apply", "-t", "w.nii.gz", "-r", "fixed.nii.gz", *images], ("x.nii.gz", "y.nii.gz")),
        "convert": (["convert", "w.nii.gz", "work/w.h5"], ("w.h5",)),
    }


def torture(home: Path, times: int, seed: int = 0) -> Count:
    """Send ``times`` signals, the commands and the signals in turn, at random moments of their run."""
    chance, count, commands = random.Random(seed), Count(), prepare(home)
    usual: dict[str, float] = {}
    for number in range(times):
        name = list(commands)[number % len(commands)]
        words, names = commands[name]
        if name not in usual:
            usual[name] = _whole_run(home, words, names, count, force=False)
        sent = SIGNALS[(number // len(commands)) % len(SIGNALS)]
        force = chance.random() < 0.5
        _one(home, name, words, names, sent, chance.uniform(0, 1.1 * usual[name]), count, force=force)
    return count


def _start(home: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deformgan", *words, "--threads", "1"]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _whole_run(home: Path, words: list[str], names: tuple[str, ...], count: Count, *, force: bool) -> float:
    """Run to the end into an empty or a used folder; seconds."""
    work = home / "work"
    if not force:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    since = time.monotonic()
    _, said = (process := _start(home, [*words, *(["--force"] if force else [])])).communicate(timeout=300)
    if process.returncode not in (0, 4) or _there(work) != set(names):
        count.broken.append(f"{words[0]} ended with {process.returncode}, left {sorted(_there(work))}: {said[-300:]}")
    return time.monotonic() - since


def _one(
    home: Path, name: str, words: list[str], names: tuple[str, ...], sent: signal.Signals, wait: float, count: Count,
    *, force: bool,
) -> None:  # fmt: skip
    work = home / "work"
    if not force:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    elif _there(work) != set(names):
        _whole_run(home, words, names, count, force=False)
    process = _start(home, [*words, *(["--force"] if force else [])])
    time.sleep(wait)
    late = process.poll() is not None
    process.send_signal(sent)
    _, said = process.communicate(timeout=300)
    code = process.returncode
    count.late, count.runs = count.late + late, count.runs + (not late)
    what = f"{name}{' --force' if force else ''}, {sent.name} after {wait:.2f} s: exit {code}"
    # before Python runs our code, a signal ends it as it ends every program
    allowed = {0, 4, -sent} if sent == signal.SIGKILL else {0, 4, 128 + sent, -sent}
    if code not in allowed:
        count.broken.append(f"{what}: {said[-300:]}")
    if "Traceback" in said and wait > 0.5:
        count.broken.append(f"{what}: a traceback: {said[-300:]}")
    left = _there(work)
    if sent != signal.SIGKILL and [one for one in left if PREFIX in one]:
        count.broken.append(f"{what}: left-overs {sorted(left)}")
    seen = {one for one in left if PREFIX not in one}
    if seen and seen != set(names) and not (sent == signal.SIGKILL and force):
        count.broken.append(f"{what}: half a set {sorted(seen)}")
    for one in seen:
        _check_whole(work / one, what, count)
    _whole_run(home, words, names, count, force=bool(seen))


def _there(work: Path) -> set[str]:
    return {str(one.relative_to(work)) for one in work.rglob("*") if one.is_file()}


def _check_whole(path: Path, what: str, count: Count) -> None:
    if path.name.endswith(".nii.gz"):
        try:
            np.asarray(nib.load(path).dataobj)
        except (OSError, EOFError, ValueError) as error:
            count.broken.append(f"{what}: {path.name} is not whole: {error}")
    elif not path.stat().st_size:
        count.broken.append(f"{what}: {path.name} is empty")
