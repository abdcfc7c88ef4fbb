"""Calibrates the quality verdict and the uncertainty map, and tests both on cases of other people.

    python benchmarks/verdict/run.py --fit --root shared/data           # rewrites deformgan/quality/calibration.json
    python benchmarks/verdict/run.py --cases DIR [--first 24] [--people PERSON PERSON …] [--patients PATIENT PATIENT …]

``--fit`` makes cases of the patients and label maps that the weights were trained on (their configuration names them),
registers and degrades each in some 15 ways (`verdict_cases`), registers the hard jobs made of one case of each person
(`verdict_hard`), each label map's person onto the next one, and each patient onto the next and onto a template
(`verdict_people`), and fits the models (`verdict_fit`). ``--cases`` tests them on ready cases of other people
(``deformgan evaluate`` writes such); with ``--people``, folders that have ``t1.nii.gz`` and ``labels.nii.gz``, of which
the first is moved onto the second, the third onto the fourth; and with ``--patients``, folders that have ``t1.nii.gz``
and ``t2.nii.gz``, each moved onto the next and onto the template. It writes ``report.json``, ``report.md`` and the
figures into ``results/``. Measurements are kept in ``--work``, a file a case or pair: a run that was interrupted goes
on, and either half can be redone in seconds; give a new folder after changing the weights, the refinement or what is
measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verdict_cases import NATURAL, Sample, samples_of
from verdict_fit import area, fit_linear, fit_logistic, fit_monotone
from verdict_hard import hard_samples, one_a_subject
from verdict_people import case_pairs, folder_pairs, patient_pairs, people_samples
from verdict_report import write_report

from deformgan.io.atomic import atomic
from deformgan.models.load import Model, load_model
from deformgan.quality.calibration import Calibration, Linear
from deformgan.quality.verdict import COMPLAINTS
from deformgan.workshop.evaluation.make_cases import CasePlan, make_test_cases
from deformgan.workshop.simulation.deformation import REGIMES

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "src" / "deformgan" / "quality" / "calibration.json"
PER_REGIME, FOLDS, SEED = 2, 6, 31
MOST_GOOD_FAILED, MOST_BAD_PASSED = 0.01, 0.02
LOCAL = ("pinning", "log_spread")


def collect(make: Callable[[], Iterable[Sample]], store: Path) -> list[Sample]:
    """What ``make`` gives; from ``store`` if it is there."""
    if not store.is_file():
        found = list(make())
        arrays = {f"voxels_{i}": s.voxels for i, s in enumerate(found)}
        words = json.dumps([s.as_dict() for s in found])
        with atomic(store) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, samples=np.array(words), **arrays)
    with np.load(store) as data:
        entries = json.loads(str(data["samples"]))
        return [
            Sample(**{**e, **{name: tuple(e[name]) for name in ("reasons", "doubts")}}, voxels=data[f"voxels_{i}"])
            for i, e in enumerate(entries)
        ]


def registrations(
    folders: list[Path],
    model: Model,
    seed: int,
    store: Path,
    people: Sequence[Path] = (),
    patients: Sequence[Path] = (),
) -> list[Sample]:
    """Degraded registrations of all cases, the hard jobs of one of each subject, and two people's pairs.

    A file a case or pair in ``store``.
    """
    store.mkdir(parents=True, exist_ok=True)
    found: list[Sample] = []
    for i, folder in enumerate(folders):
        name = f"{folder.parent.name}-{folder.name}"
        found += collect(partial(samples_of, folders, i, model, seed), store / f"{name}.npz")
    for folder in one_a_subject(folders):
        name = f"{folder.parent.name}-{folder.name}"
        found += collect(partial(hard_samples, folder), store / f"{name}-hard.npz")
    for name, subject, pair in chain(case_pairs(folders), folder_pairs(people), patient_pairs(patients)):
        where = store / f"people-{name.replace(' ', '_')}.npz"
        found += collect(partial(people_samples, name, subject, pair), where)
    return found


def training_cases(root: Path, model: Model, work: Path) -> list[Path]:
    """Cases of the people that the weights have seen, each person in one regime."""
    data = _training_data(model)
    found: list[Path] = []
    for i, regime in enumerate(REGIMES):
        plan = CasePlan(
            root, tuple(data["patients"][i :: len(REGIMES)]), tuple(data["label_maps"][i :: len(REGIMES)]),
            per_regime=PER_REGIME, regimes=(regime,), seed=SEED, shape=model.grid_shape, spacing=model.spacing,
        )  # fmt: skip
        found += make_test_cases(work / "training-cases" / regime, plan)
    return found


def _training_data(model: Model) -> dict[str, Any]:
    return model.config["training"]["parts"][1]["data"]  # all three parts have these people


def design(found: list[Sample], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, f) and whether each failed (n,)."""
    values = [[s.features[name] for name in names] for s in found]
    return np.array(values, float), np.array([s.failed for s in found])


def cross_validated(found: list[Sample], names: tuple[str, ...]) -> np.ndarray:
    """Probability of a failure of each sample by a model that has not seen its subject."""
    values, failed = design(found, names)
    subjects = sorted({s.subject for s in found})
    fold = np.array([subjects.index(s.subject) % FOLDS for s in found])
    out = np.empty(len(found))
    for k in range(FOLDS):
        entry = Linear.read(fit_logistic(values[fold != k], failed[fold != k], names))
        out[fold == k] = [probability(entry, s.features) for s, f in zip(found, fold, strict=True) if f == k]
    return out


def probability(entry: Linear, features: dict[str, float | None]) -> float:
    """By the logistic model alone."""
    return float(1 / (1 + np.exp(-(entry.bias + sum(entry.parts(features).values())))))


def select(found: list[Sample]) -> tuple[str, ...]:
    """Features, added one by one while the cross-validated area grows by more than a thousandth."""
    chosen: tuple[str, ...] = ()
    best = 0.5
    _, failed = design(found, ())
    while len(chosen) < len(COMPLAINTS):
        trials = {n: area(cross_validated(found, (*chosen, n)), failed) for n in COMPLAINTS if n not in chosen}
        name = max(trials, key=lambda n: trials[n])
        if trials[name] < best + 1e-3:
            break
        chosen, best = (*chosen, name), trials[name]
    return chosen


def fit_failure(found: list[Sample]) -> tuple[dict[str, Any], np.ndarray]:
    """A model of failure with its limits as ``calibration.json`` has them, and each sample's held-out probability."""
    names = select(found)
    values, failed = design(found, names)
    held_out = cross_validated(found, names)
    soft = np.array([not s.reasons for s in found])  # what the hard rules leave to the model
    fail = float(np.quantile(held_out[~failed], 1 - MOST_GOOD_FAILED))
    look = float(np.quantile(held_out[failed & soft], MOST_BAD_PASSED))
    model = fit_logistic(values, failed, names)
    # a logistic model may set a good feature off against one that no right result has
    worse = [k for k, weight in enumerate(model["weights"]) if weight > 0]
    most = {names[k]: round(float(values[~failed, k].max()), 4) for k in worse}
    return {"model": model, "look": round(min(look, fail), 4), "fail": round(fail, 4), "most": most}, held_out


def local_errors(found: list[Sample], kinds: Sequence[str], *, logarithm: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Local features (n, f) and errors in mm, or their logarithms, (n,), of the voxels of some kinds."""
    voxels = np.concatenate([s.voxels for s in found if s.kind in kinds and s.error_mean_mm is not None])
    error, local = voxels[:, 0].astype(float), voxels[:, 1:].astype(float)
    return local, np.log(np.maximum(error, 0.1)) if logarithm else error


def fit(found: list[Sample], model: Model) -> dict[str, Any]:
    """The content of ``calibration.json``."""
    verdicts, told, of = {}, [], []
    for subject in ("same", "other"):
        those = [s for s in found if s.refined_as == subject]
        verdicts[subject], held_out = fit_failure(those)
        told, of = [*told, *held_out], [*of, *those]
    failed = np.array([s.failed for s in of])
    # where errors lie is learned from registrations as they are; how large they are, from worse ones too
    entry = fit_linear(*local_errors(found, ("registered",)), LOCAL)
    local, error = local_errors(found, NATURAL, logarithm=False)
    at = Linear.read(entry).maps({n: torch.from_numpy(local[:, i]) for i, n in enumerate(LOCAL)}).numpy()
    knots = fit_monotone(at, error)
    ratio = error / np.interp(at, *zip(*knots, strict=True))
    return {
        "weights": {"name": model.name, "sha256": model.sha256},
        "fitted_on": {
            "cases": len({s.case for s in found}),
            "subjects": len({s.subject for s in found}),
            "registrations": len(found),
            "failures": int(failed.sum()),
            "area_cross_validated": round(area(np.array(told), failed), 4),
            "area_with_rules": round(area(np.array(told) + [bool(s.reasons) for s in of], failed), 4),
        },
        "verdict": verdicts,
        "uncertainty": {
            "model": entry,
            "knots": knots,
            "share68": round(float(np.quantile(ratio, 0.68)), 3),
            "share95": round(float(np.quantile(ratio, 0.95)), 3),
        },
    }


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="make training cases, fit, write calibration.json")
    parser.add_argument("--cases", type=Path, help="folder of validation cases to test on")
    parser.add_argument("--first", type=int, default=24, help="how many of these cases")
    parser.add_argument("--people", type=Path, nargs="*", default=[], metavar="PERSON", help="to test on, in pairs")
    parser.add_argument("--patients", type=Path, nargs="*", default=[], metavar="PATIENT", help="to test on, in a ring")
    parser.add_argument("--root", type=Path, help="folder that the weights' training patients are relative to")
    parser.add_argument("--work", type=Path, default=Path("runs/verdict"), help="folder for cases and measurements")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the report")
    parser.add_argument("--model", default="t1-t2")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not args.fit and args.cases is None:
        parser.error("give --fit, --cases DIR or both")
    if args.fit and args.root is None:
        parser.error("--fit needs --root")
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    model, start = load_model(args.model), time.perf_counter()
    if args.fit:
        patients = [args.root / name for name in _training_data(model)["patients"]]
        cases = training_cases(args.root, model, args.work)
        found = registrations(cases, model, 1, args.work / "training", patients=patients)
        entry = fit(found, model)
        with atomic(SHIPPED) as beside:
            beside.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    if args.cases is not None:
        folders = sorted(p.parent for p in args.cases.glob("*/meta.json"))[: args.first]
        found = registrations(folders, model, 2, args.work / "validation", args.people, args.patients)
        calibration = Calibration.read(json.loads(SHIPPED.read_text(encoding="utf-8")))
        write_report(found, calibration, args.out, LOCAL)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
