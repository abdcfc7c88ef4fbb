"""What an image shows: its foreground, apart from its background, and where that lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deformgan.io.image import Image
from deformgan.preprocess.extent import areas_of, extent
from deformgan.preprocess.field_of_view import FieldOfView, find_field_of_view
from deformgan.preprocess.rims import borders, counts_on_faces, on_faces
from deformgan.spatial.grid import Grid

OUTLIER_FRACTION = 1e-3  # share of the foreground that may stick out at each end of each axis
_CONSTANT_SHARE = 0.2  # share of voxels with one value, 0, the lowest or that of the faces, that makes it a background
_COMPACT = 0.75  # borders between foreground and background for each foreground voxel; noise has more
_WHITE = 0.998  # quantile of the values that bounds the histogram of Otsu's method
# air's middle value above the lowest, of the range of values, and its median deviation, of the distance to what it
# surrounds: air in 40 scans of heads, people's and animals', lies at .11 at most, where tissue alone has both larger
_AIR_LEVEL, _AIR_SPREAD = 0.12, 0.06
_MOST_VOXELS = 1_000_000  # that are looked at for it
_AROUND = 0.95, 0.6  # shares of the faces that air around an object takes, at least, and of that in the middle, at most


@dataclass(frozen=True, eq=False)
class Content:
    """What an image shows, found once and told in voxels, so that it holds wherever a header places them.

    Args:
        mask: (D, H, W) bool, the foreground.
        zero_background: Whether the background is constant.
        background_value: What becomes 0: the background's value, or the lowest of the foreground where that lies below.
        box: Of all the foreground.
        dense_box: Of the foreground without outliers, ``start ≤ i < stop`` along each axis.
        centre: (3,) centre of mass, voxel index.
        areas: For each axis, the foreground voxels in each plane across it.
        spacing: (3,) voxel size in mm.
    """

    mask: np.ndarray
    zero_background: bool
    background_value: float
    box: tuple[slice, ...]
    dense_box: list[tuple[int, int]]
    centre: np.ndarray
    areas: list[np.ndarray]
    spacing: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, zero_background: bool, background_value: float, spacing: np.ndarray) -> Content:
        """Where a foreground lies that is not empty."""
        counts = areas_of(mask)
        centre = np.array([(np.arange(len(c)) * c).sum() / c.sum() for c in counts])
        occupied = [np.flatnonzero(c) for c in counts]
        box = tuple(slice(int(o[0]), int(o[-1]) + 1) for o in occupied)
        dense = [extent(c, (OUTLIER_FRACTION, 1 - OUTLIER_FRACTION)) for c in counts]
        return cls(mask, zero_background, background_value, box, dense, centre, counts, spacing)

    def volume_mm3(self, grid: Grid) -> float:
        """Volume of the foreground."""
        return int(self.areas[0].sum()) * float(grid.spacing.prod())

    def centre_mm(self, grid: Grid) -> np.ndarray:
        """Centre of mass in world mm, (3,)."""
        return grid.to_world(self.centre)

    @cached_property
    def field_of_view(self) -> FieldOfView:
        """Where the image has data beside what it shows."""
        return find_field_of_view(self.mask, self.areas, self.spacing, padded=self.zero_background)

    def corners_mm(self, grid: Grid) -> np.ndarray:
        """Corners of the dense box in world mm, outer voxel faces, (8, 3)."""
        return grid.corners_mm(self.dense_box)


def find_content(image: Image) -> Content:
    """The content of an image that has some (see `deformgan.io.image.load_image`)."""
    return Content.of(*foreground(image), image.grid.spacing)


def foreground(image: Image) -> tuple[np.ndarray, bool, float]:
    """Foreground mask, whether the background is constant, and the value that becomes 0."""
    data = image.data
    sample = data[::2, ::2, ::2]
    if (low := sample.min()) == sample.max():
        sample, low = data, data.min()
    for value in dict.fromkeys((0, low, _most_common_on_faces(sample))):
        if _is_constant_background(sample == value):
            below = value if low == value else np.quantile(sample[sample != value], OUTLIER_FRACTION)
            return data != value, True, float(min(value, below))
    threshold = _otsu(sample)
    dark = sample <= threshold
    if not _is_air(sample, dark):  # a region within tissue
        return np.ones(data.shape, bool), False, float(np.quantile(sample, OUTLIER_FRACTION))
    return data > threshold, False, float(np.median(sample[dark]))


def _most_common_on_faces(sample: np.ndarray) -> float:
    values, counts = counts_on_faces(sample)
    return values[counts.argmax()]


def _is_constant_background(candidate: np.ndarray) -> bool:
    """Whether the voxels are many and what they leave is compact: zeros sprinkled through noisy air do not count."""
    flat = np.count_nonzero(candidate)
    if not _CONSTANT_SHARE * candidate.size <= flat < candidate.size:
        return False
    return bool(borders(candidate) <= _COMPACT * (candidate.size - flat))


def _is_air(sample: np.ndarray, dark: np.ndarray) -> bool:
    """Whether the darker values are air's: near the lowest there are, near each other, or around all else."""
    step = max(1, int(np.ceil((sample.size / _MOST_VOXELS) ** (1 / 3))))
    sample, dark = (volume[::step, ::step, ::step] for volume in (sample, dark))
    low, high = float(sample.min()), float(np.quantile(sample, _WHITE))
    below, above = sample[dark].astype(np.float64), sample[~dark]
    if not (below.size and above.size):
        return True
    level = float(np.median(below))
    if level - low <= _AIR_LEVEL * (high - low):
        return True
    spread = float(np.median(np.abs(below - level)))
    return spread <= _AIR_SPREAD * (float(np.median(above)) - level) or _lies_around(dark)


def _lies_around(dark: np.ndarray) -> bool:
    """Whether it takes the faces of an image, and much less of its middle."""
    faces = on_faces(dark).mean()
    middle = dark[tuple(slice(n // 4, n - n // 4) for n in dark.shape)].mean()
    return bool(faces >= _AROUND[0] and middle <= _AROUND[1] * faces)


def _otsu(sample: np.ndarray, bins: int = 256) -> float:
    """Otsu's threshold (the split of the histogram with the largest variance between its two classes)."""
    high = float(np.quantile(sample, _WHITE))
    low = float(sample.min())
    if high <= low:
        high = float(sample.max())
    counts, edges = np.histogram(sample, bins, (low, high))
    counts = counts.astype(float)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sum_below = np.cumsum(counts * centres)[:-1]
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = ((counts * centres).sum() - sum_below) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (mean_below - mean_above) ** 2)])
