"""What probably went wrong where a result is no `pass`, and what to try next: told from the two images themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from deformgan.preprocess.scan import Scan
from deformgan.quality.result import Quality

_COVERED_PERCENT = 90.0
_OTHER_SIZE = 1.7  # ratio of the contents' volumes; adults' brains differ by 1.5 at most
_HEAD_LITRES = 2.5  # a brain is smaller
_THICK_MM, _THICKER = 3.5, 2.5  # a slice that thick, and so many times its voxels' side, hides what is between
_UNKNOWN = "the contrasts may be unlike those the weights know: look at the edges in the report, or try another --model"
_FAR_MM = 20.0  # between the contents' centres, that headers of one session do not leave


@dataclass(frozen=True)
class Shown:
    """One image of a pair in a few numbers.

    Attributes:
        role: ``fixed`` or ``moving``.
        litres: Of content.
        is_cut: Whether the content goes on beyond the image.
        is_head: Whether it is more than a brain.
        slice_mm, side_mm: The largest and the smallest side of a voxel.
        is_region: Whether it is cut off on most sides.
    """

    role: str
    litres: float
    is_cut: bool
    is_head: bool
    slice_mm: float
    side_mm: float
    is_region: bool = False

    @classmethod
    def of(cls, role: str, scan: Scan) -> Shown:
        """What a scan shows."""
        grid, content = scan.image.grid, scan.content
        litres = content.volume_mm3(grid) / 1e6
        view = content.field_of_view
        is_head = litres > _HEAD_LITRES or not (content.zero_background or view.is_region)
        side, thick = (float(x) for x in (grid.spacing.min(), grid.spacing.max()))
        return cls(role, litres, view.is_limited, is_head, thick, side, view.is_region)


def explained(quality: Quality, fixed: Scan, moving: Scan, *, subject: str = "auto", searched: bool = False) -> Quality:
    """The verdict with its likely causes, the likeliest first, or the one that nothing speaks for; a `pass` as it is.

    Args:
        fixed, moving: The pair; the moving image where its header places it.
        subject: ``other`` where the images were taken for two people.
        searched: Whether the start was searched from every rotation.
    """
    if quality.verdict == "pass":
        return quality
    shown = Shown.of("fixed", fixed), Shown.of("moving", moving)
    centres = (scan.content.centre_mm(scan.image.grid) for scan in (fixed, moving))
    apart = float(np.linalg.norm(np.subtract(*centres)))
    causes = tuple(_causes(quality, shown, apart, subject, searched))
    return replace(quality, causes=causes or (_UNKNOWN,))


def _causes(
    quality: Quality, shown: tuple[Shown, Shown], apart_mm: float, subject: str, searched: bool
) -> Iterator[str]:
    fixed, moving = shown
    if quality.is_mirrored:
        yield "left and right are exchanged in one header: compare a side that is known, and correct that header"
    yield from _partial(quality, shown)
    for one in shown:
        if one.is_region:
            yield f"the {one.role} image shows a region alone: give more of what is around it, if there is more"
    heads = [one for one in shown if one.is_head]
    ratio = moving.litres / max(fixed.litres, 1e-9)
    if len(heads) == 1:
        one = heads[0].role
        yield f"the {one} image shows more than a brain, the other one does not: strip its skull, or give --{one}-mask"
    elif not any(one.is_cut for one in shown) and not 1 / _OTHER_SIZE < ratio < _OTHER_SIZE:
        sizes = f"{fixed.litres:.3g} l in the fixed image, {moving.litres:.3g} l in the moving one"
        yield f"the contents differ in size ({sizes}): check the voxel sizes in both headers, or use --transform joint"
    for one in shown:
        if one.slice_mm >= max(_THICK_MM, _THICKER * one.side_mm):
            yield (
                f"the {one.role} image has slices of {one.slice_mm:.1f} mm, with nothing between them to compare: "
                "use --transform affine, or a series with thinner slices"
            )
    if not searched and apart_mm > _FAR_MM:
        yield f"the headers place the contents {apart_mm:.0f} mm apart: use --transform joint, which searches"
    if subject == "other" and searched:
        yield (
            "the images seem to show two people, and parts of their brains may have no counterpart (a tumour, a "
            "resection): give --fixed-lesion or --moving-lesion there; if it is one person, --subject same"
        )
    elif subject == "other":
        yield "the images seem to show two people: use --transform joint for the start"
    if len(heads) == 2:
        yield "both images show more than a brain: strip the skulls, or give --fixed-mask and --moving-mask"
    if not searched:
        yield "the start may be rotated or shifted too far: use --transform joint, which searches all rotations"


def _partial(quality: Quality, shown: tuple[Shown, Shown]) -> Iterator[str]:
    covered = quality.coverage_percent
    cut = " and the ".join(one.role for one in shown if one.is_cut)
    if covered is not None and covered < _COVERED_PERCENT:
        what = f"partial coverage: {covered:.0f} % of the fixed content lies where the moving image has data"
    elif cut and shown[0].litres and not 1 / _OTHER_SIZE < shown[1].litres / shown[0].litres < _OTHER_SIZE:
        what = f"partial coverage: the content goes on beyond the {cut} image"
    else:
        return
    yield f"{what}: trust the overlap alone, crop the fixed image to it, or start with --init from a whole image"
