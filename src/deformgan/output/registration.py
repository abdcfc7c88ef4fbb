"""What a registration found, and how it is written: every file whole, several at a time."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deformgan.io.atomic import atomic
from deformgan.io.image import Image
from deformgan.io.points import Points
from deformgan.output import provenance
from deformgan.output.fields import describe_field, saved_grid, write_field, write_jacobian
from deformgan.output.folder import OUTPUTS, RECORD, REPORT, staged_folder
from deformgan.output.provenance import Progress, Stopwatch, no_progress
from deformgan.quality import Quality, inverse_residual
from deformgan.spatial.affine import affine_figures
from deformgan.spatial.grid import Grid
from deformgan.transforms.compact import compact_inverse
from deformgan.transforms.formats import itk
from deformgan.transforms.transform import Transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from nibabel.nifti1 import Nifti1Image


def record_text(record: dict[str, Any]) -> str:
    """What registration.json holds, word for word."""
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True, eq=False)
class Registration:
    """What `deformgan.register` found.

    Attributes:
        moved: The moving image on the fixed image's grid.
        transform: Where each fixed position finds its intensity in the moving image, world mm (RAS+).
        quality: Evidence and verdict; what is known of the inverse is added when that is written.
        provenance: Versions, inputs and weights by checksum, settings, seconds of each stage; JSON-able.
        moving_grid: The moving image's own grid, on which the inverse is saved.
        moved_labels: The moving labels on the fixed image's grid, if they were given.
        moved_points: The moving image's points in the fixed image's space, world mm (RAS+), if they were given.
        pair: Fixed and moving image as they were read.
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
    pair: tuple[Image, Image] | None = None
    uncertainty: Image | None = None

    def __repr__(self) -> str:
        quality = self.quality
        return (
            f"Registration({quality.verdict}, similarity {quality.similarity_before:.3f} → "
            f"{quality.similarity_after:.3f}, moved {self.moved!r})"
        )

    def _repr_html_(self) -> str:
        from deformgan.output.notebook import html

        return html(self)

    def plot(self) -> Figure:
        """A figure of the middle slices: before, after, edges, displacement and volume change; a notebook shows it.

        Raises:
            ValueError: It does not carry its pair.
        """
        from deformgan.output.overview import draw_registration

        return draw_registration(self)

    def to_nibabel(self) -> Nifti1Image:
        """The moved image as one of nibabel."""
        return self.moved.to_nibabel()

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the page that shows everything, as ``report.html`` of the command; returns its path."""
        from deformgan.output.report.page import report_of

        record = {**self.provenance, "quality": self.quality.as_dict()}
        record["affine"] = affine_figures(self.transform.affine, self.moved.grid.centre_mm)
        report_of(self, record, Path(path))
        return Path(path)

    def save(self, out: str | os.PathLike[str], *, force: bool = False, report: bool = True) -> dict[str, Any]:
        """Write the folder that the command writes, whole or not at all; it is made if it is not there.

        Args:
            out: The folder.
            force: Replace results that are there.
            report: Write report.html too.

        Returns:
            What registration.json holds.

        Raises:
            UsageError: Results are there already and ``force`` is not given.
            InputError: The folder cannot be written to, or the disk is full.
        """
        with staged_folder(out, OUTPUTS, force=force, last=RECORD) as folder:
            record = self.write(folder)
            if report and self.pair is not None:
                from deformgan.output.report.page import report_of

                report_of(self, record, folder / REPORT)
            return record

    def write(
        self,
        folder: Path,
        *,
        inverse: bool = True,
        jacobian: bool = True,
        full_grid: bool = False,
        maps_as: str = ".nii.gz",
        progress: Progress = no_progress,
    ) -> dict[str, Any]:
        """Write the files of `save` into an existing folder, several at a time.

        Args:
            inverse, jacobian: Whether to write these files.
            full_grid: Write the fields on the images' voxels; default: as coarse as they keep their values.
            maps_as: The ending of both maps' files: ``.nii.gz`` for fields, ``.h5`` for ITK's composites.
        """
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
                if jacobian:
                    jobs.append(pool.submit(write_jacobian, folder / "jacobian.nii.gz", self.transform, fixed_grid))
                maps = {f"warp{maps_as}": (self.transform, saved_grid(self.transform, fixed_grid, full_grid))}
                if inverse:
                    back = compact_inverse(self.transform, self.moving_grid)
                    maps[f"inverse_warp{maps_as}"] = back, saved_grid(back, self.moving_grid, full_grid)
                    quality = quality.with_inverse(inverse_residual(self.transform, back, self.moved.data, fixed_grid))
                jobs += [pool.submit(write_field, folder / name, *of) for name, of in maps.items()]
                for job in jobs:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()
        record = self._record(folder, quality, watch.seconds) | {
            "fields": {name: describe_field(*of) for name, of in maps.items()}
        }
        with atomic(folder / RECORD) as partial:
            partial.write_text(record_text(record), encoding="utf-8")
        return record

    def _record(self, folder: Path, quality: Quality, seconds: dict[str, float]) -> dict[str, Any]:
        """What registration.json says of a folder whose files are written, but for how fields are stored."""
        outputs = sorted(path.name for path in folder.iterdir() if path.name in OUTPUTS)
        before = dict(self.provenance["timings"])
        timings = {"total": before.pop("total") + seconds["write"]}
        timings = {**before, **seconds, **timings}
        return {
            **self.provenance,
            "timings": {name: round(spent, 3) for name, spent in timings.items()},
            "peak_memory_mb": provenance.peak_memory_mb(),
            "affine": affine_figures(self.transform.affine, self.moved.grid.centre_mm),
            "quality": quality.as_dict(),
            "outputs": outputs,
            "output_sha256": {name: provenance.sha256(folder / name) for name in outputs},
        }
