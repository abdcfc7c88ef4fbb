"""What a report is drawn from: the images, the map, and whatever else is known in the fixed image's space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from deformgan.errors import DeformganError
from deformgan.io.image import Image, load_labels
from deformgan.preprocess.conform import WHITE
from deformgan.preprocess.extent import areas_of, extent
from deformgan.preprocess.foreground import foreground
from deformgan.preprocess.windows import window_of
from deformgan.quality.measures import spread_voxels
from deformgan.spatial.grid import Grid, box_corners
from deformgan.transforms.transform import Transform

SELECTIONS = ("fixed_mask", "fixed_lesion", "moving_lesion")
_MARGIN_MM_SHARE = 0.04  # of the content's longest side, around it
_OUTLIER_FRACTION = 2e-3  # share of the content that may lie outside the box at each end
_APART = 0.1  # share of the fixed content inside the moving image below which the headers place them apart
# share of a window that the middle of what both images show must fill: skull and fat around a brain are brighter and
# would leave it dark; the middle is what lies between these shares of the content along each axis
_FILLED, _DIMMEST, _MIDDLE = 0.7, 0.2, (0.2, 0.8)
_PROBES = 20_000  # voxels of the content that are asked where they come from


@dataclass(frozen=True, eq=False)
class Material:
    """One registration as a report needs it.

    Attributes:
        fixed, moving: The pair.
        moved: The moving image in fixed space.
        transform: Fixed to moving space, world mm.
        jacobian: Of the transform in fixed space, if it is at hand; else it is taken of the transform.
        uncertainty: Expected error in mm in fixed space.
        synthesis: The generator's image, intensities in [0, 1], in fixed space.
        labels: The moved label map in fixed space.
        points_mm: (N, 3), the moved points in fixed space, world mm (RAS+).
        affine: The affine part of ``transform``, 4×4 world mm, where a file has fused the two.
        selections: Masks and lesions by role, each in the space of its image; roles as in `SELECTIONS`.
    """

    fixed: Image
    moving: Image
    moved: Image
    transform: Transform
    jacobian: Image | None = None
    uncertainty: Image | None = None
    synthesis: Image | None = None
    labels: Image | None = None
    points_mm: np.ndarray | None = None
    affine: np.ndarray | None = None
    selections: dict[str, Image] = field(default_factory=dict)

    @cached_property
    def content(self) -> Image:
        """What the fixed image shows, uint8: the fixed mask where one was given, else its foreground."""
        if (mask := self.selections.get("fixed_mask")) is not None and mask.data.any():
            return Image((mask.data != 0).astype(np.uint8), mask.grid)
        return Image(foreground(self.fixed)[0].view(np.uint8), self.fixed.grid)

    @cached_property
    def box_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest world position of the content with a margin, (3,) each."""
        shares = (_OUTLIER_FRACTION, 1 - _OUTLIER_FRACTION)
        planes = [extent(areas, shares) for areas in areas_of(self.content.data != 0)]
        ends = [(first - 0.5, last - 0.5) for first, last in planes]
        world = self.content.grid.to_world(box_corners(ends))
        low, high = world.min(0), world.max(0)
        margin = _MARGIN_MM_SHARE * float((high - low).max())
        return low - margin, high + margin

    @cached_property
    def windows(self) -> dict[str, tuple[float, float]]:
        """Intensities that are drawn black and white, of ``fixed`` and ``moving``; the moved image has the latter."""
        windows = {"fixed": _window(self.fixed), "moving": _window(self.moving)}
        fixed, moved = (image.data[::3, ::3, ::3] for image in (self.fixed, self.moved))
        if fixed.shape == moved.shape:
            content = self.content.data[::3, ::3, ::3] != 0
            middle = tuple(slice(*extent(areas, _MIDDLE)) for areas in areas_of(content))
            both = content[middle] & (moved[middle] > moved.min())
            values = {"fixed": fixed[middle][both], "moving": moved[middle][both]}
            windows = {role: _dimmer(window, values[role]) for role, window in windows.items()}
        return windows

    @cached_property
    def overlap(self) -> tuple[float, float]:
        """Share of the fixed content inside the moving image's field of view: by the headers, and by the map."""
        voxels = spread_voxels(self.content.data, _PROBES)
        world, size = self.content.grid.to_world(voxels), np.array(self.moving.grid.shape)
        shares = []
        for positions in (world, self.transform.map_points(world)):
            index = self.moving.grid.to_index(positions)
            within = ((index > -0.5) & (index < size - 0.5)).all(-1)
            shares.append(float(within.mean()) if within.size else 0.0)
        return shares[0], shares[1]

    @cached_property
    def before(self) -> Transform:
        """How the moving image is shown before registration: as the headers place it.

        Where they place it elsewhere altogether, it is shifted so that the middles of the contents meet.
        """
        if self.overlap[0] >= _APART:
            return Transform.identity()
        shift = np.eye(4)
        moving = Image(foreground(self.moving)[0].view(np.uint8), self.moving.grid)
        shift[:3, 3] = np.rint(_middle_mm(moving) - _middle_mm(self.content))
        return Transform(shift)

    def affine_displacement(self, onto: Grid) -> np.ndarray:
        """(D, H, W, 3) float32 mm, of the map's affine part alone."""
        matrix = self.transform.affine if self.affine is None else self.affine
        to_world = (matrix - np.eye(4)) @ onto.affine
        axes = [np.arange(n)[:, None] * to_world[:3, a] for a, n in enumerate(onto.shape)]
        whole = axes[0][:, None, None] + axes[1][:, None] + (axes[2] + to_world[:3, 3])
        return whole.astype(np.float32)

    def volume_change(self, onto: Grid) -> np.ndarray:
        """How many times larger the moving tissue became, (D, H, W): below 1 it shrank; ≤ 0 where the map folds.

        It is one over the Jacobian determinant, which counts moving over fixed volume.
        """
        if self.jacobian is None:
            determinant = self.transform.jacobian(onto)
        else:
            determinant = Transform.identity().apply(self.jacobian, onto).data
        # where the map folds there is no size to speak of
        return np.where(determinant > 0, 1 / np.maximum(determinant, 1e-6), np.minimum(determinant, 0))

    def lesion_on(self, grid: Grid) -> np.ndarray | None:
        """Both images' lesions in fixed space, bool; None where none was given."""
        found = None
        for role, transform in (("fixed_lesion", Transform.identity()), ("moving_lesion", self.transform)):
            if (lesion := self.selections.get(role)) is not None:
                here = transform.apply_labels(lesion, grid).data != 0
                found = here if found is None else found | here
        return found


def read_selections(record: dict[str, Any], check: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Image]:
    """Masks and lesions again from the files that a record names; those that were never files are left out.

    Args:
        check: Called with what the record says of each file before it is read; without it, files that are gone or
            cannot be read are left out.

    Raises:
        InputError: Only with ``check``.
    """
    found = {}
    for role in SELECTIONS:
        source = record.get("inputs", {}).get(role) or {}
        if not source.get("path"):
            continue
        with contextlib.suppress(*(() if check else (DeformganError,))):
            if check:
                check(source)
            found[role] = load_labels(source["path"])
    return found


def to_unit(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities as a share of a window, float32 in [0, 1]."""
    low, high = window
    return ((values.astype(np.float32) - low) / max(high - low, 1e-12)).clip(0, 1)


def _middle_mm(mask: Image) -> np.ndarray:
    return mask.grid.to_world(np.argwhere(mask.data[::2, ::2, ::2]).mean(0) * 2)


def _window(image: Image) -> tuple[float, float]:
    sample = image.data[::3, ::3, ::3]
    low = float(sample.min())
    inside = sample[sample > low]
    high = float(np.quantile(inside, WHITE)) if inside.size > 7 else low + 1
    return low, max(high, low + 1e-12)


def _dimmer(window: tuple[float, float], shown: np.ndarray) -> tuple[float, float]:
    """The window, narrower where values that are to be compared fill little of it, and around them in CT."""
    low, high = window
    shown = shown[shown > low]
    if shown.size > 7 and (narrow := window_of(shown, low, with_bone=True)):
        return narrow
    top = float(np.quantile(shown, WHITE)) if shown.size > 7 else high
    return low, max(top, low + _DIMMEST * (high - low)) if top < low + _FILLED * (high - low) else high
