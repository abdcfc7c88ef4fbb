"""How far apart the structures are that S sees in both images of a registered pair: evidence that nothing optimised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deformgan.io.image import Image
from deformgan.models.anatomy import load_anatomy_model
from deformgan.models.brain import DEFAULT_ANATOMY
from deformgan.models.load import shipped_models

_FEWEST = 15  # structures seen in both, below which they say little
# of S: brains of patients have 0.641 to 0.685, their outlines filled with something else 0.571 to 0.597
_CERTAIN = 0.62


def structures_apart_mm(
    fixed: Image, moving: Image, mapped: Callable[[np.ndarray], np.ndarray], device: str
) -> float | None:
    """Mean distance between the centres of structures in the moving image and those of the fixed one, mapped there.

    Args:
        fixed, moving: Brains or heads of any contrast.
        mapped: From fixed to moving, (N, 3) world mm (RAS+).
        device: That S runs on.

    Returns:
        Millimetres; None where S is not there, does not know what an image shows, or sees few structures in both.
    """
    if DEFAULT_ANATOMY not in shipped_models("S"):
        return None
    # SciPy's import takes a fifth of a second, and few pairs need this
    from deformgan.preprocess.brain_extraction import find_anatomy

    model = load_anatomy_model(DEFAULT_ANATOMY, device)
    seen = [find_anatomy(image, model) for image in (fixed, moving)]
    if not all(one.is_known and one.certainty >= _CERTAIN for one in seen):
        return None
    ours, theirs = (one.centres_mm for one in seen)
    both = np.isfinite(ours).all(1) & np.isfinite(theirs).all(1)
    if np.count_nonzero(both) < _FEWEST:
        return None
    return float(np.linalg.norm(mapped(ours[both]) - theirs[both], axis=1).mean())
