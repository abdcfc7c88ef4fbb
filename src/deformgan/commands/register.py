"""``deformgan register``: align a moving image to a fixed one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deformgan.align.options import Options
from deformgan.commands.console import Console, UnansweredError, verdict
from deformgan.commands.options import Force, Json, Messages, ModelName, OutFolder, Threads, given
from deformgan.commands.startup import quick_imports, read_ahead
from deformgan.errors import DeformganError, QualityError
from deformgan.output.folder import OUTPUTS, RECORD, REPORT, staged_addition, staged_folder
from deformgan.spatial.native.threads import beside

if TYPE_CHECKING:
    from deformgan.output.registration import Registration
    from deformgan.output.report.page import Pictures

_MOST_BESIDE = 1 << 25  # voxels; pictures of larger images are drawn once the files are written, to spare memory


@dataclass(frozen=True, kw_only=True)
class Register:
    """Align a moving image to a fixed one of another contrast.

    Images are NIfTI files of any size, spacing and orientation. The output folder gets the moved image on the fixed image's grid (moved.nii.gz), complete transforms for ITK and ANTs (warp.nii.gz, inverse_warp.nii.gz), the affine part alone (affine.txt), the local volume change (jacobian.nii.gz), and quality, versions, checksums and times (registration.json), and a page that shows all of it (report.html).
    """  # noqa: E501 — the help page wraps its paragraphs itself

    fixed: Annotated[Path, tyro.conf.arg(aliases=["-f"], metavar="IMAGE")]
    """The image that stays."""
    moving: Annotated[Path, tyro.conf.arg(aliases=["-m"], metavar="IMAGE")]
    """The image that is moved onto it."""
    out: OutFolder
    """Folder for the results; made if it is not there."""
    moving_labels: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")] = None
    """Label map in the moving image's space; written as moved_labels.nii.gz, its values kept."""
    moving_points: Annotated[Path | None, tyro.conf.arg(metavar="CSV", help_behavior_hint="(optional)")] = None
    """Points in the moving image's space, columns x, y, z in world mm (RAS+); written as moved_points.csv."""
    fixed_mask: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")] = None
    """Mask of the fixed image: what is not 0 is used, the rest counts as background (a skull, say)."""
    moving_mask: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")] = None
    """The same for the moving image."""
    fixed_lesion: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")] = None
    """Mask of the fixed image: what is not 0 has no counterpart in the moving image; nothing is compared there."""
    moving_lesion: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")] = None
    """Mask of the moving image: what is not 0 has no counterpart in the fixed image; nothing is compared there."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="XFM", help_behavior_hint="(optional)")] = None
    """Transform from fixed to moving to start from, of any format that convert reads."""
    model: ModelName = "t1-t2"
    no_inverse: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write inverse_warp.nii.gz."""
    no_jacobian: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write jacobian.nii.gz."""
    full_grid: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Write the fields on the images' own voxels; else on a grid as coarse as keeps them to 0.02 mm."""
    no_report: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not write report.html."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    options: Options = field(default_factory=Options)
    compute: Threads = field(default_factory=Threads)

    def run(self, console: Console) -> None:
        """Register, write the folder, answer, draw the page.

        Raises:
            QualityError: The folder was written, but the quality check failed.
        """
        with staged_folder(self.out, OUTPUTS, force=self.force, last=RECORD) as folder:
            result, record, pictures = self._register(console, folder)
        quality, unanswered = record["quality"], None
        report = None if self.no_report or result.pair is None else self.out / REPORT
        try:
            console.result(
                _line(quality, record["timings"]["total"], self.out, report), verdict({"out": str(self.out), **record})
            )
        except UnansweredError as error:
            unanswered = error
        for doubt in quality.get("doubts", ()):
            console.note(f"look: {doubt}")
        if quality["verdict"] == "look" and quality["causes"]:
            console.note(f"likely cause: {quality['causes'][0]}")
        if report is not None:
            _add_report(console, self.out, result, record, pictures)
        if unanswered is not None:
            raise unanswered
        if not quality["passed"]:
            causes = quality["causes"][:2]
            hint = f"likely cause: {'; or '.join(causes)}" if causes else "look at the report"
            raise QualityError("; ".join(quality["reasons"]), f"{hint}; the results in {self.out} were kept")

    def _register(
        self, console: Console, folder: Path
    ) -> tuple[Registration, dict[str, Any], Callable[[], Pictures] | None]:
        sources = (self.fixed, self.fixed_mask is None), (self.moving, self.moving_mask is None)
        with read_ahead(*sources) as scans, quick_imports():
            from deformgan.pipeline import register

        self.compute.set_threads()
        fixed, moving = scans()
        with console.progress() as progress:
            result = register(
                fixed,
                moving,
                fixed_mask=self.fixed_mask,
                moving_mask=self.moving_mask,
                fixed_lesion=self.fixed_lesion,
                moving_lesion=self.moving_lesion,
                moving_labels=self.moving_labels,
                moving_points=self.moving_points,
                init=self.init,
                model=self.model,
                options=self.options,
                progress=progress,
            )
            result = replace(result, provenance={**result.provenance, "arguments": given(self)})
            pictures = None if self.no_report else _drawing(result)
            record = result.write(
                folder,
                inverse=not self.no_inverse,
                jacobian=not self.no_jacobian,
                full_grid=self.full_grid,
                progress=progress,
            )
            return result, record, pictures


def _drawing(result: Registration) -> Callable[[], Pictures]:
    """The page's pictures, begun beside the writing; whatever is wrong with them is said when they are asked for."""

    def drawn() -> Pictures:
        from deformgan.output.report.page import pictures_of

        return pictures_of(result)

    largest = max(prod(grid.shape) for grid in (result.moved.grid, result.moving_grid))
    return drawn if largest > _MOST_BESIDE else beside(drawn)


def _add_report(
    console: Console,
    out: Path,
    result: Registration,
    record: dict[str, Any],
    pictures: Callable[[], Pictures] | None = None,
) -> None:
    """The page joins the results, which are whole without it: whatever happens here spoils none of them."""
    from deformgan.output.registration import record_text

    def is_current() -> bool:
        with suppress(OSError):
            if (out / RECORD).read_text(encoding="utf-8") == record_text(record):
                return True
        console.note(f"{out} holds other results by now: the page of these is dropped")
        return False

    again = f"`deformgan report {out}` writes it"
    try:
        with console.progress() as progress, staged_addition(out, REPORT, is_current) as path:
            progress("report")
            from deformgan.output.report.page import report_of

            progress("report")  # a signal that came during the import is heeded here
            report_of(result, record, path, pictures)
            progress("report")
    except Exception as error:  # a bug of the page too: the answer was given, and it is true
        kind = "" if isinstance(error, DeformganError) else f"{type(error).__name__}: "
        console.note(f"warning: {out / REPORT} is missing: {kind}{error}; {again}", error=True)
    except BaseException:
        console.note(f"the results in {out} are whole, but for {REPORT}: {again}")
        raise


def _line(quality: dict[str, Any], seconds: float, out: Path, report: Path | None) -> str:
    def number(name: str, form: str) -> str:
        return "none" if quality[name] is None else format(quality[name], form)

    said = "FAIL" if quality["verdict"] == "fail" else quality["verdict"]
    shift = f" (initial shift {number('initial_shift_mm', '.1f')} mm)" if quality["initial_shift_mm"] else ""
    return (
        f"{out}: {said}, similarity {number('similarity_before', '.3f')} → {number('similarity_after', '.3f')}, "
        f"displacement mean {number('displacement_mean_mm', '.1f')} mm, max {number('displacement_max_mm', '.1f')} mm"
        f"{shift}, folding {number('folding_percent', '.3f')} %, {seconds:.1f} s"
        f"{f', report {report}' if report is not None else ''}"
    )
