"""From an image of any orientation, spacing and size to the working grid the networks know, normalised to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.io.image import Image
from deformgan.preprocess.field_of_view import WHOLE, common
from deformgan.preprocess.foreground import Content, find_content
from deformgan.preprocess.lesions import Lesions
from deformgan.preprocess.scan import Scan
from deformgan.preprocess.thick_slices import blurred, thickness
from deformgan.preprocess.working_grid import Extent, fitted, working_grid
from deformgan.spatial.blockwise import resampled, sample
from deformgan.spatial.continuation import continued, filled
from deformgan.spatial.grid import Grid, Shape
from deformgan.spatial.resample import affine_coordinates, antialiasing_sigma, axis_matrix, parallel_axes, separable
from deformgan.spatial.warp import box_maximum

WORKING_SHAPE: Shape = (112, 128, 96)
WORKING_SPACING = 1.5

_BORDER = 1  # voxels of a field around the foreground where what T says holds
_LEAST_SHOWN = 0.1  # share of what a voxel of the working grid was made of; it has no value below
_INSIDE = 0.5  # share of a mask that makes a voxel of another grid one of it
_SMOOTHING = 2  # rounds of averaging where an image is continued
WHITE = 0.998  # quantile of the foreground that becomes 1


@dataclass(frozen=True, eq=False)
class Conformed:
    """An image on the working grid.

    Args:
        tensor: (1, 1, D, H, W) float32 in [0, 1]; exactly 0 in a constant background.
        grid: The working grid, along the world axes (RAS+), centred on the image's content.
        mask: (1, 1, D, H, W) float32, 1 in the foreground, else 0.
        zero_background: Whether the image has a constant background, as skull-stripped ones have.
        seen: (1, 1, D, H, W) float32, 1 where the image has data, else 0; None where it has data all over the grid, or
            its content ends before it does (see `deformgan.preprocess.field_of_view`).
        thickness: Of the image's voxels, see `deformgan.preprocess.thick_slices`.
        within: (1, 1, D, H, W) float32, 1 within the mask that cut both images of a pair, else 0; None where none did
            (see `deformgan.preprocess.one_mask`).
    """

    tensor: Tensor
    grid: Grid
    mask: Tensor
    zero_background: bool = True
    seen: Tensor | None = None
    thickness: tuple[float, ...] = (1.0, 1.0, 1.0)
    within: Tensor | None = None

    @property
    def continued(self) -> Tensor:
        """The image continued smoothly beyond what it has data of, so that its end is no edge."""
        known = common(self.seen, self.within)
        return self.tensor if known is None else filled(self.tensor, known > 0, _SMOOTHING)


def conform(
    image: Image,
    shape: Shape = WORKING_SHAPE,
    spacing: float = WORKING_SPACING,
    centre_mm: np.ndarray | None = None,
    *,
    grid: Grid | None = None,
) -> Conformed:
    """Bring an image to a working grid along the world axes.

    Args:
        image: Any orientation, spacing and size; checked by `deformgan.io.image.load_image`.
        shape: Of the working grid.
        spacing: Voxel size of the working grid in mm; grows until the foreground fits.
        centre_mm: Its middle in world mm (RAS+), shape (3,); default: the foreground's centre of mass, or as near to it
            as the foreground fits.
        grid: This grid and no other, the rest ignored: for a second image that must share the first one's voxels.

    The foreground is what differs from a constant background (zero, or the lowest value, in a fifth of the voxels or
    more), else what lies above Otsu's threshold. Intensities are shifted so that the background becomes 0, and divided
    by the foreground's 99.8th percentile. Where the foreground reaches below a constant background (z-scored images),
    its own lowest value becomes 0 instead.
    Finer images are smoothed to the working resolution before sampling.
    """
    content = find_content(image)
    if grid is not None:
        return on_grid(image, content, grid)
    centre = content.centre_mm(image.grid) if centre_mm is None else np.asarray(centre_mm, float)
    spacing, shift = fitted([Extent.of(content, image.grid, centre)], shape, spacing, moves=centre_mm is None)
    return on_grid(image, content, working_grid(image, shape, spacing, centre + shift))


@dataclass(frozen=True, eq=False)
class Pair:
    """Both images on working grids of one spacing, and where they have no counterpart in each other.

    Args:
        fixed, moving: The moving grid lies where the start takes the fixed one, so voxel by voxel the pair is aligned
            as well as the start aligns it.
        lesions: On these grids.
    """

    fixed: Conformed
    moving: Conformed
    lesions: Lesions

    @property
    def excluded(self) -> Lesions:
        """The lesions, and all that either image has no data of."""
        return self.lesions.unseen(self.fixed.seen, self.moving.seen)

    @property
    def not_compared(self) -> Lesions:
        """What refinement leaves out: `excluded`, and the border of a mask that cut both images."""
        fixed, moving = (None if one.within is None else 1 - one.within for one in (self.fixed, self.moving))
        return replace(self.excluded, borders=(fixed, moving))

    @property
    def seen_tensors(self) -> tuple[Tensor, Tensor]:
        """Fixed and moving, cut to what both have data of: T takes what ends for the border of a brain."""
        seen = self._seen
        return self.tensors if seen is None else (self.fixed.tensor * seen, self.moving.tensor * seen)

    def completed(self, field: Tensor) -> Tensor:
        """A field found from `seen_tensors` (1, 3, d, h, w), continued beyond the foreground and what is seen of it."""
        shape, seen = list(field.shape[2:]), self._seen
        weight = F.adaptive_avg_pool3d(self.fixed.mask.to(field), shape)  # type: ignore[arg-type]
        known = box_maximum((weight > 0).to(field), _BORDER)
        if seen is not None:
            known = known * (F.adaptive_avg_pool3d(seen.to(field), shape) >= 1)  # type: ignore[arg-type]
        return self.lesions.fill_harmonic(continued(field, known, weight))

    @property
    def _seen(self) -> Tensor | None:
        seen, within = common(self.fixed.seen, self.moving.seen), common(self.fixed.within, self.moving.within)
        if seen is not None:
            whole = [float((i.mask * seen).sum()) > WHOLE * float(i.mask.sum()) for i in (self.fixed, self.moving)]
            seen = None if all(whole) else seen
        return common(seen, within)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Fixed and moving, (1, 1, D, H, W) in [0, 1]."""
        return self.fixed.tensor, self.moving.tensor

    @property
    def compared_tensors(self) -> tuple[Tensor, Tensor]:
        """The same as refinement compares them: `Conformed.continued`, and `blurred` as thick slices are."""
        one, other = self.fixed, self.moving
        return (
            blurred(one.continued, one.thickness, other.thickness),
            blurred(other.continued, other.thickness, one.thickness),
        )


def conform_pair(
    fixed: Scan,
    moving: Scan,
    fixed_to_moving: np.ndarray | None = None,
    shape: Shape = WORKING_SHAPE,
    spacing: float = WORKING_SPACING,
) -> Pair:
    """Bring both images to working grids of one spacing, so placed that the pair starts aligned.

    Args:
        fixed_to_moving: 4×4 in world mm (RAS+), where the registration starts; default: as the headers are.
        shape: Of both grids; the fixed one is centred on its content, or as near to that as both foregrounds fit.
        spacing: Their voxel size in mm; grows until both foregrounds fit, and shrinks for small brains.
    """
    start = np.eye(4) if fixed_to_moving is None else np.asarray(fixed_to_moving)
    centre = fixed.content.centre_mm(fixed.image.grid)
    placed = moving.image.grid.moved_by(np.linalg.inv(start))
    extents = [
        Extent.of(fixed.content, fixed.image.grid, centre),
        Extent.of(moving.content, placed, moving.content.centre_mm(placed)),
    ]
    spacing, shift = fitted(extents, shape, spacing)
    centre = centre + shift
    grid_f = working_grid(fixed.image, shape, spacing, centre)
    grid_m = grid_f.moved_by(start)
    if np.array_equal(start[:3, :3], np.eye(3)) and start[:3, 3].any():  # where a shift leads voxels may meet voxels
        grid_m = working_grid(moving.image, shape, spacing, centre + start[:3, 3])
    return Pair(
        on_grid(fixed.image, fixed.content, grid_f, fixed.within),
        on_grid(moving.image, moving.content, grid_m, moving.within),
        Lesions.on_grids(fixed.lesion, moving.lesion, (grid_f, grid_m)),
    )


def on_grid(image: Image, content: Content, grid: Grid, within: np.ndarray | None = None) -> Conformed:
    """An image on this grid and no other, see `conform`.

    Args:
        within: As `deformgan.preprocess.scan.Scan` has it.
    """
    sigmas = [antialiasing_sigma(grid.spacing[0], own) for own in image.grid.spacing]
    source, source_grid = _cropped(image, content, grid, sigmas)
    values, covered = _resampled(source, source_grid, grid, sigmas)
    del source  # as large as the image, twice
    (seen, inside), (shown, inner) = (_seen_on(image.grid, content, within, one) for one in (grid, source_grid))
    known, from_known = common(seen, inside), common(shown, inner)
    if known is not None and from_known is not None:
        # where the data end voxels are not mixed with what lies beyond
        share = _resampled(_volume(from_known)[None], source_grid, grid, sigmas)[0].clamp_min(_LEAST_SHOWN)
        values, covered = (torch.where(_volume(known) > 0, one / share, one) for one in (values, covered))
    mask = covered >= 0.5
    values = _normalised(values, mask, content.zero_background)
    return Conformed(
        _tensor(values), grid, _tensor(mask.float()), content.zero_background, seen, thickness(image.grid, grid), inside
    )


def _seen_on(own: Grid, content: Content, within: np.ndarray | None, grid: Grid) -> tuple[Tensor | None, Tensor | None]:
    """On a grid, where an image has data between the planes that it ends at, and within a mask."""
    seen = content.field_of_view.on(own, grid)
    if within is None:
        return seen, None
    box = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in content.box)  # of a large image a part
    to_image = np.eye(4)
    to_image[:3, 3] = [one.start for one in box]
    cut = torch.from_numpy(within[box]).float()
    inside = resampled(cut, Grid(cut.shape, own.affine @ to_image), grid) >= _INSIDE  # type: ignore[arg-type]
    return seen, torch.from_numpy(inside).float()[None, None]


def _cropped(image: Image, content: Content, grid: Grid, sigmas: list[float]) -> tuple[Tensor, Grid]:
    """Image above its background value and foreground mask, (2, W, H, D), where they matter, in a margin of zeros."""
    reach = image.grid.to_index(grid.corners_mm())
    ranges = []
    for axis, (n, sigma) in enumerate(zip(image.grid.shape, sigmas, strict=True)):
        margin = 1 + int(np.ceil(4 * sigma))
        inner = content.box[axis] if content.zero_background else slice(0, n)
        start = min(max(inner.start, int(np.floor(reach[:, axis].min())) - margin), inner.stop - 1)
        stop = max(min(inner.stop, int(np.ceil(reach[:, axis].max())) + margin + 1), start + 1)
        ranges.append((start, stop, margin))
    block = tuple(slice(start, stop) for start, stop, _ in ranges)
    within = tuple(slice(margin, margin + stop - start) for start, stop, margin in ranges)
    shape = tuple(stop - start + 2 * margin for start, stop, margin in ranges)
    crop = np.zeros((*shape, 2), np.float32, order="F")
    np.subtract(image.data[block], np.float32(content.background_value), out=crop[(*within, 0)], casting="unsafe")
    crop[(*within, 1)] = content.mask[block]
    if content.zero_background:
        # a background that lay amid the foreground's values (z-scores) goes below them before anything is interpolated
        crop[..., 0] *= crop[..., 1]
    to_image = np.eye(4)
    to_image[:3, 3] = [start - margin for start, _, margin in ranges]
    return torch.from_numpy(crop.T), Grid(shape, image.grid.affine @ to_image)


def _resampled(source: Tensor, source_grid: Grid, grid: Grid, sigmas: list[float]) -> Tensor:
    """Smoothed and sampled on ``grid``, (C, W, H, D)."""
    to_source = grid.index_to(source_grid)
    axes = parallel_axes(to_source, grid.shape)
    sizes = source_grid.shape
    if axes is not None:
        ordered = source.permute(0, *(3 - axes[t].axis for t in (2, 1, 0)))
        matrices = [
            axis_matrix(n, sizes[a.axis], a.scale, a.offset, sigma=sigmas[a.axis])
            for n, a in zip(grid.shape, axes, strict=True)
        ]
        return separable(ordered, matrices)
    if max(sigmas) > 0:
        source = separable(source, [axis_matrix(n, n, 1, 0, sigma=s) for n, s in zip(sizes, sigmas, strict=True)])
    return sample(source, affine_coordinates(to_source, grid.shape, sizes))


def _normalised(values: Tensor, mask: Tensor, zero_background: bool) -> Tensor:
    """[0, 1], the background's value being 0 already; a constant background stays exactly 0."""
    foreground = values[mask].numpy()
    if foreground.size == 0:
        return torch.zeros_like(values)
    if zero_background:
        values = values * mask
    last = foreground.size - 1
    white = float(np.partition(foreground, int(WHITE * last))[int(WHITE * last)])
    return (values / max(white, float(np.finfo(np.float32).tiny))).clamp_(0, 1)


def _tensor(volume: Tensor) -> Tensor:
    """(W, H, D) → (1, 1, D, H, W), contiguous."""
    return volume.permute(2, 1, 0).contiguous()[None, None]


def _volume(tensor: Tensor) -> Tensor:
    """The inverse."""
    return tensor[0, 0].permute(2, 1, 0)
