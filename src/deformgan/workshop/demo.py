"""The demo: a pair whose truth is known, made, registered, measured and drawn from what the package itself carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS
from deformgan.io.image import Image
from deformgan.output import pictures
from deformgan.output.folder import REPORT, staged_folder
from deformgan.output.provenance import Progress, Stopwatch, no_progress
from deformgan.output.report.page import report_of
from deformgan.pipeline import register
from deformgan.workshop.simulation.anatomy import load_anatomy
from deformgan.workshop.simulation.cases import TUMOUR_LABELS, SimulatedCase, make_case, write_case
from deformgan.workshop.simulation.deformation import DeformationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deformgan.models.load import Model
    from deformgan.output.registration import Registration

RECORD = "demo.json"
OUTPUTS = ("case", "registration", "pictures", RECORD)
# room for the brain to move by 20 voxels in any direction
SHAPE = (136, 152, 128)
SPACING_MM = 1.5
DEFORMATION = DeformationConfig(
    max_displacement=20.0,
    elastic=(8.0, 11.0),
    smoothness=(9.0, 12.0),
    shift=9.0,
    rotation=(6.0, 6.0, 12.0),
    log_scale=0.08,
)
_SOURCE = "Simulated from an average brain (ICBM 152), slices through the tumour, the patient's right on the left."
_BOARD = "Squares of 18 mm, the fixed T2 tinted, the T1 grey: aligned edges run on from square to square."
_GRID = "A 6 mm grid of the fixed brain as the map bends it into the moving T1 (in the plane); colour: displacement."


@dataclass(frozen=True)
class Agreement:
    """How near a map is to the truth; lengths in voxels of 1.5 mm, over the fixed brain.

    Attributes:
        error_mean_vox, error_p95_vox, error_max_vox: Distance between found and true position.
        tumour_dice: Overlap of the moved tumour outline with the true one, 0 to 1.
        rmse: Root mean square intensity difference to the perfect result, intensities in [0, 1].
    """

    error_mean_vox: float
    error_p95_vox: float
    error_max_vox: float
    tumour_dice: float
    rmse: float


def run_demo(
    out: Path,
    *,
    model: str | Path | Model = "t1-t2",
    refine_steps: int = DEFAULT_STEPS,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Make a T2 and a deformed T1 with a tumour, register them, compare with the truth, draw pictures.

    Args:
        out: Folder for ``case/``, ``registration/``, ``pictures/`` and demo.json; whole or not there at all.
        seed: Of the simulation.
        force: Replace the results of an earlier demo.
        progress: Called with the name of each stage.

    Other arguments as in `deformgan.pipeline.register`.

    Returns:
        What demo.json holds: errors before and after, seconds of each stage, the registration's verdict.

    Raises:
        UsageError: ``out`` holds results and ``force`` is not given.
    """
    watch = Stopwatch(progress)
    with staged_folder(out, OUTPUTS, force=force, last=RECORD) as folder:
        with watch.stage("simulate"):
            case = demo_case(seed)
        for name in OUTPUTS[:3]:
            (folder / name).mkdir()
        fixed, moving, labels = _images(case)
        found = register(
            fixed, moving, moving_labels=labels, model=model, refine_steps=refine_steps,
            device=device, precision=precision, progress=progress,
        )  # fmt: skip
        written = found.write(folder / "registration", progress=progress)
        if found.pair is not None:
            with watch.stage("report"):
                report_of(found, written, folder / "registration" / REPORT)
        with watch.stage("write case"):
            write_case(case, folder / "case")
        with watch.stage("compare"):
            before, after, errors_mm = compare(case, found)
        with watch.stage("draw"):
            draw(case, found, errors_mm, before, after, folder / "pictures")
        seconds = {"simulate": watch.seconds["simulate"], **written["timings"]}
        seconds |= {name: value for name, value in watch.seconds.items() if name != "simulate"}
        record = {
            "case": case.meta,
            "before": asdict(before),
            "after": asdict(after),
            "spacing_mm": SPACING_MM,
            "quality": written["quality"],
            "timings": {name: round(value, 3) for name, value in seconds.items()},
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return record


def demo_case(seed: int) -> SimulatedCase:
    """The demo's case: T2 fixed, T1 moving, a tumour, a deformation of up to 20 voxels of 1.5 mm."""
    # off by one, so that the default shows a tumour at the height of the ventricles
    generator = torch.Generator().manual_seed(seed + 1)
    case = make_case(load_anatomy(), DEFORMATION, generator, shape=SHAPE, spacing=SPACING_MM)
    case.meta["seed"] = seed
    return case


def _images(case: SimulatedCase) -> tuple[Image, Image, Image]:
    volumes = {"fixed": case.fixed, "moving": case.moving, "moving_seg": case.moving_labels}
    fixed, moving, labels = (Image(_volume(v), case.grid, f"case/{name}.nii.gz") for name, v in volumes.items())
    return fixed, moving, labels


def _volume(tensor: Tensor) -> np.ndarray:
    return np.asfortranarray(tensor[0, 0].numpy())


def compare(case: SimulatedCase, found: Registration) -> tuple[Agreement, Agreement, dict[str, np.ndarray]]:
    """Agreement with the truth before and after, and both maps of the error in mm, (D, H, W)."""
    truth = case.transform.displacement(case.grid)
    displacement = found.transform.displacement(case.grid)
    errors = {"before": np.linalg.norm(truth, axis=-1), "after": np.linalg.norm(displacement - truth, axis=-1)}
    if found.moved_labels is None:
        raise ValueError("the demo's registration carries labels along")
    before = _agreement(case, errors["before"], _volume(case.moving_labels), _volume(case.moving))
    after = _agreement(case, errors["after"], found.moved_labels.data, found.moved.data)
    return before, after, errors


def _agreement(case: SimulatedCase, error_mm: np.ndarray, labels: np.ndarray, image: np.ndarray) -> Agreement:
    mask = _volume(case.mask)
    error = error_mm[mask] / SPACING_MM
    true, got = np.isin(_volume(case.fixed_labels), TUMOUR_LABELS), np.isin(labels, TUMOUR_LABELS)
    difference = (image - _volume(case.moving_true))[mask]
    return Agreement(
        error_mean_vox=round(float(error.mean()), 4),
        error_p95_vox=round(float(np.percentile(error, 95)), 4),
        error_max_vox=round(float(error.max()), 4),
        tumour_dice=round(2 * float((true & got).sum()) / max(float(true.sum() + got.sum()), 1.0), 4),
        rmse=round(float(np.sqrt(np.mean(difference**2))), 4),
    )


def draw(
    case: SimulatedCase,
    found: Registration,
    errors_mm: Mapping[str, np.ndarray],
    before: Agreement,
    after: Agreement,
    folder: Path,
) -> None:
    """Write overview, before, after, checkerboard, warped_grid and error_map, ``.png`` each."""
    if found.moved_labels is None:
        raise ValueError("the demo's registration carries labels along")
    fixed, moving, moved = _volume(case.fixed), _volume(case.moving), found.moved.data
    fixed_labels, moving_labels = _volume(case.fixed_labels), _volume(case.moving_labels)
    mask = _volume(case.mask)
    tumour = np.argwhere(np.isin(fixed_labels, TUMOUR_LABELS)).mean(0)
    view = pictures.View.through(tumour, mask | (moving_labels > 0), case.grid.spacing.tolist())
    maps = {"found": (moving, found.transform), "true": (moving, case.transform)}
    grids = {name: (image, transform.displacement(case.grid)) for name, (image, transform) in maps.items()}
    errors = f"Distance between true and found position, brain mean: {_length(before.error_mean_vox)} before, "
    errors += f"{_length(after.error_mean_vox)} after."

    def pair(image: np.ndarray, labels: np.ndarray, name: str, title: str, agreement: Agreement) -> Figure:
        names = ("fixed T2", f"{name} T1")
        return pictures.draw_pair(view, fixed, image, fixed_labels, labels, names, title, _caption(agreement))

    boards = {"before": moving, "after": moved}
    pages = {
        "overview": found.plot(),
        "before": pair(moving, moving_labels, "moving", "Before registration", before),
        "after": pair(moved, found.moved_labels.data, "moved", "After registration", after),
        "checkerboard": pictures.draw_checkerboard(view, fixed, boards, "Checkerboard", f"{_BOARD}\n{_SOURCE}"),
        "warped_grid": pictures.draw_grid(view, grids, mask, "Warped grid", f"{_GRID}\n{_SOURCE}"),
        "error_map": pictures.draw_error(view, errors_mm, mask, "Displacement error", f"{errors}\n{_SOURCE}"),
    }
    for name, figure in pages.items():
        pictures.save(figure, folder / f"{name}.png")


def _caption(agreement: Agreement) -> str:
    return (
        f"Error: mean {_length(agreement.error_mean_vox)}, largest {_length(agreement.error_max_vox)}; "
        f"tumour Dice {agreement.tumour_dice:.3f}.\n{_SOURCE}"
    )


def _length(voxels: float) -> str:
    return f"{voxels:.2f} voxels ({voxels * SPACING_MM:.2f} mm)"


def summary(record: Mapping[str, Any], out: Path) -> str:
    """The outcome as a few lines of text."""
    rows = [f"{'':24}{'before':>22}{'after':>22}"]
    for key, name in (("mean", "mean"), ("p95", "95th percentile"), ("max", "largest")):
        cells = [record[when][f"error_{key}_vox"] for when in ("before", "after")]
        rows.append(f"{'error, ' + name:24}" + "".join(f"{f'{v:.2f} vox {v * SPACING_MM:6.2f} mm':>22}" for v in cells))
    for key, name in (("tumour_dice", "Dice of the tumour"), ("rmse", "intensity RMSE")):
        rows.append(f"{name:24}" + "".join(f"{record[when][key]:>22.3f}" for when in ("before", "after")))
    times = ", ".join(f"{name} {value:.2f}" for name, value in record["timings"].items() if name != "total")
    rows.append(f"seconds: {times}; registration in all {record['timings']['total']:.2f}")
    rows.append(f"pictures: {out / 'pictures'}")
    if (report := out / "registration" / REPORT).is_file():
        rows.append(f"report, for a browser: {report}")
    return "\n".join(rows)
