"""Whether an image shows a head, and its brain alone then: what ``--brain auto`` decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deformgan.align.options import Options
from deformgan.models.anatomy import load_anatomy
from deformgan.models.load import shipped_models
from deformgan.preprocess.masks import LEAST_MASK, cut_by_mask
from deformgan.preprocess.scan import Scan

DEFAULT_ANATOMY = "anatomy"
_STRIPPED_LITRES = 2.0  # what is smaller and has a flat background is taken for a brain without a look


def brain_of(role: str, scan: Scan, options: Options) -> tuple[Scan, list[str]]:
    """The brain in a scan of a head, the rest of the head background.

    Args:
        role: ``fixed`` or ``moving``.
        options: Of the run: ``brain``, of which ``whole`` looks for nothing, and ``device``.

    Returns:
        The scan as it was where it has a mask, shows a brain already or no human head, or where there are no weights
        to tell; and a sentence for the record where its brain was taken out.
    """
    masked = scan.image is not scan.original
    if masked or options.brain == "whole" or DEFAULT_ANATOMY not in shipped_models("S"):
        return scan, []
    image, content = scan.original, scan.content
    litres = np.count_nonzero(content.mask) * float(image.grid.spacing.prod()) / 1e6
    if content.zero_background and litres < _STRIPPED_LITRES:
        return scan, []
    # SciPy's import takes a fifth of a second, and few images are heads
    from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy

    anatomy = find_anatomy(image, load_anatomy(DEFAULT_ANATOMY, options.device))
    if not anatomy.is_head:
        return scan, []
    kept = brain_mask(anatomy, image).data > 0
    if np.count_nonzero(kept & content.mask) < LEAST_MASK * np.count_nonzero(content.mask):
        return scan, []
    shown, inside = cut_by_mask(role, image, kept, content)
    note = f"the {role} image shows a head: its brain ({anatomy.brain_litres:.2f} l) is what is registered"
    return replace(scan, image=shown, content=inside), [note]
