"""The product, on one page: two images in; a moved image, a transform, a verdict and a record out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deformgan import provenance
from deformgan.conform import conform_pair
from deformgan.errors import UsageError
from deformgan.files import atomic
from deformgan.formats import itk
from deformgan.formats.points import Points
from deformgan.grid import Grid
from deformgan.image import Image, load_image, load_labels
from deformgan.models import DEFAULT_MODEL, Model, load_model
from deformgan.outputs import OUTPUTS, RECORD, staged_folder
from deformgan.provenance import Progress, Stopwatch, no_progress
from deformgan.quality import Quality, assess
from deformgan.refine import DEFAULT_STEPS, refine
from deformgan.transform import Transform

if TYPE_CHECKING:
    from deformgan.image import ImageLike


@dataclass(frozen=True, eq=False)
class Registration:
    """What `register` found.

    Attributes:
        moved: The moving image on the fixed image's grid.
        transform: Where each fixed position finds its intensity in the moving image, world mm (RAS+).
        quality: Evidence and verdict.
        provenance: Versions, inputs and weights by checksum, settings, seconds of each stage; JSON-able.
        moving_grid: The moving image's own grid, on which the inverse is saved.
        moved_labels: The moving labels on the fixed image's grid, if they were given.
        moved_points: The moving image's points in the fixed image's space, world mm (RAS+), if they were given.
    """

    moved: Image
    transform: Transform
    quality: Quality
    provenance: dict[str, Any]
    moving_grid: Grid
    moved_labels: Image | None = None
    moved_points: Points | None = None

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
        watch = Stopwatch(progress)
        with watch.stage("write"), ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            jobs: list[Future[None]] = [pool.submit(self.moved.save, folder / "moved.nii.gz")]
            try:
                if self.moved_labels is not None:
                    jobs.append(pool.submit(self.moved_labels.save, folder / "moved_labels.nii.gz"))
                if self.moved_points is not None:
                    self.moved_points.save(folder / "moved_points.csv")
                itk.write_affine(folder / "affine.txt", self.transform.affine)
                fixed_grid = self.moved.grid
                jobs.append(pool.submit(self.transform.save, folder / "warp.nii.gz", fixed_grid))
                if inverse:
                    jobs.append(
                        pool.submit(self.transform.inverse().save, folder / "inverse_warp.nii.gz", self.moving_grid)
                    )
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
            "quality": self.quality.as_dict(),
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
    progress: Progress = no_progress,
) -> Registration:
    """Align a moving image to a fixed one.

    Args:
        fixed, moving: Paths, nibabel images or `Image` objects; any size, spacing and orientation.
        moving_labels: A label map in the moving image's space, to be carried along.
        moving_points: Points in the moving image's space, to be carried along; (N, 3) world mm (RAS+).
        model: Shipped weights by name, a folder of weights, or a loaded model.
        refine_steps: Optimisation steps after the network, 0 for none; default: what was best in tests.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: Number format inside the network: ``auto``, ``fp32`` or ``bf16``.
        seed: For what is random.
        progress: Called with the name of each stage as it begins.

    Raises:
        UsageError: Unknown weights or options.
        InputError: An image or the weights cannot be used; the message says why and how to mend it.
    """
    steps = DEFAULT_STEPS if refine_steps is None else refine_steps
    if steps < 0:
        raise UsageError(f"{steps} refinement steps are less than 0", "give 0 for none")
    device = pick_device(device)
    watch = Stopwatch(progress)
    sources = {"fixed": fixed, "moving": moving, "moving_labels": moving_labels}
    checksums = provenance.describe_inputs_later({role: one for role, one in sources.items() if one is not None})

    with watch.stage("read"):
        fixed, moving, labels = _read(fixed, moving, moving_labels)
    with watch.stage("load model"):
        network = model if isinstance(model, Model) else load_model(model, device)
    with watch.stage("conform"):
        fixed_c, moving_c = conform_pair(fixed, moving, network.grid_shape, network.spacing)
    pair = fixed_c.tensor.to(device), moving_c.tensor.to(device)
    with _seeded(seed):
        with watch.stage("predict"):
            field = network.predict(*pair, precision)
        if steps:
            with watch.stage("refine"):
                mask, told = fixed_c.mask.to(device), lambda n, of: progress(f"refine: step {n} of {of}")
                field = refine(*pair, field, steps, mask=mask, progress=told)
    field = field.cpu()
    with watch.stage("transform"):
        transform = Transform.from_field(fixed_c.grid, moving_c.grid, field)
        moved = transform.apply(moving, fixed.grid)
        moved_labels = None if labels is None else transform.apply_labels(labels, fixed.grid)
        moved_points = None if moving_points is None else _move(transform, moving_points)
    with watch.stage("assess"):
        quality = assess(fixed_c, moving_c, field)
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
        watch=watch,
    )
    return Registration(moved, transform, quality, record, moving.grid, moved_labels, moved_points)


def pick_device(name: str) -> str:
    """``name`` itself, or for ``auto`` a CUDA device if there is one, else the CPU.

    Raises:
        UsageError: This machine, or this build of PyTorch, has no such device.
    """
    # MPS lacks 3-D grid sampling, so it is never the automatic choice
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fix what is random inside the block, and leave the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _move(transform: Transform, points: Points | np.ndarray) -> Points:
    points = points if isinstance(points, Points) else Points(np.asarray(points, np.float64))
    return points.at(transform.apply_points(points.positions_mm))
