"""The map a registration starts from: one that was given, and what the affine stage finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deformgan.align.search import score_of, search
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.preprocess.conform import subsampled_pair
from deformgan.transforms.chain import Chain, single
from deformgan.transforms.transform import Transform, load_transform

TRANSFORMS = ("rigid", "affine", "joint", "deform")
LINEAR = ("rigid", "affine")
_TRUST = 0.98  # share of the found map's score that suffices for the start: joint leaves its voxels as they are


@dataclass(frozen=True, eq=False)
class Start:
    """Where fixed positions come from before anything is deformed.

    Args:
        moving: The moving image, pulled through ``outer`` if there is one.
        matrix: 4×4 from fixed to this image's world, mm (RAS+); None where headers and centres are left to decide.
        outer: A given map with a field, applied after all else; or None.
        lesion: 1 where this image has no counterpart in the fixed one, or None.
    """

    moving: Image
    matrix: np.ndarray | None = None
    outer: Transform | None = None
    lesion: Image | None = None

    def completed(self, transform: Transform) -> Transform:
        """The map to the moving image as it was given."""
        return transform if self.outer is None else self.outer @ transform


def check_transform(name: str) -> None:
    """Raise `UsageError` unless the name is one of `TRANSFORMS`."""
    if name not in TRANSFORMS:
        raise UsageError(f"unknown transform {name!r}", f"use {', '.join(TRANSFORMS)}")


def find_start(
    fixed: Image,
    moving: Image,
    transform: str,
    init: str | Path | Transform | Chain | None,
    lesions: tuple[Image | None, Image | None] = (None, None),
) -> Start:
    """Take up the given map and run the affine stage where ``transform`` has one.

    Args:
        transform: One of `TRANSFORMS`.
        init: From fixed to moving; a file as `load_transform` takes it. The search then stays near it.
        lesions: 1 where either image has no counterpart in the other, on its grid; not compared in the search.

    Raises:
        UsageError: A map with a field cannot begin a linear one.
        InputError: The file cannot be used, or its map leads past the moving image.
    """
    if isinstance(init, str | Path):
        init = load_transform(init, fixed=fixed.grid, moving=moving.grid)
    if init is not None:
        init = single(init)
    if init is not None and not init.meets(moving.grid, fixed.grid):
        raise InputError(f"--init leads nowhere into {moving.name}", "give the map from fixed to moving")
    start, outer = np.eye(4), None
    if init is not None and init.disp_mm is not None:
        if transform in LINEAR:
            raise UsageError(f"--init holds a field, and a {transform} map has none", "use --transform joint or deform")
        outer, moving = init, init.apply(moving, fixed.grid)
        lesions = lesions[0], None if lesions[1] is None else init.apply_labels(lesions[1], fixed.grid)
        if not moving.data.any():
            raise InputError("--init leaves nothing of the moving image", "give the map from fixed to moving")
    elif init is not None:
        start = init.affine
    if transform == "deform":
        return Start(moving, None if init is None else start, outer, lesions[1])
    placed = Image(moving.data, moving.grid.moved_by(np.linalg.inv(start)), moving.name)
    pair = subsampled_pair(fixed, placed, lesions)
    found, score = search(*pair, rigid=transform == "rigid", near=init is not None)
    if transform == "joint" and score_of(np.eye(4), *pair) >= _TRUST * score:
        found = np.eye(4)
    return Start(moving, start @ found, outer, lesions[1])
