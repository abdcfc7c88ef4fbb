"""Masks as users give them: checked against the image they belong to, so that a wrong one is refused, not obeyed.

A mask says where an image is to be used (non-zero: use), a lesion where it has no counterpart in the other image (non-
zero: none there); of fractions at least one half counts. What a mask leaves out becomes background, as the skull is in
the images networks were trained on; a hole in a mask is not background but a lesion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from deformgan.errors import InputError
from deformgan.io.image import Image, load_mask
from deformgan.preprocess.foreground import OUTLIER_FRACTION, foreground
from deformgan.spatial.grid import Grid

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike

_APART = 0.25  # of a voxel, that a mask's corners may lie from its image's
LEAST_MASK = 0.1  # share of the content; what keeps less is a lesion given as a mask, or another's mask
MOST_LESION = 0.5  # share of the content; what leaves out more is a mask given as a lesion
_SMALL_HOLE_MM3 = 100.0  # in a mask: a slip of the tool that made it
_REACH = 3  # voxels beyond the content that a lesion at its rim may lie


@dataclass(frozen=True, eq=False)
class Selection:
    """What the masks of one image say, on its own voxels.

    Args:
        image: With background where the mask leaves it out; as it was read where there is none.
        lesion: uint8 on the image's grid, 1 where it has no counterpart, or None.
    """

    image: Image
    lesion: Image | None = None


def read_selection(
    role: str, image: Image, other: Image, mask: ImageLike | None = None, lesion: ImageLike | None = None
) -> Selection:
    """Read and check the masks of one image.

    Args:
        role: ``fixed`` or ``moving``.
        image: What they belong to.
        other: The other image of the pair, to tell when they belong to that.
        mask: Non-zero where the image is to be used.
        lesion: Non-zero where the image has no counterpart in the other.

    Raises:
        InputError: One cannot be read, is empty, lies elsewhere than the image, does not meet
            its content, or covers so much or so little of it that it must be the wrong way round.
    """
    if mask is None and lesion is None:
        return Selection(image)
    twin = "moving" if role == "fixed" else "fixed"
    content, zero_background, background_value = foreground(image)
    if not zero_background:
        content = np.asarray(ndimage.binary_fill_holes(content), bool)  # a bright skull may be all that stands out
    out = None
    if mask is not None:
        name, kept = _read(f"--{role}-mask", mask, image, other, f"--{twin}-mask")
        _check_mask(name, image.name, kept, content, f"--{role}-lesion")
        kept, out = _without_holes(kept, float(image.grid.spacing.prod()))
        image, content = _cut(image, kept, content, zero_background, background_value)
        shown = image.data[content]
        if shown.min() == shown.max():
            raise InputError(f"{name} keeps a part of {image.name} that is constant", "give a mask of anatomy")
    if lesion is not None:
        name, away = _read(f"--{role}-lesion", lesion, image, other, f"--{twin}-lesion")
        _check_lesion(name, image.name, away, content, f"--{role}-mask")
        out = away if out is None else out | away
    if out is not None and np.count_nonzero(out & content) > MOST_LESION * np.count_nonzero(content):
        raise InputError(
            f"--{role}-mask {image.name}: what it encloses without keeping is most of the image",
            "a hole in a mask counts as a lesion; fill the mask",
        )
    marked = None if out is None or not out.any() else Image(out.astype(np.uint8), image.grid, f"--{role}-lesion")
    return Selection(image, marked)


def _read(option: str, source: ImageLike, image: Image, other: Image, twin: str) -> tuple[str, np.ndarray]:
    """What messages call a mask, and where it is not 0."""
    try:
        labels = load_mask(source)
    except InputError as error:
        raise InputError(f"{option}: {error.args[0]}", error.hint) from error
    name = f"{option} {labels.name}"
    if (elsewhere := _elsewhere(labels.grid, image.grid)) is not None:
        if _elsewhere(labels.grid, other.grid) is None:
            raise InputError(f"{name} lies on the grid of {other.name}, not of {image.name}", f"give it as {twin}")
        raise InputError(
            f"{name} is not on the grid of {image.name}: {elsewhere}",
            "bring it onto that image's voxels first, by nearest neighbour",
        )
    away = labels.data != 0
    if not away.any():
        raise InputError(f"{name} is empty: every voxel is 0", "leave the option out, or give the mask that was meant")
    return name, away


def _elsewhere(grid: Grid, own: Grid) -> str | None:
    """In words how a grid differs from another; None where it does not."""
    if grid.shape != own.shape:
        return f"its shape is {grid.shape}, not {own.shape}"
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in own.shape], indexing="ij"), -1).reshape(-1, 3)
    apart = float(np.linalg.norm(grid.to_world(corners) - own.to_world(corners), axis=1).max())
    if apart <= _APART * float(own.spacing.min()):
        return None
    return f"their headers place them up to {apart:.1f} mm apart"


def _check_mask(name: str, image: str, kept: np.ndarray, content: np.ndarray, lesion: str) -> None:
    share = np.count_nonzero(kept & content) / max(1, np.count_nonzero(content))
    if share == 0:
        raise InputError(f"{name} does not meet what {image} shows", "give the mask of this image; non-zero is kept")
    if share < LEAST_MASK:
        raise InputError(
            f"{name} keeps {100 * share:.1f} % of what {image} shows",
            f"in a mask non-zero voxels are kept; to leave them out give it as {lesion}",
        )


def _check_lesion(name: str, image: str, away: np.ndarray, content: np.ndarray, mask: str) -> None:
    share = np.count_nonzero(away & content) / max(1, np.count_nonzero(content))
    if share > MOST_LESION:
        raise InputError(
            f"{name} leaves out {100 * share:.0f} % of what {image} shows",
            f"in a lesion mask non-zero is the lesion; to keep these voxels give it as {mask}",
        )
    if share == 0 and not (away & _around(content)).any():
        raise InputError(f"{name} does not meet what {image} shows", "give the lesion of this image")


def _around(content: np.ndarray) -> np.ndarray:
    """Content, what it encloses (a dark lesion is not foreground) and a rim."""
    return np.asarray(ndimage.binary_dilation(ndimage.binary_fill_holes(content), iterations=_REACH), bool)


def _without_holes(kept: np.ndarray, voxel_mm3: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The mask filled, and what was filled where that is no mere speck."""
    box = ndimage.find_objects(kept.astype(np.uint8))[0]
    filled = kept.copy()
    filled[box] = ndimage.binary_fill_holes(kept[box])
    holes = np.zeros(kept.shape, np.int32)
    if ndimage.label(filled & ~kept, output=holes) == 0:
        return kept, None
    sizes = np.bincount(holes.ravel()) * voxel_mm3
    large = sizes >= _SMALL_HOLE_MM3
    large[0] = False
    return filled, large[holes] if large.any() else None


def _cut(
    image: Image, kept: np.ndarray, content: np.ndarray, zero_background: bool, background_value: float
) -> tuple[Image, np.ndarray]:
    """The image with 0 outside and positive numbers inside, and its content."""
    inside = kept & content if zero_background else kept
    values = image.data[inside].astype(np.float32)
    if not zero_background:
        background_value = min(background_value, float(np.quantile(values, OUTLIER_FRACTION)))
    values -= np.float32(background_value)
    data = np.zeros(image.data.shape, np.float32, order="F")
    # dark voxels inside are not background
    data[inside] = np.maximum(values, 1e-6 * max(float(values.max()), np.finfo(np.float32).tiny))
    return Image(data, image.grid, image.name), inside
