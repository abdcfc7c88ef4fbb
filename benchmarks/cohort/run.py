"""24 real pairs as a table and as a BIDS data set, against one process a pair; and pairs that exceed the memory limit.

    python benchmarks/cohort/run.py -o OUT --data ROOT [--pairs 24] [--singly 24] [--what table bids processes memory]

``ROOT`` holds a folder a person with t1.nii.gz, t2.nii.gz and perhaps flair.nii.gz; T1 is registered onto T2 and onto
FLAIR. Given are wall seconds, processor seconds of all processes together, and how busy the machine was when each part
began and ended: on a machine that others use, only processor seconds compare. ``--singly`` pairs are done as a process
each, one after another, with as many threads as the machine gives. A JSON file joins results/.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

RESULTS = Path(__file__).parent / "results"
FIXED = {"t2": "T2w", "flair": "FLAIR"}
PARTS = ("table", "bids", "processes", "memory")


def find_pairs(root: Path, count: int) -> list[tuple[str, str, Path, Path]]:
    """Person, fixed contrast, fixed and moving image; first everybody's T2, then FLAIR."""
    found = []
    for contrast in FIXED:
        for folder in sorted(root.iterdir()):
            fixed, moving = folder / f"{contrast}.nii.gz", folder / "t1.nii.gz"
            if fixed.is_file() and moving.is_file():
                found.append((folder.name, contrast, fixed, moving))
    return found[:count]


def write_table(path: Path, pairs: list[tuple[str, str, Path, Path]]) -> None:
    """The pairs as ``deformgan cohort`` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "fixed", "moving", "contrast"])
        writer.writerows([f"{person}_{contrast}", fixed, moving, contrast] for person, contrast, fixed, moving in pairs)


def write_bids(root: Path, pairs: list[tuple[str, str, Path, Path]]) -> None:
    """The same as a BIDS data set of links; a FLAIR pair is a session of its own, whose FLAIR is named T2w by acq."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "pairs", "BIDSVersion": "1.10.0"}))
    (root / "README.md").write_text("Links to the images of the benchmark of cohorts, under names of BIDS.\n")
    for person, contrast, fixed, moving in pairs:
        label = "".join(c for c in person if c.isalnum())
        folder = root / f"sub-{label}" / f"ses-{contrast}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        base = f"sub-{label}_ses-{contrast}"
        for name, source in {f"{base}_acq-{contrast}_T2w.nii.gz": fixed, f"{base}_T1w.nii.gz": moving}.items():
            image = nib.load(source)
            if image.ndim > 3:  # an axis of length 1, which BIDS does not allow
                nib.squeeze_image(image).to_filename(folder / name)
            else:
                (folder / name).symlink_to(source.resolve())


def write_memory_table(folder: Path, pairs: list[tuple[str, str, Path, Path]]) -> Path:
    """The first six pairs, and two of 640³ voxels among them."""
    path = folder / "memory.csv"
    write_table(path, pairs[:6])
    image = np.zeros((640, 640, 640), np.uint8)
    image[100:540, 100:540, 100:540] = 100
    lines = path.read_text().splitlines()
    for number in (1, 2):
        for role in ("fixed", "moving"):
            nib.Nifti1Image(image, np.eye(4)).to_filename(folder / f"big{number}_{role}.nii.gz")
        lines.insert(2 * number, f"big{number},big{number}_fixed.nii.gz,big{number}_moving.nii.gz,made")
    path.write_text("\n".join(lines) + "\n")
    return path


def measured(commands: list[list[str]], log: Path) -> dict[str, Any]:
    """Run commands one after another; seconds by the clock and of the processors, and their exit codes."""
    before, start, load = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), os.getloadavg()[0]
    codes: Counter[int] = Counter()
    with open(log, "a", encoding="utf-8") as file:
        for words in commands:
            codes[subprocess.run([sys.executable, *words], stdout=file, stderr=file, check=False).returncode] += 1
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"wall_s": wall, "processor_s": processor, "load": [load, os.getloadavg()[0]]}
    return {
        **{n: round(v, 1) if isinstance(v, float) else [round(x, 1) for x in v] for n, v in found.items()},
        "exit_codes": dict(codes),
    }


def run_part(part: str, out: Path, pairs: list[tuple[str, str, Path, Path]], workers: int) -> dict[str, Any]:
    """One part of the comparison, its folder made anew."""
    folder = out / part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, command = folder / "log.txt", ["-m", "deformgan"]
    many = ["--workers", str(workers), "--json"]
    if part == "processes":
        commands = [
            [*command, "register", "-f", str(fixed), "-m", str(moving), "-o", str(folder / f"{person}_{contrast}")]
            for person, contrast, fixed, moving in pairs
        ]
        return {"pairs": len(pairs), **measured(commands, log)}
    if part == "table":
        write_table(folder / "pairs.csv", pairs)
        words = [*command, "cohort", str(folder / "pairs.csv"), "-o", str(folder / "out"), *many]
    elif part == "bids":
        write_bids(folder / "raw", pairs)
        words = ["-m", "deformgan.commands.bids", str(folder / "raw"), str(folder / "out"), "participant"]
        words += ["--nprocs", str(workers), "--json"]
    else:
        words = [*command, "cohort", str(write_memory_table(folder, pairs)), "-o", str(folder / "out"), *many]
        words += ["--memory-limit", "2GB", "--refine-steps", "0"]
    found = measured([words], log)
    answers = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    kept = ("total", "done", "failed", "verdicts", "causes", "names")
    return {"pairs": answers[-1]["total"], **found, "answer": {name: answers[-1][name] for name in kept}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--singly", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    pairs = find_pairs(given.data, given.pairs)
    found: dict[str, Any] = {"machine": machine(), "workers": given.workers}
    for part in given.what:
        some = pairs[: given.singly] if part == "processes" else pairs
        found[part] = run_part(part, given.out, some, given.workers)
        sys.stdout.write(f"{part}: {json.dumps(found[part])}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{keep('cohort', found, RESULTS)}\n")


if __name__ == "__main__":
    main()
