"""Masks as users give them: checked against the image they belong to, so that a wrong one is refused, not obeyed.

A mask says where an image is to be used (non-zero: use), a lesion where it has no counterpart in the other image (non-
zero: none there); of fractions at least one half counts. What a mask leaves out becomes background, as the skull is in
the images networks were trained on; a hole in a mask is not background but a lesion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deformgan.errors import InputError
from deformgan.io.image import Image, load_mask
from deformgan.preprocess.foreground import OUTLIER_FRACTION, Content
from deformgan.preprocess.windows import window_of
from deformgan.spatial.grid import Grid

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike

_APART = 0.25  # of a voxel, that a mask's corners may lie from its image's
LEAST_MASK = 0.1  # share of the content; what keeps less is a lesion given as a mask, or another's mask
MOST_LESION = 0.5  # share of the content; what leaves out more is a mask given as a lesion
_SMALL_HOLE_MM3 = 100.0  # in a mask: a slip of the tool that made it
_TWIN = {"fixed": "moving", "moving": "fixed"}
_REACH = 3  # voxels beyond the content that a lesion at its rim may lie


def read_mask(
    role: str, image: Image, other: Image, mask: ImageLike, content: Content
) -> tuple[np.ndarray, np.ndarray | None]:
    """Where a mask keeps its image, (D, H, W) bool, its holes filled; and the large ones of these, or None.

    Args:
        role: ``fixed`` or ``moving``.
        image, other: What the mask belongs to, and the other image of the pair.
        content: What the image shows.

    Raises:
        InputError: It cannot be used, see `deformgan.preprocess.scan.Scan.masked`.
    """
    name, kept = _read(f"`{role}_mask`", mask, image, other, f"`{_TWIN[role]}_mask`")
    _check_mask(name, image.name, kept, _solid(content), f"`{role}_lesion`")
    return _without_holes(kept, float(image.grid.spacing.prod()))


def cut_by_mask(role: str, image: Image, kept: np.ndarray, content: Content) -> tuple[Image, Content]:
    """What a mask keeps, as `cut_out` has it.

    Raises:
        InputError: What is kept is constant.
    """
    shown = cut_out(image, kept, content)
    if is_constant(*shown):
        raise InputError(f"`{role}_mask` keeps a part of {image.name} that is constant", "give a mask of anatomy")
    return shown


def cut_out(image: Image, kept: np.ndarray, content: Content) -> tuple[Image, Content]:
    """The image with 0 outside a mask and positive numbers inside, and its content.

    Values that differ as little as in CT are clipped to a window around them (see `window_of`).

    Args:
        kept: (D, H, W) bool, meets the content.
        content: What the image shows.
    """
    inside = kept & content.mask if content.zero_background else kept
    background_value, values = content.background_value, image.data[inside].astype(np.float32)
    if (window := window_of(values, background_value)) is not None:
        background_value = window[0]
        np.minimum(values, window[1], out=values)
    elif not content.zero_background:
        background_value = min(background_value, float(np.quantile(values, OUTLIER_FRACTION)))
    values -= np.float32(background_value)
    data = np.zeros(image.data.shape, np.float32, order="F")
    # dark voxels inside are not background
    data[inside] = np.maximum(values, 1e-6 * max(float(values.max()), np.finfo(np.float32).tiny))
    return Image(data, image.grid, image.name), Content.of(inside, True, 0.0, image.grid.spacing)


def is_constant(image: Image, content: Content) -> bool:
    """Whether all that an image shows has one value."""
    values = image.data[content.mask]
    return bool(values.min() == values.max())


def read_lesion(
    role: str, image: Image, other: Image, lesion: ImageLike, content: Content, *, masked: bool = False
) -> np.ndarray:
    """Where a lesion lies, (D, H, W) bool.

    Args:
        role, image, other, content: As for `read_mask`.
        masked: Whether the content is what a mask kept.

    Raises:
        InputError: It cannot be used, see `deformgan.preprocess.scan.Scan.masked`.
    """
    name, inside = _read(f"`{role}_lesion`", lesion, image, other, f"`{_TWIN[role]}_lesion`")
    _check_lesion(name, image.name, inside, content.mask if masked else _solid(content), f"`{role}_mask`")
    return inside


def merged_lesion(
    role: str, image: Image, holes: np.ndarray | None, lesion: np.ndarray | None, content: Content
) -> Image | None:
    """The lesion and the large holes of the mask, uint8 on the image's grid; None where there is neither.

    Raises:
        InputError: They are most of the content.
    """
    marks = [one for one in (holes, lesion) if one is not None]
    if not marks:
        return None
    inside = np.logical_or.reduce(marks)
    if holes is not None and np.count_nonzero(inside & content.mask) > MOST_LESION * np.count_nonzero(content.mask):
        raise InputError(
            f"`{role}_mask` {image.name}: what it encloses without keeping is most of the image",
            "a hole in a mask counts as a lesion; fill the mask",
        )
    return Image(inside.astype(np.uint8), image.grid, f"`{role}_lesion`") if inside.any() else None


def _solid(content: Content) -> np.ndarray:
    """The foreground, filled where it is Otsu's: a bright skull may be all that stands out."""
    return content.mask if content.zero_background else _filled(content.mask)


def _read(argument: str, source: ImageLike, image: Image, other: Image, twin: str) -> tuple[str, np.ndarray]:
    """What messages call a mask, and where it is not 0."""
    try:
        labels = load_mask(source)
    except InputError as error:
        raise InputError(f"{argument}: {error.args[0]}", error.hint) from error
    name = f"{argument} {labels.name}"
    if (elsewhere := _elsewhere(labels.grid, image.grid)) is not None:
        if _elsewhere(labels.grid, other.grid) is None:
            raise InputError(f"{name} lies on the grid of {other.name}, not of {image.name}", f"give it as {twin}")
        raise InputError(
            f"{name} is not on the grid of {image.name}: {elsewhere}",
            "bring it onto that image's voxels first, by nearest neighbour",
        )
    inside = labels.data != 0
    if not inside.any():
        raise InputError(f"{name} is empty: every voxel is 0", "leave it out, or give the mask that was meant")
    return name, inside


def _elsewhere(grid: Grid, own: Grid) -> str | None:
    """In words how a grid differs from another; None where it does not."""
    if grid.shape != own.shape:
        return f"its shape is {grid.shape}, not {own.shape}"
    apart = grid.farthest_mm(own)
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


def _check_lesion(name: str, image: str, inside: np.ndarray, content: np.ndarray, mask: str) -> None:
    share = np.count_nonzero(inside & content) / max(1, np.count_nonzero(content))
    if share > MOST_LESION:
        raise InputError(
            f"{name} leaves out {100 * share:.0f} % of what {image} shows",
            f"in a lesion mask non-zero is the lesion; to keep these voxels give it as {mask}",
        )
    if share == 0 and not (inside & _around(content)).any():
        raise InputError(f"{name} does not meet what {image} shows", "give the lesion of this image")


def _around(content: np.ndarray) -> np.ndarray:
    """Content, what it encloses (a dark lesion is not foreground) and a rim."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(_filled(content), iterations=_REACH), bool)


def _filled(content: np.ndarray) -> np.ndarray:
    from scipy import ndimage  # a fifth of a second that a run without masks is spared

    return np.asarray(ndimage.binary_fill_holes(content), bool)


def _without_holes(kept: np.ndarray, voxel_mm3: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The mask filled, and what was filled where that is no mere speck."""
    from scipy import ndimage

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
