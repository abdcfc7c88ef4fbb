"""Pairs of phantoms, tasks on them, and rows as if a cohort of any size had run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import make_phantom, write_nifti
from tiny import write_tiny_model

from deformgan.cohort.locks import is_held
from deformgan.cohort.pair import Pair, Settings, Task
from deformgan.cohort.plan import describe
from deformgan.cohort.run import weights_of
from deformgan.cohort.store import Store


def write_pairs(folder: Path, count: int) -> list[Pair]:
    """``count`` pairs T2 (fixed) and T1 (moving), and tiny weights in ``folder/weights``."""
    write_tiny_model(folder / "weights")
    pairs = []
    for number in range(count):
        phantom = make_phantom(number)
        fixed = write_nifti(folder / f"{number}_T2.nii.gz", phantom.t2, phantom.affine)
        moving = write_nifti(folder / f"{number}_T1.nii.gz", np.roll(phantom.t1, 1, axis=0), phantom.affine)
        pairs.append(Pair(f"p{number}", {"fixed": str(fixed), "moving": str(moving)}))
    return pairs


def quick_settings(folder: Path, **more: object) -> Settings:
    """As short as a registration can be."""
    options = {
        "weights": str(folder / "weights"),
        "refine_steps": 0,
        "transform": "deform",
        "inverse": False,
        "jacobian": False,
        "report": False,
    }
    return weights_of(Settings(**(options | {"report": False} | more)))  # type: ignore[arg-type]


def task(pair: Pair, settings: Settings, out: Path, run: str = "first", *, again: bool = False) -> Task:
    return Task(pair, settings, str(out), run, again)


def write_rows(out: Path, count: int, *, pictures: int = 0, file: Path | None = None) -> Store:
    """A cohort of ``count`` pairs that never ran: mostly sound, some doubtful, some failed; the last is pending.

    ``file`` stands for the inputs and outputs of each.
    """
    known = None if file is None else describe(file)
    inputs = {} if known is None else {"fixed": known, "moving": known}
    outputs = {} if file is None else {f"{'./' * n}{file.relative_to(out)}": known for n in range(7)}

    store, settings, rng = Store(out), Settings(report=False), np.random.default_rng(7)
    about = {
        "key": "key",
        "version": "0",
        "digest": settings.digest(),
        "settings": {"weights": "w", "transform": "deform"},
    }
    names = [f"sub-{number:05d}" for number in range(count)]
    store.write_plan([Pair(name, {}, {"site": "AB"[i % 2]}) for i, name in enumerate(names)], about)
    for number, name in enumerate(names[:-1]):
        failed, verdict = number % 97 == 5, "fail" if number % 50 == 3 else "look" if number % 20 == 2 else "pass"
        figures = {
            "failure_probability": float(rng.beta(1, 20)),
            "similarity_before": float(rng.normal(0.1, 0.01)),
            "similarity_after": float(rng.normal(0.2, 0.01)) if verdict != "fail" else 0.09,
            "jacobian_p99": float(rng.normal(1.3, 0.05)),
            "overlap": float(rng.normal(0.95, 0.01)),
        }
        row = {
            "id": name,
            "status": "failed" if failed else "done",
            "verdict": None if failed else verdict,
            "exit": 3 if failed else 0,
            "kind": "input" if failed else "",
            "cause": "T1.nii.gz <b>does not exist</b>" if failed else "",
            "digest": settings.digest(),
            "inputs": inputs,
            "outputs": outputs,
            "figures": {} if failed else figures,
            "report": None if failed else f"pairs/{name}/report.html",
            "seconds": float(rng.normal(5, 0.5)),
        }
        store.write_row(row)
    if pictures:
        from deformgan.cohort.figures import save_picture

        pixels = rng.integers(0, 255, (160, 240, 3)).astype(np.uint8)
        for name in names[:pictures]:
            save_picture(pixels, store.thumbnail_path(name))
    return store


HOLD = """
import sys, time
from pathlib import Path
from deformgan.cohort.locks import claim
with claim(Path(sys.argv[1]), sys.argv[2]) as deaths:
    print(deaths, flush=True)
    time.sleep(60)
"""


def die_with(path: Path, run: str) -> int:
    """Let a process claim a pair and kill it; returns how many deaths it was told of."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path), run], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        deaths = int(process.stdout.readline())
        assert is_held(path)
        process.kill()
    return deaths
