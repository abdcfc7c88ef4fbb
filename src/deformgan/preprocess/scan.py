"""One image of a pair as the stages see it: what it shows is found once, when it is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deformgan.errors import InputError
from deformgan.io.image import Image, load_image
from deformgan.preprocess.foreground import Content, find_content
from deformgan.preprocess.masks import cut_by_mask, cut_out, merged_lesion, read_lesion, read_mask
from deformgan.preprocess.rims import without_rims
from deformgan.preprocess.windows import window_of
from deformgan.spatial.grid import Grid

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike

_FEWEST = 64  # foreground voxels, and two planes of them along each axis: less is no volume that could be aligned


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with what it shows and what is to be left out of it.

    Args:
        original: As it was read.
        image: The same, with one background, also where its mask leaves it out.
        content: What ``image`` shows.
        lesion: uint8 on the image's grid, 1 where it has no counterpart in the other image, or None.
        is_masked: Whether a mask says what of the image is used.
        within: (D, H, W) bool, outside of which nothing is known, not even that it is background; None where the
            border of what the image shows is one (see `deformgan.preprocess.one_mask`).
    """

    original: Image
    image: Image
    content: Content
    lesion: Image | None = None
    is_masked: bool = False
    within: np.ndarray | None = None

    @classmethod
    def of(cls, image: Image, lesion: Image | None = None) -> Scan:
        """An image without a mask.

        Raises:
            InputError: It shows a few voxels, or one plane of them.
        """
        shown = without_rims(image)
        content = find_content(shown)
        _require_volume(image, content)
        if content.zero_background and window_of(_some_values(shown, content), content.background_value):
            shown, content = cut_out(shown, content.mask, content)  # a brain that was cut out of CT
        return cls(image, shown, content, lesion)

    @property
    def path(self) -> str | None:
        """The file of the image, if it is of one."""
        return self.original.path

    def masked(self, role: str, other: Image, mask: ImageLike | None = None, lesion: ImageLike | None = None) -> Scan:
        """Read and check the masks of a scan that has none yet.

        Args:
            role: ``fixed`` or ``moving``.
            other: The other image of the pair, to tell when they belong to that.
            mask: Not 0 where the image is to be used.
            lesion: Not 0 where the image has no counterpart in the other.

        Raises:
            InputError: One cannot be read, is not whole-numbered, is empty, lies elsewhere than the image, does not
                meet its content, covers so much or so little of it that it must be the wrong way round, or leaves a
                few voxels or one plane of them.
        """
        image, shown, content, holes, marked = self.original, self.image, self.content, None, None
        if mask is not None:
            kept, holes = read_mask(role, image, other, mask, content)
            shown, content = cut_by_mask(role, shown, kept, content)
            _require_volume(image, content)
        if lesion is not None:
            marked = read_lesion(role, image, other, lesion, content, masked=mask is not None)
        return Scan(image, shown, content, merged_lesion(role, image, holes, marked, content), mask is not None)

    def moved_by(self, matrix: np.ndarray) -> Scan:
        """The same voxels elsewhere: a 4×4 world-to-world matrix applied to their positions."""
        grid = self.image.grid.moved_by(matrix)
        return replace(self, image=Image(self.image.data, grid, self.image.name))


def _require_volume(image: Image, content: Content) -> None:
    size = [side.stop - side.start for side in content.box]
    count = int(content.areas[0].sum())
    if min(size) < 2 or count < _FEWEST:
        raise InputError(
            f"{image.name} shows too little to be aligned: foreground voxels: {count}, in a box of "
            f"{' × '.join(map(str, size))}",
            "give an image of a volume; where a mask was given, check it",
        )


def _some_values(image: Image, content: Content) -> np.ndarray:
    """Values of the foreground, every third voxel along each axis."""
    every = (slice(None, None, 3),) * 3
    return image.data[every][content.mask[every]]


def read_pair(
    fixed: tuple[ImageLike | Scan, ImageLike | None, ImageLike | None],
    moving: tuple[ImageLike | Scan, ImageLike | None, ImageLike | None],
) -> tuple[Scan, Scan]:
    """Image, mask and lesion of either side, read side by side: decompression leaves the interpreter free.

    Raises:
        InputError: See `load_image` and `Scan.masked`.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="read") as pool:
        jobs = [pool.submit(copy_context().run, _scan, source[0]) for source in (fixed, moving)]
        one, other = (job.result() for job in jobs)
        jobs = [
            pool.submit(copy_context().run, one.masked, "fixed", other.original, *fixed[1:]),
            pool.submit(copy_context().run, other.masked, "moving", one.original, *moving[1:]),
        ]
        return jobs[0].result(), jobs[1].result()


def _scan(source: ImageLike | Scan) -> Scan:
    return source if isinstance(source, Scan) else Scan.of(load_image(source))


def require_overlap(fixed: Image, moving: Image) -> None:
    """Raise `InputError` where the boxes of two images share no part of world space."""
    (low_f, high_f), (low_m, high_m) = (_bounds_mm(image.grid) for image in (fixed, moving))
    if (np.minimum(high_f, high_m) <= np.maximum(low_f, low_m)).any():
        apart = np.linalg.norm(fixed.grid.centre_mm - moving.grid.centre_mm)
        raise InputError(
            f"{fixed.name} and {moving.name} do not overlap in world space: their centres are {apart:.0f} mm apart",
            "use --transform joint (transform= in Python), which searches wherever they lie, or check their headers",
        )


def _bounds_mm(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    corners = grid.corners_mm()
    return corners.min(0), corners.max(0)
