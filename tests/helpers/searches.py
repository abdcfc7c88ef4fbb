"""The affine search, remembered: hundreds of tests register the same few phantoms, and each search is a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deformgan.align.placement import Subsampled

Search = Callable[..., tuple[np.ndarray, float]]


def _content(one: Subsampled) -> tuple[bytes, ...]:
    """All that the search sees of an image."""
    tensors = [t for t in (one.values, one.mask, one.excluded) if t is not None]
    return (*(t.numpy().tobytes() for t in tensors), repr(one.grid.shape).encode(), one.grid.affine.tobytes())


def remembered(search: Search, known: dict[Any, tuple[np.ndarray, float]]) -> Search:
    """``search``, which is asked once for each pair and each set of options; ``known`` holds its answers."""

    def once(
        fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray], **options: Any
    ) -> tuple[np.ndarray, float]:
        centres = tuple(centre.tobytes() for centre in centres_mm)
        key = hash((_content(fixed), _content(moving), centres)), tuple(sorted(options.items()))
        if key not in known:
            known[key] = search(fixed, moving, centres_mm, **options)
        matrix, score = known[key]
        return matrix.copy(), score

    return once
