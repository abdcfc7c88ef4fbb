"""Whether an image shows a head, and its brain alone then: what ``--brain auto`` decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from deformgan.align.options import Options
from deformgan.models.anatomy import load_anatomy_model
from deformgan.models.load import shipped_models
from deformgan.preprocess.masks import LEAST_MASK, cut_out, is_constant
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


def brains_of(pair: Mapping[str, Scan], options: Options) -> tuple[dict[str, Scan], dict[str, FoundBrain]]:
    """The brains in scans of heads, the rest of each head background.

    Only like is compared with like: both scans are left as they are where one of them is neither a brain already nor a
    head, or shows too little of one to be known. A brain that was stripped widely counts as a head.

    Args:
        pair: ``fixed`` and ``moving``.
        options: Of the run: ``brain``, of which ``whole`` looks for nothing, and ``device``.

    Returns:
        By role the scans as they were, or their brains, and what there is to say of each brain that was taken out.
    """
    if options.brain != "auto" or all(map(_seems_a_brain, pair.values())):
        return dict(pair), {}
    if DEFAULT_ANATOMY not in shipped_models("S"):
        return dict(pair), {}
    looked = {role: _look(scan, options.device) for role, scan in pair.items()}
    if any(look is None for look in looked.values()):
        return dict(pair), {}
    scans = {role: look[0] for role, look in looked.items() if look is not None}
    return scans, {role: look[1] for role, look in looked.items() if look is not None and look[1] is not None}


def _seems_a_brain(scan: Scan) -> bool:
    """Whether it has a mask, or a flat background and the size speak for a stripped brain, or something smaller."""
    litres = scan.content.volume_mm3(scan.original.grid) / 1e6
    return scan.is_masked or bool(scan.content.zero_background and litres < _STRIPPED_LITRES)


def _look(scan: Scan, device: str) -> tuple[Scan, FoundBrain | None] | None:
    """The scan itself where it shows a brain already, else the brain found in it; None where none is known."""
    image, content = scan.image, scan.content
    if scan.is_masked:
        return scan, None
    # SciPy's import takes a fifth of a second, and few images are heads
    from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy

    model = load_anatomy_model(DEFAULT_ANATOMY, device)
    anatomy = find_anatomy(image, model, content)
    if not anatomy.is_known:
        return None
    # scalp may be as dark as the air, whose noise then tells a head from a brain that was stripped
    if content.zero_background and not anatomy.is_head:
        return scan, None
    kept = brain_mask(anatomy, image).data > 0
    # beside a very bright scalp Otsu's method takes the brain for background
    if content.zero_background and np.count_nonzero(kept & content.mask) < LEAST_MASK * np.count_nonzero(content.mask):
        return None
    image, content = cut_out(image, kept, content)
    # of a region within the brain S sees too little
    if is_constant(image, content) or content.field_of_view.is_region:
        return None
    found = FoundBrain(round(anatomy.brain_litres, 3), round(anatomy.certainty, 3), model.sha256)
    return replace(scan, image=image, content=content), found
