"""Commands to be killed: their words, the set of files that each writes, and how one is started.

Most are started by a fork of this process, in which PyTorch and the package are imported already: a run then takes a
tenth of a second and not several. Some are started as users start them, so that the imports are hit too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import forked
import nibabel as nib
import numpy as np
from hearing import hear_all
from small_training import UNET, data_config, training_config, write_people
from tiny import write_tiny_model

from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.itk import write_affine, write_displacement

SHAPE = (20, 22, 18)


@dataclass(frozen=True)
class Victim:
    """A command.

    Args:
        words: Of the command line, in the folder ``home``; results go to ``home/work``.
        names: Files that are one set: after an interruption all of them are there, or none.
        resumes: Whether it goes on where it was, so that a part may be there, each file whole.
        forks: Whether it may be started by a fork; what starts processes of its own may not.
    """

    words: tuple[str, ...]
    names: tuple[str, ...]
    resumes: bool = False
    forks: bool = True

    def again(self, force: bool) -> tuple[str, ...]:
        """Its words, for an output that is there."""
        return (*self.words, "--force") if force and not self.resumes else self.words


def start(home: Path, words: tuple[str, ...], *, fork: bool, first: Callable[[], None] | None = None) -> forked.Run:
    """Start a command.

    Args:
        fork: From this process, with all imports done.
        first: Called in the new process before the command.
    """
    if fork:
        return forked.fork(words, home, first)

    def begin() -> None:
        hear_all()
        if first is not None:
            first()

    said, stream = os.pipe()
    command = [sys.executable, "-m", "deformgan", *words]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=stream, preexec_fn=begin)
    os.close(stream)
    return forked.Run(process.pid, said)


def prepare(home: Path, *, all_of_them: bool = True) -> dict[str, Victim]:
    """Inputs in ``home``, and the commands that use them."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    head = sum(x**2 for x in axes) < 0.6
    for name in ("fixed", "moving"):
        data = (head * rng.uniform(0.5, 1, SHAPE)).astype(np.float32)
        nib.Nifti1Image(data, affine).to_filename(home / f"{name}.nii.gz")
    write_affine(home / "a.txt", np.eye(4))
    write_displacement(home / "w.nii.gz", rng.standard_normal((*SHAPE, 3)).astype(np.float32), Grid(SHAPE, affine))
    write_tiny_model(home / "weights")
    options = ("--model", "weights", "--refine-steps", "2", "--no-report", "--threads", "1")
    pair = ("-f", "fixed.nii.gz", "-m", "moving.nii.gz")
    whole = ("moved.nii.gz", "warp.nii.gz", "inverse_warp.nii.gz", "affine.txt", "jacobian.nii.gz", "registration.json")
    images = ("moving.nii.gz", "work/x.nii.gz", "fixed.nii.gz", "work/y.nii.gz")
    register = ("register", *pair, *options, "-o", "work/out")
    apply = ("apply", "-t", "w.nii.gz", "-r", "fixed.nii.gz", "--threads", "1", *images)
    victims = {
        "register": Victim(register, tuple(f"out/{name}" for name in whole)),
        "apply": Victim(apply, ("x.nii.gz", "y.nii.gz")),
        "convert": Victim(("convert", "w.nii.gz", "work/w.h5"), ("w.h5",)),
    }
    if all_of_them:
        victims["train"] = _training(home)
        victims["cohort"] = _cohort(home)
    return victims


def _training(home: Path) -> Victim:
    """Two steps on two people; what was cached and every checkpoint may stay."""
    people = write_people(home / "people")
    config = training_config(data_config(people, home / "cache"), network=UNET, steps=3, checkpoint_every=1)
    (home / "train.toml").write_text(_toml(config.to_dict()), encoding="utf-8")
    names = ("run/model/config.json", "run/model/model.safetensors")
    return Victim(("train", "train.toml", "-o", "work/run", "--threads", "1"), names, resumes=True)


def _cohort(home: Path) -> Victim:
    """One pair on one worker."""
    (home / "pairs.csv").write_text("id,fixed,moving\np,fixed.nii.gz,moving.nii.gz\n", encoding="utf-8")
    options = ("--model", "weights", "--refine-steps", "2", "--no-report", "--workers", "1")
    names = ("group/group_registration.tsv", "group/group_registration.html")
    return Victim(("cohort", "pairs.csv", "-o", "work/group", *options), names, resumes=True, forks=False)


def _toml(values: dict) -> str:
    """Plain tables, numbers, texts and lists as TOML; None is left out."""
    lines, tables = [], []

    def text(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(text, value))}]"
        return f'"{value}"' if isinstance(value, str) else repr(value)

    def add(table: dict, path: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                tables.append((value, f"{path}.{key}" if path else key))
            elif value is not None:
                lines.append(f"{key} = {text(value)}")

    add(values, "")
    while tables:
        table, path = tables.pop(0)
        lines.append(f"[{path}]")
        add(table, path)
    return "\n".join(lines) + "\n"
