"""Draw every figure of the comparison from what evaluations and training runs have left.

    python benchmarks/table1/figures.py OUT --results EVALUATION … --run NAME=RUN … --method NAME=WEIGHTS …
        [--timing EVALUATION] [--studies studies.toml] [--cases CASES]

| figure | from |
|---|---|
| robustness.png, robustness-overlap.png | sweeps.json of the results folders |
| accuracy-time.png, studies.png | results.json of the results folders; studies.toml |
| training.png | metrics.jsonl of the runs |
| synthesis.png and .json | snapshots/ of the runs that have a G, on cases |
| comparison.png | the methods, on one case, clean and noisy |

What cannot be drawn for want of input is left out. studies.toml has a table for each panel of studies.png: methods of
the results, and what to call them:

    ["Loss of T"]
    voxelmorph-mi = "MI"
    voxelmorph-lg = "LG"

**Whose anatomy.** Without --cases the pictures show the anatomy that this project ships, and may be committed. With
--cases they show those cases, which may be patients': OUT must then be ignored by git, or lie outside of any
repository; the script refuses any other. Charts of numbers show nobody.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from deformgan.errors import DeformganError, InputError, UsageError
from deformgan.io.atomic import atomic
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation import figures
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.metrics import dice, endpoint_error
from deformgan.workshop.evaluation.robustness import perturbed
from deformgan.workshop.training.record import read_metrics

NOISE = 0.1  # σ of the noisy row, relative to the intensity range
OVERLAYS = ("none", "edges", "checker")
Row = dict[str, Any]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the figures")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="folders that deformgan evaluate wrote")
    parser.add_argument(
        "--timing", type=Path, help="folder of an evaluation whose times count in place of the results'"
    )
    parser.add_argument("--run", nargs="+", default=[], metavar="NAME=RUN", help="folders that deformgan train wrote")
    parser.add_argument("--method", nargs="+", default=[], help="methods to show, as deformgan evaluate takes them")
    parser.add_argument("--studies", type=Path, help="panels of studies.png")
    parser.add_argument("--cases", type=Path, help="cases to show in place of the shipped anatomy; OUT must be ignored")
    parser.add_argument("--count", type=int, default=3, help="cases that the synthesis is measured on")
    parser.add_argument("--regime", default="medium", help="of the cases made of the shipped anatomy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overlay", choices=OVERLAYS, default="none", help="on the methods' images")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def rows_of(folders: Sequence[Path], name: str) -> list[Row]:
    """The rows of one file of all folders that have it; of a row there is twice, the last."""
    rows: dict[tuple[Any, ...], Row] = {}
    for path in (folder / name for folder in folders):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["rows"]
            keys = ("method", "case", "sweep", "level", "device")
            rows |= {tuple(row.get(key) for key in keys): row for row in found}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} holds no rows of scores: {error}", "evaluate anew") from error
    return list(rows.values())


def read_studies(path: Path) -> list[figures.Study]:
    """The panels of a TOML file, in its order."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "see the head of this script") from error
    if not all(isinstance(table, dict) and table for table in tables.values()):
        raise InputError(f"{path} holds something else than tables", "see the head of this script")
    return [figures.Study(title, {name: str(label) for name, label in t.items()}) for title, t in tables.items()]


def retimed(rows: Sequence[Row], timing: Path | None) -> list[Row]:
    """The rows with each method's mean seconds in another evaluation, on a quiet machine; those timed there alone."""
    if timing is None:
        return [*rows]
    seconds: dict[str, list[float]] = {}
    for row in rows_of([timing], "results.json"):
        seconds.setdefault(row["method"], []).append(row["seconds"])
    means = {name: sum(taken) / len(taken) for name, taken in seconds.items()}
    return [row | {"seconds": means[row["method"]]} for row in rows if row["method"] in means]


def on_common_cases(rows: Sequence[Row], studies: Sequence[figures.Study]) -> list[Row]:
    """The rows of the studies' methods, of the cases that each of these has."""
    methods = {name for study in studies for name in study.methods}
    cases = {name: {row["case"] for row in rows if row["method"] == name} for name in methods}
    common = set.intersection(*(found for found in cases.values() if found)) if any(cases.values()) else set()
    return [row for row in rows if row["method"] in methods and row["case"] in common]


def named(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` of each."""
    found = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"{text!r} names no run", "give NAME=FOLDER")
        found[name] = Path(folder)
    return found


def must_be_ignored(out: Path) -> None:
    """Refuse a folder whose files git would take up."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    inside = any((folder / ".git").exists() for folder in (there, *there.parents))
    if not inside:
        return
    command = ["git", "-C", str(there), "check-ignore", "-q", str(out.absolute() / "comparison.png")]
    try:
        ignored = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        ignored = False
    if not ignored:
        raise UsageError(
            f"{out} would be committed, and pictures of --cases may show patients",
            "give a folder that git ignores, such as runs/figures, or leave --cases out",
        )


def shipped_cases(regime: str, count: int, seed: int) -> list[EvaluationCase]:
    """Cases of the anatomy that the project ships, T2 fixed and T1 moving; anybody may see them."""
    from deformgan.workshop.simulation.anatomy import load_anatomy
    from deformgan.workshop.simulation.cases import make_case

    cases = []
    for k in range(count):
        made = make_case(load_anatomy(), regime, torch.Generator().manual_seed(seed * 1_000_003 + k), spacing=1.5)
        cases.append(
            EvaluationCase(
                f"shipped_{k:03d}", made.fixed, made.moving, made.moving_true, made.fixed_labels, made.moving_labels,
                made.mask, made.deformation.forward, made.meta,
            )
        )  # fmt: skip
    return cases


def read_cases(root: Path, count: int) -> list[EvaluationCase]:
    """The first cases of a folder."""
    from deformgan.workshop.evaluation.cases import find_cases, read_case

    return [read_case(folder) for folder in find_cases(root)[:count]]


def panels(case: EvaluationCase, seen: EvaluationCase, methods: Sequence[str], threads: int) -> list[figures.Panel]:
    """Fixed, moving and each method's moved image of a pair as it is seen; scores are those of the case itself."""
    from deformgan.workshop.evaluation.methods import Compute, make_method, parse_method

    styles = figures.method_styles(parse_method(text).name for text in methods)
    specs = {spec.name: spec for spec in map(parse_method, methods)}
    found = [
        figures.Panel("fixed", volume(seen.fixed), figures.tumour_mask(case.fixed_labels, case)),
        _panel("moving", case, seen, torch.zeros_like(case.field)),
    ]
    for name, style in styles.items():
        method = make_method(specs[name], Compute(threads=threads).resolved())
        field = method.predict(seen.fixed, seen.moving, float(case.meta["spacing_mm"]))
        found.append(_panel(style.label, case, seen, field))
    return found


def _panel(title: str, case: EvaluationCase, seen: EvaluationCase, field: Tensor) -> figures.Panel:
    labels = warp(case.moving_labels, field, mode="nearest")
    tumours = [figures.tumour_mask(one, case) for one in (labels, case.fixed_labels)]
    caption = f"error {float(endpoint_error(field, case.field, case.mask).mean()):.2f} voxels"
    if tumours[1].any():
        caption += f"\ntumour Dice {dice(*map(torch.from_numpy, tumours)):.2f}"
    return figures.Panel(title, volume(warp(seen.moving, field)), tumours[0], caption)


def volume(image: Tensor) -> Any:
    """(1, 1, D, H, W) as an array (D, H, W)."""
    return image[0, 0].numpy()


def draw(given: argparse.Namespace) -> list[Path]:
    """Everything there is input for; the files written."""
    out, runs = given.out, named(given.run)
    if given.cases is not None:
        must_be_ignored(out)
    out.mkdir(parents=True, exist_ok=True)
    results, sweeps = rows_of(given.results, "results.json"), rows_of(given.results, "sweeps.json")
    names = [*(row["method"] for row in (*results, *sweeps)), *runs, *(m.partition("=")[0] for m in given.method)]
    styles = figures.method_styles(names)
    written: list[Path] = []

    def to(name: str) -> Path:
        written.append(out / name)
        return out / name

    if sweeps:
        figures.robustness_figure(sweeps, to("robustness.png"), styles=styles)
        figures.robustness_figure(sweeps, to("robustness-overlap.png"), ("dice_tumour", "rmse_brain"), styles)
    if any(row.get("seconds") for row in results):
        timed = [row for row in retimed(results, given.timing) if row["method"] != "identity"]
        figures.accuracy_time_figure(timed, to("accuracy-time.png"), styles=styles)
    if given.studies is not None:
        studies = read_studies(given.studies)
        figures.study_figure(on_common_cases(results, studies), to("studies.png"), studies)
    metrics = {name: list(read_metrics(run)) for name, run in runs.items() if (run / "metrics.jsonl").is_file()}
    if metrics:
        figures.training_figure(metrics, to("training.png"), styles)
    stages = {name: run for name, run in runs.items() if any(run.glob("snapshots/*/G.safetensors"))}
    if stages or given.method:
        cases = (
            shipped_cases(given.regime, given.count, given.seed)
            if given.cases is None
            else read_cases(given.cases, given.count)
        )
        written += draw_pictures(given, cases, stages, styles)
    return written


def draw_pictures(
    given: argparse.Namespace, cases: Sequence[EvaluationCase], stages: Mapping[str, Path], styles: Mapping[str, Any]
) -> list[Path]:
    """The figures that show anatomy: that of the cases."""
    written = []
    if stages:
        measured = figures.measure_synthesis(stages, cases)
        figures.synthesis_figure(stages, cases[0], given.out / "synthesis.png", measured, styles)
        with atomic(given.out / "synthesis.json") as partial:
            partial.write_text(json.dumps({"rows": measured}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        written += [given.out / "synthesis.png", given.out / "synthesis.json"]
    if given.method:
        case = cases[0]
        noisy = perturbed(case, "noise", NOISE, given.seed)
        rows = {
            "clean": panels(case, case, given.method, given.threads),
            "noisy": panels(case, noisy, given.method, given.threads),
        }
        path = given.out / "comparison.png"
        figures.comparison_figure(rows, figures.slice_through(case), path, given.overlay)
        written.append(path)
    return written


def main() -> int:
    """Draw and list what was drawn."""
    given = options()
    torch.set_num_threads(given.threads)
    try:
        written = draw(given)
        if not written:
            raise UsageError("there is nothing to draw", "give --results, --run or --method")
    except DeformganError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False)
        return error.exit_code
    for path in written:
        Console().print(str(path), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
