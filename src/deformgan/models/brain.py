"""Whether an image shows a head, and its brain alone then: what ``--brain auto`` decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deformgan.align.options import Options
from deformgan.models.anatomy import load_anatomy
from deformgan.models.load import shipped_models
from deformgan.preprocess.masks import LEAST_MASK, cut_by_mask
from deformgan.preprocess.scan import Scan

DEFAULT_ANATOMY = "anatomy"
_STRIPPED_LITRES = 2.0  # what is smaller and has a flat background is taken for a brain without a look


@dataclass(frozen=True)
class FoundBrain:
    """What a record says of a brain that was taken out of a head.

    Args:
        litres: Its volume.
        certainty: Of S, 0 to 1 (see `deformgan.preprocess.brain_extraction.Anatomy`).
        sha256: Of S's weights.
    """

    litres: float
    certainty: float
    sha256: str


def brain_of(role: str, scan: Scan, options: Options) -> tuple[Scan, FoundBrain | None]:
    """The brain in a scan of a head, the rest of the head background.

    Args:
        role: ``fixed`` or ``moving``.
        options: Of the run: ``brain``, of which ``whole`` looks for nothing, and ``device``.

    Returns:
        The scan as it was where it has a mask, shows a brain already or no human head, or where there are no weights
        to tell; else its brain, and what there is to say of it.
    """
    masked = scan.image is not scan.original
    if masked or options.brain == "whole" or DEFAULT_ANATOMY not in shipped_models("S"):
        return scan, None
    image, content = scan.original, scan.content
    litres = np.count_nonzero(content.mask) * float(image.grid.spacing.prod()) / 1e6
    if content.zero_background and litres < _STRIPPED_LITRES:
        return scan, None
    # SciPy's import takes a fifth of a second, and few images are heads
    from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy

    model = load_anatomy(DEFAULT_ANATOMY, options.device)
    anatomy = find_anatomy(image, model)
    if not anatomy.is_head:
        return scan, None
    kept = brain_mask(anatomy, image).data > 0
    if np.count_nonzero(kept & content.mask) < LEAST_MASK * np.count_nonzero(content.mask):
        return scan, None
    shown, inside = cut_by_mask(role, image, kept, content)
    found = FoundBrain(round(anatomy.brain_litres, 3), round(anatomy.certainty, 3), model.sha256)
    return replace(scan, image=shown, content=inside), found
