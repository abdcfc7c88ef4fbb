"""Seven parallel slices of each plane, taken straight from the images: what the pictures of a report are made of.

Radiological layout: the patient's right on the left, the nose of the sagittal slices to the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deformgan.io.image import Image
from deformgan.output.report.material import Material, to_unit
from deformgan.output.report.slices import filled, without_specks
from deformgan.spatial.blockwise import to_sample_often
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

PLANES = ("axial", "coronal", "sagittal")
SLICES = 7
# left, right, top and bottom of a slice; the axis across it, its letter
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
NORMAL = {"axial": 2, "coronal": 1, "sagittal": 0}
_ACROSS = {0: "x", 1: "y", 2: "z"}
_PIXELS = 190  # along the content's longest side
_INNER = 0.76  # share of the content's extent that the slices span
_SPECK = 0.02  # share of a slice's content below which a piece of its outline is noise


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one plane; every volume is on ``grid``, along the world axes, coarse along the plane's normal.

    Attributes:
        fixed, moving, moved: Intensities in [0, 1]; ``moving`` as `Material.before` places it.
        mask: What the fixed image shows, bool.
        displacement_mm: (D, H, W, 3) along the world axes, of the complete map.
        affine_mm: The same of its affine part alone.
        volume_change: As `Material.volume_change`.
        uncertainty, synthesis, labels, lesion: As in `Material`, or None.
    """

    plane: str
    grid: Grid
    fixed: np.ndarray
    moving: np.ndarray
    moved: np.ndarray
    mask: np.ndarray
    displacement_mm: np.ndarray
    affine_mm: np.ndarray
    volume_change: np.ndarray
    uncertainty: np.ndarray | None
    synthesis: np.ndarray | None
    labels: np.ndarray | None
    lesion: np.ndarray | None

    def cut(self, volume: np.ndarray, number: int) -> np.ndarray:
        """One slice, (rows, columns, …): head or front in the first row, right or front in the first column."""
        return cut(volume, self.plane, number)

    @cached_property
    def places(self) -> list[str]:
        """Where each slice lies, such as ``z = 12``, world mm."""
        axis = NORMAL[self.plane]
        values = self.grid.affine[axis, 3] + self.grid.affine[axis, axis] * np.arange(self.grid.shape[axis])
        return [f"{_ACROSS[axis]} = {_short(v, self.gap_mm)}" for v in values]

    @cached_property
    def length_mm(self) -> np.ndarray:
        """Of the displacement."""
        return _length(self.displacement_mm)

    @cached_property
    def local_mm(self) -> np.ndarray:
        """Length of the displacement without its affine part."""
        return _length(self.displacement_mm - self.affine_mm)

    @property
    def gap_mm(self) -> float:
        """From one slice to the next."""
        return float(self.grid.spacing[NORMAL[self.plane]])

    @property
    def pixel_mm(self) -> float:
        """The side of a pixel."""
        return float(self.grid.spacing[(NORMAL[self.plane] + 1) % 3])

    def to_page(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions (N, 2) as (x, y) from the upper left corner, and the slice number as a real, (N,)."""
        axis = NORMAL[self.plane]
        across, up = (a for a in range(3) if a != axis)
        index = self.grid.to_index(points_mm)
        x, y = self.grid.shape[across] - 0.5 - index[:, across], self.grid.shape[up] - 0.5 - index[:, up]
        return np.stack([x, y], -1), index[:, axis]


def cut(volume: np.ndarray, plane: str, number: int) -> np.ndarray:
    """`Stack.cut` of any volume along the world axes."""
    at = tuple(number if a == NORMAL[plane] else slice(None) for a in range(3))
    return np.swapaxes(volume[at], 0, 1)[::-1, ::-1]


def cut_stacks(material: Material, slices: int = SLICES) -> list[Stack]:
    """The slices of each of `PLANES`, spread over the content; one goes through a lesion where one was given."""
    inputs = {role: _above_black(material, role) for role in ("fixed", "moving")}
    return [_stack(material, inputs, grid, plane) for plane, grid in zip(PLANES, grids(material, slices), strict=True)]


def grids(material: Material, slices: int = SLICES) -> list[Grid]:
    """For each plane the grid of its slices."""
    low, high = material.box_mm
    finest = 0.5 * float(material.fixed.grid.spacing.min())
    pixel = max(float((high - low).max()) / _PIXELS, finest)
    middle, inner = (low + high) / 2, (high - low) * _INNER
    lesion = _lesion_mm(material)
    found = []
    for plane in PLANES:
        axis = NORMAL[plane]
        spacing = np.full(3, pixel)
        spacing[axis] = inner[axis] / max(slices - 1, 1)
        shape = np.maximum(2, np.ceil((high - low) / pixel).astype(int))
        shape[axis] = slices
        centre = middle.copy()
        if lesion is not None:  # by at most half a gap
            off = (lesion[axis] - middle[axis]) / spacing[axis] + (slices - 1) / 2
            centre[axis] += (off - round(off)) * spacing[axis]
        found.append(Grid.centred(tuple(int(n) for n in shape), spacing, centre))  # type: ignore[arg-type]
    return found


def _stack(material: Material, inputs: dict[str, tuple[Image, float]], grid: Grid, plane: str) -> Stack:
    m, here = material, Transform.identity()
    taken_at = {"fixed": here, "moving": m.before}

    def taken(image: Image | None) -> np.ndarray | None:
        return None if image is None else here.apply(image, grid).data

    fixed, moving = (_seen(m, role, inputs[role], transform, grid) for role, transform in taken_at.items())
    moved = to_unit(here.apply(m.moved, grid).data, m.windows["moving"])
    mask = here.apply_labels(m.content, grid).data != 0
    return Stack(
        plane,
        grid,
        fixed,
        moving,
        moved,
        _whole(mask, NORMAL[plane]),
        m.transform.displacement(grid),
        m.affine_displacement(grid),
        m.volume_change(grid),
        taken(m.uncertainty),
        taken(m.synthesis),
        None if m.labels is None else here.apply(m.labels, grid, "nearest").data,
        m.lesion_on(grid),
    )


def _above_black(material: Material, role: str) -> tuple[Image, float]:
    """An input, and what is to be taken off its values before it is drawn; converted once where that takes little."""
    image, low = getattr(material, role), material.windows[role][0]
    data = to_sample_often(image.data)
    if low == 0:
        return Image(data, image.grid), 0
    if data is image.data:  # a copy of a large one would be large
        return image, low
    return Image(data - low, image.grid), 0


def _seen(material: Material, role: str, source: tuple[Image, float], transform: Transform, grid: Grid) -> np.ndarray:
    """An input on a grid, in [0, 1]; black where it has no data, for beyond the image there is 0."""
    (image, off), (low, high) = source, material.windows[role]
    if off != 0:
        image = Image(image.data.astype(np.float32) - off, image.grid)
    return to_unit(transform.apply(image, grid).data, (0, high - low))


def _whole(mask: np.ndarray, axis: int) -> np.ndarray:
    """Each slice of a mask with its holes filled and without specks."""
    return np.moveaxis(without_specks(filled(np.moveaxis(mask, axis, 0)), _SPECK), 0, axis)


def _lesion_mm(material: Material) -> np.ndarray | None:
    """The middle of the lesion in fixed space, if there is one: of the fixed image's, else of the moving one's."""
    for role in ("fixed_lesion", "moving_lesion"):
        lesion = material.selections.get(role)
        if lesion is not None and lesion.data.any():
            centre = lesion.grid.to_world(np.argwhere(lesion.data).mean(0))
            return centre if role == "fixed_lesion" else material.transform.apply_points(centre[None])[0]
    return None


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def _short(value: float, gap: float) -> str:
    text = f"{value:.0f}" if gap >= 3 else f"{value:.1f}"
    return text.replace("-", "−") if float(text) else "0"  # no minus before a nought
