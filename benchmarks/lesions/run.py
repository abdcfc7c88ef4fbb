"""What a lesion mask keeps: a tumour's volume after registration onto a brain without it.

    python benchmarks/lesions/run.py --data DIR [--regimes affine small] [--threads 1]

Patients' images are real, expert outlines and all. The tumour-free brain is the patient's own in another contrast: the
outlined region, widened, is replaced by what lies opposite, the brain mirrored onto itself by a rigid map, and where
that is tumour or no brain either by a smooth continuation. Then the moving image is deformed by a known map, so the
volume that the tumour must have afterwards is known. ``affine`` maps have no elastic part: what happens to the tumour
can then be told from what happens around it. Both ways round are registered, the tumour in the moving image and the
tumour in the fixed one, each with the lesion mask and without. A file is added to results/; the table goes
to stdout, each row to stderr as it is found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

import deformgan
from deformgan.align.placement import subsampled_pair
from deformgan.align.search import search
from deformgan.io.image import Image, load_image, load_labels
from deformgan.models.load import Model
from deformgan.preprocess.conform import conform
from deformgan.preprocess.lesions import harmonic
from deformgan.preprocess.scan import Scan
from deformgan.spatial.field import jacobian_determinant
from deformgan.spatial.grid import Grid
from deformgan.spatial.vectors import mm_to_vox
from deformgan.spatial.warp import warp
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation import deformation as simulated
from deformgan.workshop.simulation.deformation import DeformationConfig, sample_deformation

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

RESULTS = Path(__file__).parent / "results"

REGIMES = {
    "affine": DeformationConfig(20.0, (0.0, 0.0), (8.0, 12.0), 7.0, (4.0, 4.0, 10.0), 0.06, 0.02),
    "small": simulated.REGIMES["small"],
    "medium": simulated.REGIMES["medium"],
}
PATIENTS = ("BraTS2021_01478", "BraTS2021_01484", "BraTS-GLI-00000")  # held out of training, with expert outlines
WIDENED = 2  # voxels of 1.5 mm: the rim of a tumour is not healthy either
SEED = 2026


@dataclass(frozen=True, eq=False)
class Case:
    """One pair on one grid: who has the tumour, and the true map.

    Args:
        name: Patient, contrasts, regime and where the tumour is.
        fixed, moving: The pair; one has the tumour, the other does not.
        outline: The tumour on the grid of the image that has it.
        in_moving: Whether that is the moving one.
        truth: (1, 3, D, H, W), fixed to moving, voxels.
        brain: (D, H, W) bool, of the fixed image.
        true_ml: The tumour's volume after a perfect registration: in the fixed image's space for a tumour of the
            moving image, else that of the part of the moving image it is mapped to.
    """

    name: str
    fixed: Image
    moving: Image
    outline: Image
    in_moving: bool
    truth: Tensor
    brain: np.ndarray
    true_ml: float


def patient_cases(data: Path, patient: str, regimes: list[str], pairs: list[str]) -> Iterator[Case]:
    """Every pair of one patient (``t1-t2``: T1 onto T2) in each regime, the tumour in either image."""
    one = conform(load_image(data / patient / "t1.nii.gz"))
    contrasts = {"t1": one.tensor[0, 0].numpy()}
    other = conform(load_image(data / patient / "t2.nii.gz"), grid=one.grid)
    contrasts["t2"] = other.tensor[0, 0].numpy()
    labels = load_labels(data / patient / "seg.nii.gz")
    tumour = Transform.identity().apply_labels(labels, one.grid).data > 0
    brain = contrasts["t1"] > 0
    cleared = without_tumour(contrasts, tumour, one.grid)
    for regime in regimes:
        generator = torch.Generator().manual_seed(SEED + 10 * PATIENTS.index(patient) + list(REGIMES).index(regime))
        # brains fill the grid: no elastic field of the other regimes keeps every voxel of them on it
        known = sample_deformation(
            brain.shape, REGIMES[regime], generator, _tensor(brain), keep_inside=regime == "affine"
        )
        for moving, fixed in (pair.split("-") for pair in pairs):
            label = f"{patient} {moving} to {fixed}, {regime}"
            yield _case(label, contrasts[moving], cleared[fixed], True, tumour, brain, known, one.grid)
            yield _case(label, cleared[moving], contrasts[fixed], False, tumour, brain, known, one.grid)


def _case(
    label: str,
    still: np.ndarray,
    fixed: np.ndarray,
    in_moving: bool,
    tumour: np.ndarray,
    brain: np.ndarray,
    known,
    grid,
) -> Case:
    moving = warp(_tensor(still), known.inverse)[0, 0].numpy()
    voxel_ml = float(grid.spacing.prod()) / 1000
    if in_moving:
        outline, true_ml = warp(_tensor(tumour), known.inverse)[0, 0].numpy() >= 0.5, tumour.sum() * voxel_ml
    else:
        outline = tumour
        true_ml = float(jacobian_determinant(known.forward)[0].numpy()[tumour].sum()) * voxel_ml
    return Case(
        f"{label}, tumour in {'moving' if in_moving else 'fixed'}",
        Image(fixed, grid, "fixed"),
        Image(moving, grid, "moving"),
        Image(outline.astype(np.uint8), grid, "outline"),
        in_moving,
        known.forward,
        brain,
        float(true_ml),
    )


def without_tumour(contrasts: dict[str, np.ndarray], tumour: np.ndarray, grid: Grid) -> dict[str, np.ndarray]:
    """The contrasts with the tumour replaced by the other side, its seam softened over two voxels."""
    t1 = Image(contrasts["t1"], grid, "t1")
    flipped = Image(np.ascontiguousarray(t1.data[::-1]), grid, "mirrored")
    onto_itself = Transform(search(*subsampled_pair(Scan.of(t1), Scan.of(flipped)), rigid=True, near=True)[0])
    away = np.asarray(ndimage.binary_dilation(tumour, iterations=WIDENED), bool) & (t1.data > 0)
    there = onto_itself.apply(Image(away[::-1].astype(np.float32), grid), grid).data > 0
    inner = np.asarray(ndimage.distance_transform_edt(away))
    blend = np.clip(inner / 2.0, 0, 1)
    out = {}
    for name, image in contrasts.items():
        other_side = onto_itself.apply(Image(np.ascontiguousarray(image[::-1]), grid), grid).data
        usable = away & ~there & (other_side > 0)
        filled = np.where(usable, (1 - blend) * image + blend * other_side, image)
        rest = away & ~usable
        out[name] = harmonic(filled[None].astype(np.float32), rest)[0] if rest.any() else filled.astype(np.float32)
    return out


def measure(case: Case, model: Model, masked: bool) -> dict[str, float]:
    """Register, and compare the tumour's volume and the map with the truth."""
    lesion = case.outline if masked else None
    begin = time.process_time()
    found = deformgan.register(
        case.fixed,
        case.moving,
        moving_lesion=lesion if case.in_moving else None,
        fixed_lesion=None if case.in_moving else lesion,
        model=model,
    )
    seconds = time.process_time() - begin
    grid, voxel_ml = case.fixed.grid, float(case.fixed.grid.spacing.prod()) / 1000
    if case.in_moving:
        outline = Image(case.outline.data.astype(np.float32), grid)
        after = float(found.transform.apply(outline, grid).data.sum())
        tumour = warp(_tensor(case.outline.data), case.truth)[0, 0].numpy() > 0.5
    else:
        tumour = case.outline.data > 0
        after = float(found.transform.jacobian(grid)[tumour].sum())
    field = mm_to_vox(found.transform.displacement(grid), grid)
    error = (field - case.truth).square().sum(1).sqrt()[0].numpy()
    healthy = case.brain & ~tumour
    return {
        "volume_error_percent": round(100 * (after * voxel_ml / case.true_ml - 1), 2),
        "after_ml": round(after * voxel_ml, 2),
        "error_inside_vox": round(float(error[tumour & case.brain].mean()), 3),
        "error_outside_vox": round(float(error[healthy].mean()), 3),
        "folding_percent": found.quality.folding_percent,
        "cpu_s": round(seconds, 2),
    }


def main() -> None:
    """Run, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder for each patient: t1, t2, seg (.nii.gz)")
    parser.add_argument("--regimes", nargs="+", default=["affine", "small"], choices=list(REGIMES))
    parser.add_argument("--patients", nargs="+", default=list(PATIENTS), choices=PATIENTS)
    parser.add_argument("--pairs", nargs="+", default=["t1-t2"], choices=["t1-t2", "t2-t1"], help="moving-fixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = deformgan.load_model()
    rows: list[dict[str, Any]] = []
    for patient in args.patients:
        for case in patient_cases(args.data, patient, args.regimes, args.pairs):
            before = float((case.outline.data > 0).sum() * case.fixed.grid.spacing.prod()) / 1000
            row = {"case": case.name, "before_ml": round(before, 2), "true_ml": round(case.true_ml, 2)}
            row |= {name: measure(case, model, masked) for name, masked in (("plain", False), ("masked", True))}
            rows.append(row)
            sys.stderr.write(f"{json.dumps(row)}\n")
    settings = {"threads": args.threads, "seed": SEED, "weights": model.sha256, "widened_voxels": WIDENED}
    path = keep(
        "lesions", {"machine": machine(), "settings": settings, "rows": rows, "summary": summary(rows)}, args.results
    )
    sys.stdout.write(f"{table(rows)}\n{path}\n")


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Over the cases: mean and mean absolute error of the volume, mean errors of the map."""
    out: dict[str, dict[str, float]] = {}
    for name in ("plain", "masked"):
        volume = np.array([row[name]["volume_error_percent"] for row in rows])
        out[name] = {"volume_error_percent": float(volume.mean()), "absolute": float(np.abs(volume).mean())}
        for what in ("error_inside_vox", "error_outside_vox"):
            out[name][what] = float(np.mean([row[name][what] for row in rows]))
    return {name: {what: round(value, 3) for what, value in one.items()} for name, one in out.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a case, the means last."""
    lines = [
        "| case | before, ml | true, ml | after, ml | with mask | error of volume, % | with mask "
        "| error inside, voxels | with mask | outside | with mask |",
        "|---|" + 10 * "---:|",
    ]
    for row in rows:
        one, other = row["plain"], row["masked"]
        cells = [
            f"{row['before_ml']:.1f}",
            f"{row['true_ml']:.1f}",
            f"{one['after_ml']:.1f}",
            f"{other['after_ml']:.1f}",
        ]
        cells += [f"{r['volume_error_percent']:+.1f}" for r in (one, other)]
        cells += [f"{r[what]:.2f}" for what in ("error_inside_vox", "error_outside_vox") for r in (one, other)]
        lines.append(f"| {row['case']} | {' | '.join(cells)} |")
    one, other = (summary(rows)[name] for name in ("plain", "masked"))
    cells = [f"{r['absolute']:.1f}" for r in (one, other)]
    cells += [f"{r[what]:.2f}" for what in ("error_inside_vox", "error_outside_vox") for r in (one, other)]
    lines.append(f"| mean (of the volume error: its size) | | | | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tensor(volume: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume, np.float32))[None, None]


if __name__ == "__main__":
    main()
