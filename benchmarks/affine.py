"""The affine stage from random starts on patients, beside SimpleITK's and ANTs' on the same starts.

    python benchmarks/affine.py --data DIR [--starts 50] [--ants 6] [--out affine.json]

The moving image's header is moved by a known affine map: a rotation to 60°, in every other start after one of the 24
ways to name the axes wrongly, a shift to 60 mm, a scale of 0.8 to 1.25. In every fifth start it keeps half of the brain
along one axis. A start succeeds when the mean error over the fixed brain is below 3 mm. Voxels are left as they are, so
the truth is known as well as the patients' images are aligned. Beside the JSON file a table is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from deformgan.align.affine import search
from deformgan.conform import thinned_pair
from deformgan.grid import Grid
from deformgan.image import Image, load_image

PAIRS = (
    ("BraTS2021_01478", "t2", "t1"),
    ("stroke_mit", "t2", "t1"),
    ("BraTS-GLI-00000", "t2", "t1"),
    ("BraTS2021_01484", "flair", "t1"),
    ("BraTS2021_01478", "t1ce", "t2"),
    ("stroke_mit", "t1", "flair"),
    ("BraTS2021_01484", "t1", "t2"),
)
SUCCESS_MM = 3.0
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS


def image_of(data: Path, patient: str, contrast: str) -> Image:
    """The patient's image; the name ends in the contrast, so that t1 is never t1ce."""
    found = sorted((data / patient).glob(f"*{contrast}.nii.gz"), key=lambda p: len(p.name))
    if not found:
        raise SystemExit(f"{data / patient} has no {contrast} image")
    return load_image(found[0])


def start(rng: np.random.Generator, number: int, fixed: Image, moving: Image) -> tuple[Image, np.ndarray]:
    """The moving image with its header moved, and the true map."""
    if number % 5 == 4:
        axis = int(rng.integers(3))
        used = np.flatnonzero(moving.data.any(tuple({0, 1, 2} - {axis})))
        first, length = int(used[0]), int(used[-1] - used[0] + 1) // 2
        first += int(rng.integers(length))
        kept = moving.data.take(range(first, first + length), axis)
        offset = np.eye(4)
        offset[axis, 3] = first
        moving = Image(np.asfortranarray(kept), Grid(kept.shape, moving.grid.affine @ offset))
    axis_mm = rng.normal(size=3)
    rotation = Rotation.from_rotvec(axis_mm / np.linalg.norm(axis_mm) * np.deg2rad(rng.uniform(0, 60)))
    if number % 2:
        rotation = Rotation.create_group("O")[int(rng.integers(24))] * rotation
    scales = np.exp(np.clip(rng.uniform(np.log(0.8), np.log(1.25)) + rng.uniform(-0.05, 0.05, 3), -0.2231, 0.2231))
    shift = rng.normal(size=3)
    move, centre = np.eye(4), np.eye(4)
    move[:3, :3] = rotation.as_matrix() @ np.diag(scales)
    move[:3, 3] = shift / np.linalg.norm(shift) * rng.uniform(0, 60)
    centre[:3, 3] = fixed.grid.to_world(np.argwhere(fixed.data > 0).mean(0))
    move = centre @ move @ np.linalg.inv(centre)
    return Image(moving.data, moving.grid.moved_by(move)), move


def ours(fixed: Image, moving: Image) -> np.ndarray:
    """`deformgan.align.affine.search`, finding the foregrounds included."""
    return search(*thinned_pair(fixed, moving))[0]


def simpleitk(fixed: Image, moving: Image) -> np.ndarray:
    """Mattes mutual information from the centres of mass: the best of 24 turns of the axes, then two levels."""
    import SimpleITK as sitk  # noqa: N813 — its own name for itself

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    one, other = (_sitk(i) for i in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.02, 1)
    method.SetInterpolator(sitk.sitkLinear)
    first = sitk.CenteredTransformInitializer(
        one, other, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    tried = []
    for turn in Rotation.create_group("O").as_matrix():
        begin = sitk.AffineTransform(first)
        begin.SetMatrix(turn.ravel().tolist())
        method.SetInitialTransform(begin, inPlace=True)
        tried.append((method.MetricEvaluate(one, other), begin))
    best = min(tried, key=lambda pair: pair[0])[1]
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(best, inPlace=True)
    method.Execute(one, other)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(best.GetMatrix(), (3, 3))
    matrix[:3, 3] = best.TransformPoint((0.0, 0.0, 0.0))
    return FLIP @ matrix @ FLIP


def _sitk(image: Image):
    import SimpleITK as sitk  # noqa: N813 — its own name for itself

    out = sitk.GetImageFromArray(np.ascontiguousarray(image.data.T, np.float32))
    lps, spacing = FLIP @ image.grid.affine, image.grid.spacing
    # ITK's directions are orthonormal: a header with unequal scales is resampled onto one that is
    turn, _, back = np.linalg.svd(lps[:3, :3] / spacing)
    out.SetSpacing(spacing.tolist())
    out.SetDirection((turn @ back).ravel().tolist())
    out.SetOrigin(lps[:3, 3].tolist())
    return out


def _unsheared(image: Image) -> np.ndarray:
    """4×4 from the world of `_sitk` (RAS+) to that of the image: what its header cannot say there."""
    lps, spacing = FLIP @ image.grid.affine, image.grid.spacing
    turn, _, back = np.linalg.svd(lps[:3, :3] / spacing)
    plain = np.eye(4)
    plain[:3, :3], plain[:3, 3] = turn @ back @ np.diag(spacing), lps[:3, 3]
    return image.grid.affine @ np.linalg.inv(FLIP @ plain)


def ants_affine(fixed: Image, moving: Image) -> np.ndarray:
    """``ants.affine_initializer`` (its defaults), then ``ants.registration("Affine")``."""
    import tempfile

    import ants

    from deformgan.transform import load_transform

    with tempfile.TemporaryDirectory() as folder:
        images = []
        for number, image in enumerate((fixed, moving)):
            plain = Image(image.data, Grid(image.data.shape, np.linalg.inv(_unsheared(image)) @ image.grid.affine))
            plain.save(Path(folder) / f"{number}.nii.gz")
            images.append(ants.image_read(str(Path(folder) / f"{number}.nii.gz")))
        begin = str(Path(folder) / "begin.mat")
        ants.affine_initializer(*images, txfn=begin)
        found = ants.registration(*images, "Affine", initial_transform=begin, outprefix=str(Path(folder) / "o"))
        return load_transform(found["fwdtransforms"][0]).affine


def error_mm(found: np.ndarray, truth: np.ndarray, fixed: Image) -> float:
    """Mean distance over the fixed brain, mm of the fixed image."""
    points = fixed.grid.to_world(np.argwhere(fixed.data > 0)[::997])
    total = np.linalg.inv(truth) @ found
    return float(np.linalg.norm(points @ total[:3, :3].T + total[:3, 3] - points, axis=1).mean())


def main() -> None:
    """Run, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--simpleitk", type=int, default=50, help="how many of the starts, the first ones")
    parser.add_argument("--ants", type=int, default=6, help="how many of the starts, the first ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=Path("affine.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    methods: dict[str, tuple[Callable[[Image, Image], np.ndarray], int, bool]] = {
        "deformgan": (ours, args.starts, False),
        "SimpleITK, 24 starts": (simpleitk, args.simpleitk, True),
        "ANTs": (ants_affine, args.ants, True),
    }
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in methods}
    rng = np.random.default_rng(args.seed)
    for number in range(args.starts):
        patient, one, other = PAIRS[number % len(PAIRS)]
        fixed = image_of(args.data, patient, one)
        moving, truth = start(rng, number, fixed, image_of(args.data, patient, other))
        for name, (method, count, plain) in methods.items():
            if number >= count:
                continue
            begin = time.perf_counter()
            found = method(fixed, moving)
            seconds = time.perf_counter() - begin
            if plain:
                found = _unsheared(moving) @ found @ np.linalg.inv(_unsheared(fixed))
            row = {"pair": f"{patient} {other} to {one}", "half": number % 5 == 4, "turned": number % 2 == 1}
            rows[name].append({**row, "error_mm": round(error_mm(found, truth, fixed), 3), "s": round(seconds, 3)})
        _write(args, rows)  # after every start: a run that is ended early leaves what it has


def _write(args: argparse.Namespace, rows: dict[str, list[dict[str, object]]]) -> None:
    packages = {n: version(n) for n in ("torch", "numpy", "SimpleITK", "antspyx", "deformgan")}
    machine = {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"threads": args.threads, "seed": args.seed, "success_mm": SUCCESS_MM}
    record = {"machine": {**machine, "packages": packages}, **settings, "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(rows), encoding="utf-8")


def table(rows: dict[str, list[dict[str, object]]]) -> str:
    """Markdown: one line a method."""
    lines = [
        "| method | starts | success (< 3 mm) | median error, mm | largest, mm | median time, s |",
        "|---|" + 5 * "---:|",
    ]
    for name, results in rows.items():
        if results:
            errors = np.array([r["error_mm"] for r in results], float)
            seconds = np.median([float(str(r["s"])) for r in results])
            share = f"{int((errors < SUCCESS_MM).sum())} ({100 * (errors < SUCCESS_MM).mean():.0f} %)"
            figures = f"{np.median(errors):.2f} | {errors.max():.1f} | {seconds:.2f}"
            lines.append(f"| {name} | {len(errors)} | {share} | {figures} |")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
