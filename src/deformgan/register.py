"""The product, on one page: two images in; a moved image, a transform, a verdict and a record out."""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan import provenance
from deformgan.conform import Conformed, conform_pair, require_overlap
from deformgan.errors import InputError, UsageError
from deformgan.field import affine_field, fit_affine
from deformgan.files import atomic
from deformgan.formats import itk
from deformgan.formats.points import Points
from deformgan.grid import Grid
from deformgan.image import Image, load_image, load_labels
from deformgan.models import DEFAULT_MODEL, Model, computes_in_bf16, load_model
from deformgan.outputs import OUTPUTS, RECORD, staged_folder
from deformgan.provenance import Progress, Stopwatch, no_progress
from deformgan.quality import Quality, error_map, examine, inverse_residual, judge
from deformgan.refine import DEFAULT_STEPS, refine
from deformgan.transform import Transform

if TYPE_CHECKING:
    from deformgan.image import ImageLike

LARGEST_BRAIN_LITRES = 2.5


@dataclass(frozen=True, eq=False)
class Registration:
    """What `register` found.

    Attributes:
        moved: The moving image on the fixed image's grid.
        transform: Where each fixed position finds its intensity in the moving image, world mm (RAS+).
        quality: Evidence and verdict; what is known of the inverse is added when that is written.
        provenance: Versions, inputs and weights by checksum, settings, seconds of each stage; JSON-able.
        moving_grid: The moving image's own grid, on which the inverse is saved.
        moved_labels: The moving labels on the fixed image's grid, if they were given.
        moved_points: The moving image's points in the fixed image's space, world mm (RAS+), if they were given.
        uncertainty: Expected length of the error in mm on the fixed image's grid, 0 outside its foreground, if it was
            asked for.
    """

    moved: Image
    transform: Transform
    quality: Quality
    provenance: dict[str, Any]
    moving_grid: Grid
    moved_labels: Image | None = None
    moved_points: Points | None = None
    uncertainty: Image | None = None

    def save(self, out: str | os.PathLike[str], *, force: bool = False) -> dict[str, Any]:
        """Write everything into a folder, whole or not at all; the folder is made if it is not there.

        Returns:
            What registration.json holds.

        Raises:
            UsageError: Results are there already and ``force`` is not given.
            InputError: The folder cannot be written to, or the disk is full.
        """
        with staged_folder(out, OUTPUTS, force=force, last=RECORD) as folder:
            return self.write(folder)

    def write(
        self, folder: Path, *, inverse: bool = True, jacobian: bool = True, progress: Progress = no_progress
    ) -> dict[str, Any]:
        """Write the files of `save` into an existing folder, several at a time."""
        watch, quality = Stopwatch(progress), self.quality
        with watch.stage("write"), ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            jobs: list[Future[None]] = [pool.submit(self.moved.save, folder / "moved.nii.gz")]
            try:
                if self.moved_labels is not None:
                    jobs.append(pool.submit(self.moved_labels.save, folder / "moved_labels.nii.gz"))
                if self.uncertainty is not None:
                    jobs.append(pool.submit(self.uncertainty.save, folder / "uncertainty.nii.gz"))
                if self.moved_points is not None:
                    self.moved_points.save(folder / "moved_points.csv")
                itk.write_affine(folder / "affine.txt", self.transform.affine)
                fixed_grid = self.moved.grid
                jobs.append(pool.submit(self.transform.save, folder / "warp.nii.gz", fixed_grid))
                if inverse:
                    back = self.transform.inverse()
                    jobs.append(pool.submit(back.save, folder / "inverse_warp.nii.gz", self.moving_grid))
                    quality = quality.with_inverse(inverse_residual(self.transform, back, self.moved.data, fixed_grid))
                if jacobian:
                    volume = Image(self.transform.jacobian(fixed_grid), fixed_grid)
                    jobs.append(pool.submit(volume.save, folder / "jacobian.nii.gz"))
                for job in jobs:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()
        timings = {**self.provenance["timings"], **watch.seconds}
        timings["total"] = round(timings["total"] + watch.seconds["write"], 3)
        record = {
            **self.provenance,
            "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
            "peak_memory_mb": provenance.peak_memory_mb(),
            "quality": quality.as_dict(),
            "outputs": sorted(path.name for path in folder.iterdir() if path.name in OUTPUTS),
        }
        with atomic(folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return record


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    moving_labels: ImageLike | None = None,
    moving_points: Points | np.ndarray | None = None,
    model: str | Path | Model = DEFAULT_MODEL,
    refine_steps: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    uncertainty: bool = False,
    progress: Progress = no_progress,
) -> Registration:
    """Align a moving image to a fixed one.

    Args:
        fixed, moving: Paths, nibabel images or `Image` objects; any size, spacing and orientation.
        moving_labels: A label map in the moving image's space, to be carried along.
        moving_points: Points in the moving image's space, to be carried along; (N, 3) world mm (RAS+).
        model: Shipped weights by name, a folder of weights, or a loaded model.
        refine_steps: Optimisation steps after the network, 0 for none; default: what was best in tests.
        device: ``auto``, ``cpu`` or ``cuda``; a loaded model stays where it is, and this is not used.
        precision: Number format inside the network: ``auto``, ``fp32`` or ``bf16``.
        seed: Only recorded: nothing in a registration is random.
        uncertainty: Whether to map the expected error.
        progress: Called with the name of each stage as it begins.

    Raises:
        UsageError: Unknown weights or options.
        InputError: An image or the weights cannot be used; the message says why and how to mend it.
    """
    steps = DEFAULT_STEPS if refine_steps is None else refine_steps
    if steps < 0:
        raise UsageError(f"{steps} refinement steps are less than 0", "give 0 for none")
    device = str(next(model.network.parameters()).device) if isinstance(model, Model) else pick_device(device)
    precision = _resolved(precision, device)
    watch = Stopwatch(progress)
    sources = {"fixed": fixed, "moving": moving, "moving_labels": moving_labels}
    if moving_points is not None:
        sources["moving_points"] = moving_points.path if isinstance(moving_points, Points) else moving_points
    checksums = provenance.describe_inputs_later({role: one for role, one in sources.items() if one is not None})

    with watch.stage("read"):
        fixed, moving, labels = _read(fixed, moving, moving_labels)
        if labels is not None:
            require_overlap(moving, labels)
        points = None if moving_points is None else _points_within(moving_points, moving)
    with watch.stage("load model"):
        network = model if isinstance(model, Model) else load_model(model, device)
    with watch.stage("conform"):
        fixed_c, moving_c = conform_pair(fixed, moving, network.grid_shape, network.spacing)
    notes = [*_oddities("fixed", fixed_c, network.spacing), *_oddities("moving", moving_c, network.spacing)]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    pair = fixed_c.tensor.to(device), moving_c.tensor.to(device)
    with watch.stage("predict"):
        predicted = field = network.predict(*pair, precision)
    if steps:
        with watch.stage("refine"):
            mask, told = fixed_c.mask.to(device), lambda n, of: progress(f"refine: step {n} of {of}")
            field = refine(*pair, field, steps, mask=mask, progress=told)
    field = field.cpu()
    with watch.stage("transform"):
        transform = _transform(fixed_c, moving_c, field)
        moved = transform.apply(moving, fixed.grid)
        moved_labels = None if labels is None else transform.apply_labels(labels, fixed.grid)
        moved_points = None if points is None else points.at(transform.apply_points(points.positions_mm))
    with watch.stage("assess"):
        backward = network.predict(pair[1], pair[0], precision).cpu()
        evidence = examine(fixed_c, moving_c, field, predicted.cpu(), backward)
        quality = judge(evidence)
        doubt = error_map(evidence, fixed.grid) if uncertainty and evidence is not None else None
    record = provenance.record(
        inputs=checksums.result(),
        model={"name": network.name, "sha256": network.sha256, "network": network.config["network"]},
        settings={
            "refine_steps": steps,
            "device": device,
            "precision": precision,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "working_grid": list(fixed_c.grid.shape),
            "working_spacing_mm": float(fixed_c.grid.spacing[0]),
        },
        notes=notes,
        watch=watch,
    )
    return Registration(moved, transform, quality, record, moving.grid, moved_labels, moved_points, doubt)


def pick_device(name: str) -> str:
    """``name`` itself, or for ``auto`` a CUDA device if there is one, else the CPU.

    Raises:
        UsageError: This machine, or this build of PyTorch, has no such device.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available()}  # MPS lacks 3-D grid sampling
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable.get(name, False):
        raise UsageError(
            f"there is no device {name!r} here", f"use auto or {', '.join(n for n, ok in usable.items() if ok)}"
        )
    return name


def _read(fixed: ImageLike, moving: ImageLike, labels: ImageLike | None) -> tuple[Image, Image, Image | None]:
    """Side by side: decompression leaves the interpreter free."""
    with ThreadPoolExecutor(3, thread_name_prefix="read") as pool:
        images = [pool.submit(load_image, fixed), pool.submit(load_image, moving)]
        labels_too = None if labels is None else pool.submit(load_labels, labels)
        return images[0].result(), images[1].result(), None if labels_too is None else labels_too.result()


def _resolved(precision: str, device: str) -> str:
    """``auto`` as the number format that `Model.predict` takes it for; names that do not exist are left to it."""
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(torch.device(device)) else "fp32"


def _transform(fixed: Conformed, moving: Conformed, field: Tensor) -> Transform:
    """The map of a field, split into the affine map nearest to it over the fixed foreground and the rest."""
    d, h, w = field.shape[2:]
    shape = (d, h, w)
    matrix = _nearest_affine(field, F.adaptive_avg_pool3d(fixed.mask, shape))
    # x + u(x) = M (x + r(x))
    back = torch.linalg.inv(matrix)
    rest = torch.einsum("ij,bjdhw->bidhw", back[:3, :3].float(), field) + affine_field(back[None].float(), shape)
    coarse_to_full = fixed.grid.world_to_index @ fixed.grid.resized(shape).affine
    affine_vox = coarse_to_full @ matrix.numpy() @ np.linalg.inv(coarse_to_full)
    return Transform.from_field(fixed.grid, moving.grid, rest, affine_vox)


def _nearest_affine(field: Tensor, weight: Tensor) -> Tensor:
    """4×4 float64 in the field's voxels; the identity where a wild field leaves none that can be inverted well."""
    matrix = torch.eye(4, dtype=torch.float64)
    if bool(torch.isfinite(field).all()) and float(weight.sum()) > 0:
        matrix[:3] = fit_affine(field, weight)[0].double()
    singular = torch.linalg.svdvals(matrix[:3, :3])
    sound = float(singular.min()) > 0.2 and float(singular.max()) < 5 and float(torch.linalg.det(matrix)) > 0
    return matrix if sound else torch.eye(4, dtype=torch.float64)


def _points_within(points: Points | np.ndarray, moving: Image) -> Points:
    """The points, some of them inside the moving image.

    Raises:
        InputError: None is.
    """
    points = points if isinstance(points, Points) else Points(np.asarray(points, np.float64))
    index = moving.grid.to_index(points.positions_mm)
    outside = ((index < -0.5) | (index > np.array(moving.grid.shape) - 0.5)).any(-1)
    name = points.path or "the points"
    if outside.all():
        raise InputError(
            f"{name}: no point lies in {moving.name}", "give world mm, RAS+ (ITK and ANTs write LPS: x and y negated)"
        )
    if outside.any():
        warnings.warn(f"{name}: {outside.sum()} of {outside.size} points lie outside {moving.name}", stacklevel=3)
    return points


def _oddities(role: str, image: Conformed, spacing: float) -> list[str]:
    """What makes an image unlike the skull-stripped brains the networks know."""
    own = float(image.grid.spacing[0])
    litres = float(image.mask.sum()) * own**3 / 1e6
    found = []
    if litres > LARGEST_BRAIN_LITRES:
        found.append(f"its foreground measures {litres:.1f} l")
    if not image.flat:
        found.append("its background is not flat")
    if own > 1.25 * spacing:
        found.append(f"it fits the working grid at {own:.2f} mm only, not {spacing:g} mm")
    if not found:
        return []
    return [f"the {role} image may not be a skull-stripped brain: {', '.join(found)}; results may be less accurate"]
