"""`deformgan.apply`: any image through any transform, as ``deformgan apply`` does it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deformgan.io.image import Image, load_exact
from deformgan.io.label_maps import is_whole, looks_like_labels
from deformgan.spatial.grid import Grid
from deformgan.transforms.chain import chained
from deformgan.transforms.mapping import Mapping, grid_of
from deformgan.transforms.transform import load_transform

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike

    One = str | os.PathLike[str] | Mapping


def apply(
    image: ImageLike, transform: One | Sequence[One], reference: ImageLike | Grid, *, interpolation: str = "auto"
) -> Image:
    """Pull an image or a label map onto a reference.

    Args:
        image: In moving space; whatever `load_image` takes.
        transform: From fixed to moving, a file or a `Transform`; several are chained as antsApplyTransforms does: the
            last one is applied to the image first.
        reference: Whose grid the result gets, in fixed space.
        interpolation: as `Mapping.apply` takes it, or ``auto``: ``label`` for what looks like labels, else ``linear``.

    Returns:
        float32, or the image's own type with ``label`` and ``nearest``.

    Raises:
        UsageError: No such interpolation.
        InputError: The image or a transform cannot be used.
    """
    moving, onto = load_exact(image), grid_of(reference)
    if interpolation == "auto":
        labels = is_whole(moving.data) and looks_like_labels(moving.data)
        interpolation = "label" if labels else "linear"
    maps = [transform] if isinstance(transform, str | os.PathLike | Mapping) else list(transform)
    loaded: list[Any] = [
        one if isinstance(one, Mapping) else load_transform(one, fixed=onto, moving=moving.grid) for one in maps
    ]
    # a fixed position meets the first transform first
    whole = chained([part for one in loaded for part in getattr(one, "maps", (one,))])
    return whole.apply(moving, onto, interpolation)
