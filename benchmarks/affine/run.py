"""The affine stage from random starts on patients, beside SimpleITK's and ANTs' on the same starts.

    python benchmarks/affine/run.py --data DIR [--starts 50] [--ants 25] [--results DIR]

The moving image's header is moved by a known map: a rotation to 60°, in every other start after one of the 24 ways to
name the axes wrongly without a mirror, a shift to 60 mm, and a scale of 0.8 to 1.25. Of five starts one is rigid
(scale 1, and every method searches a rigid map), in one the moving brain is stripped more tightly, by 0 to 10 mm and
unevenly, and in one it keeps half of its length along one axis. A start succeeds when the mean error over the fixed
brain is below 3 mm, the same for all methods. Voxels are left as they are, so the truth is known as well as the
patients' images are aligned. Each start has its own random numbers: it is the same however many run. Beside the JSON
file a table is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deformgan.align.placement import subsampled_pair
from deformgan.align.search import search
from deformgan.align.stripping import without_borders
from deformgan.io.image import Image, load_image
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import processor, reserve

RESULTS = Path(__file__).parent / "results"

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
RIVALS_MM = 2.0  # voxels that the other tools work on, so that a start takes them seconds
KINDS = ("rigid", "affine", "stripped", "affine", "half")  # of a start, by its number
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS


def image_of(data: Path, patient: str, contrast: str) -> Image:
    """The patient's image; the name ends in the contrast, so that t1 is never t1ce."""
    found = sorted((data / patient).glob(f"*{contrast}.nii.gz"), key=lambda p: len(p.name))
    if not found:
        raise SystemExit(f"{data / patient} has no {contrast} image")
    return load_image(found[0])


def start(rng: np.random.Generator, number: int, fixed: Image, moving: Image) -> tuple[Image, np.ndarray]:
    """The moving image with its header moved, and the true map."""
    if KINDS[number % 5] == "half":
        moving = _half(rng, moving)
    elif KINDS[number % 5] == "stripped":
        moving = _stripped(rng, moving)
    axis_mm = rng.normal(size=3)
    rotation = Rotation.from_rotvec(axis_mm / np.linalg.norm(axis_mm) * np.deg2rad(rng.uniform(0, 60)))
    if number % 2:
        rotation = Rotation.create_group("O")[int(rng.integers(24))] * rotation
    scales = np.exp(np.clip(rng.uniform(np.log(0.8), np.log(1.25)) + rng.uniform(-0.05, 0.05, 3), -0.2231, 0.2231))
    if KINDS[number % 5] == "rigid":
        scales[:] = 1
    shift = rng.normal(size=3)
    move, centre = np.eye(4), np.eye(4)
    move[:3, :3] = rotation.as_matrix() @ np.diag(scales)
    move[:3, 3] = shift / np.linalg.norm(shift) * rng.uniform(0, 60)
    centre[:3, 3] = fixed.grid.to_world(np.argwhere(fixed.data > 0).mean(0))
    move = centre @ move @ np.linalg.inv(centre)
    return Image(moving.data, moving.grid.moved_by(move)), move


def _half(rng: np.random.Generator, image: Image) -> Image:
    """Half of the brain's length along one axis, from anywhere."""
    axis = int(rng.integers(3))
    used = np.flatnonzero(image.data.any(tuple({0, 1, 2} - {axis})))
    first, length = int(used[0]), int(used[-1] - used[0] + 1) // 2
    first += int(rng.integers(length))
    kept = image.data.take(range(first, first + length), axis)
    offset = np.eye(4)
    offset[axis, 3] = first
    return Image(np.asfortranarray(kept), Grid(kept.shape, image.grid.affine @ offset))


def _stripped(rng: np.random.Generator, image: Image) -> Image:
    """As another skull-stripping might leave it: without what lies less than 0 to 10 mm below the surface."""
    box = ndimage.find_objects((image.data > 0).astype(np.uint8))[0]
    inside = np.pad(image.data[box] > 0, 1)
    deep = np.asarray(ndimage.distance_transform_edt(inside, image.grid.spacing))
    depth_mm = ndimage.zoom(rng.uniform(0, 10, (6, 6, 6)), np.array(inside.shape) / 6, order=1)
    data = np.zeros_like(image.data)
    data[box] = image.data[box] * (deep > depth_mm)[1:-1, 1:-1, 1:-1]
    return Image(data, image.grid)


def ours(fixed: Image, moving: Image, rigid: bool) -> np.ndarray:
    """`search` and `without_borders`, as the command runs them, finding the foregrounds included."""
    pair = subsampled_pair(Scan.of(fixed), Scan.of(moving))
    return without_borders(search(*pair, rigid=rigid)[0], *pair, rigid=rigid)


def simpleitk(fixed: Image, moving: Image, rigid: bool) -> np.ndarray:
    """Mattes mutual information from the centres of mass: the best of 24 turns of the axes, then two levels."""
    import SimpleITK as sitk  # noqa: N813 — its own name for itself

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    coarse = [_sitk(_averaged(i, 4.0)) for i in (fixed, moving)]
    one, other = (_sitk(_averaged(i, RIVALS_MM)) for i in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    kind = sitk.VersorRigid3DTransform if rigid else lambda *given: sitk.AffineTransform(*(given or (3,)))
    first = sitk.CenteredTransformInitializer(one, other, kind(), sitk.CenteredTransformInitializerFilter.MOMENTS)
    tried = []
    for turn in Rotation.create_group("O").as_matrix():
        begin = kind(first)
        begin.SetMatrix(turn.ravel().tolist())
        method.SetInitialTransform(begin, inPlace=True)
        tried.append((method.MetricEvaluate(*coarse), begin))
    best = min(tried, key=lambda pair: pair[0])[1]
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(best, inPlace=True)
    method.Execute(one, other)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(best.GetMatrix(), (3, 3))
    matrix[:3, 3] = best.TransformPoint((0.0, 0.0, 0.0))
    return FLIP @ matrix @ FLIP


def _averaged(image: Image, spacing_mm: float) -> Image:
    """Averaged over blocks to voxels about so far apart."""
    factor = np.maximum(1, np.rint(spacing_mm / image.grid.spacing)).astype(int)
    shape = np.array(image.data.shape) // factor
    kept = image.data[tuple(slice(n) for n in shape * factor)].astype(np.float32)
    values = kept.reshape(np.stack([shape, factor], 1).ravel()).mean((1, 3, 5))
    index = np.diag([*factor, 1.0])
    index[:3, 3] = (factor - 1) / 2
    return Image(values, Grid(values.shape, image.grid.affine @ index))


def _sitk(image: Image):
    import SimpleITK as sitk  # noqa: N813 — its own name for itself

    out = sitk.GetImageFromArray(np.ascontiguousarray(image.data.T, np.float32))
    lps, spacing = FLIP @ image.grid.affine, image.grid.spacing
    # ITK takes directions that are not quite perpendicular; a NIfTI file would make them so, and lose shears
    out.SetSpacing(spacing.tolist())
    out.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    out.SetOrigin(lps[:3, 3].tolist())
    return out


def ants_affine(fixed: Image, moving: Image, rigid: bool) -> np.ndarray:
    """``ants.affine_initializer`` at 4 mm (its defaults), then ``ants.registration`` with "Affine" or "Rigid"."""
    import tempfile

    import ants

    from deformgan.transforms.transform import load_transform

    with tempfile.TemporaryDirectory() as folder:
        coarse = [_ants(_averaged(i, 4.0)) for i in (fixed, moving)]
        one, other = (_ants(_averaged(i, RIVALS_MM)) for i in (fixed, moving))
        begin, kind = str(Path(folder) / "begin.mat"), "Rigid" if rigid else "Affine"
        ants.affine_initializer(coarse[0], coarse[1], txfn=begin)
        found = ants.registration(one, other, kind, initial_transform=begin, outprefix=str(Path(folder) / "o"))
        return load_transform(found["fwdtransforms"][0]).affine


def _ants(image: Image):
    import ants

    lps, spacing = FLIP @ image.grid.affine, image.grid.spacing
    data = np.ascontiguousarray(image.data, np.float32)
    return ants.from_numpy(data, lps[:3, 3].tolist(), spacing.tolist(), lps[:3, :3] / spacing)


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
    parser.add_argument("--ants", type=int, default=25, help="how many of the starts, the first ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out = reserve("affine", args.results)
    torch.set_num_threads(args.threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(args.threads)
    methods: dict[str, tuple[Callable[[Image, Image, bool], np.ndarray], int]] = {
        "deformgan": (ours, args.starts),
        "SimpleITK, 24 starts": (simpleitk, args.simpleitk),
        "ANTs": (ants_affine, args.ants),
    }
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in methods}
    for name, (method, count) in methods.items():
        for number in range(count):
            patient, one, other = PAIRS[number % len(PAIRS)]
            fixed = image_of(args.data, patient, one)
            rng, kind = np.random.default_rng([args.seed, number]), KINDS[number % 5]
            moving, truth = start(rng, number, fixed, image_of(args.data, patient, other))
            begin, used = time.perf_counter(), time.process_time()
            found = method(fixed, moving, kind == "rigid")
            seconds, spent = time.perf_counter() - begin, time.process_time() - used
            row = {"pair": f"{patient} {other} to {one}", "kind": kind, "turned": number % 2 == 1}
            miss = round(error_mm(found, truth, fixed), 3)
            rows[name].append({**row, "error_mm": miss, "s": round(seconds, 3), "cpu_s": round(spent, 3)})
            _write(args, rows)  # after every start: a run that is ended early leaves what it has


def _write(args: argparse.Namespace, rows: dict[str, list[dict[str, object]]]) -> None:
    packages = {n: version(n) for n in ("torch", "numpy", "SimpleITK", "antspyx", "deformgan")}
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"threads": args.threads, "seed": args.seed, "success_mm": SUCCESS_MM}
    record = {"machine": {**machine, "packages": packages}, **settings, "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(rows), encoding="utf-8")


def table(rows: dict[str, list[dict[str, object]]]) -> str:
    """Markdown: one line a method."""
    heads = f"starts | success (< {SUCCESS_MM:g} mm) | median error, mm | largest, mm | median time, s | of a core, s"
    lines = [f"| method | {heads} |", "|---|" + 6 * "---:|"]
    for name, results in rows.items():
        if results:
            errors = np.array([r["error_mm"] for r in results], float)
            seconds, spent = (np.median([float(str(r[key])) for r in results]) for key in ("s", "cpu_s"))
            share = f"{int((errors < SUCCESS_MM).sum())} ({100 * (errors < SUCCESS_MM).mean():.0f} %)"
            figures = f"{np.median(errors):.2f} | {errors.max():.1f} | {seconds:.2f} | {spent:.2f}"
            lines.append(f"| {name} | {len(errors)} | {share} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
