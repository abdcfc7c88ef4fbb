"""What goes wrong in practice, made from cases with a known deformation, so that the truth stays known.

Each kind is a function of a `Pair` and a random generator that gives another `Pair`; a new kind is a function and its
line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import (
    affine_transform,
    binary_erosion,
    binary_fill_holes,
    binary_opening,
    gaussian_filter,
    map_coordinates,
)  # fmt: skip

SHARE = 0.4  # of the brain along z, that a slab shows
CUT = 0.75  # of it, that is left where its top is cut off
THIN_MM, TILT_DEGREES = 40.0, 25.0
REGION_MM, SMALL_REGION_MM, TOP_MM = 80.0, 60.0, 45.0  # of what both images show
OFF_MIDDLE_MM, APART_MM, WIDER_MM = 15.0, 6.0, 4.0  # where a region lies, and how the moving image's differs
TINY, WRONG_SIZE = 0.1, 1.25
MOVED_DEGREES, MOVED_MM = 15.0, 12.0
RESIDUAL_DEGREES, RESIDUAL_MM = 1.5, (1.0, 2.0)  # a motion that was missed when one mask was made for both images
BENT = 0.25  # of the deformation, that is left between them
EMPTY, TIGHTER = 0.02, 2  # white that is background there, and voxels by which the mask is tighter than the brain
POINTS = 20_000

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images, and where positions of the fixed one lie in the moving one.

    Attributes:
        fixed, moving: Voxels (X, Y, Z) in [0, 1].
        fixed_affine, moving_affine: (4, 4), voxel to RAS+ mm.
        points, targets: (N, 3) RAS+ mm, in the fixed brain and their true partners; ``targets`` is None where there are
            none: nothing that is found can be right.
        moving_true: Voxels of the moving image before it was deformed, on the fixed grid.
        field: (X, Y, Z, 3), what deformed it, voxels.
        size: Of the anatomy relative to an adult's: errors are divided by it.
    """

    fixed: Array
    moving: Array
    fixed_affine: Array
    moving_affine: Array
    points: Array
    targets: Array | None
    moving_true: Array
    field: Array
    size: float = 1.0

    def where(self, kept: Array) -> Pair:
        """With these of the points only, (N,) bool."""
        assert self.targets is not None
        return replace(self, points=self.points[kept], targets=self.targets[kept])


def read(folder: Path) -> Pair:
    """A case as `deformgan evaluate` makes it, at about `POINTS` voxels of its mask."""
    images = {
        name: nib.load(folder / f"{name}.nii.gz") for name in ("fixed", "moving", "moving_true", "mask", "true_field")
    }
    data = {name: np.asarray(image.dataobj, np.float32) for name, image in images.items()}
    affine = images["fixed"].affine
    index = np.argwhere(data["mask"] > 0)
    index = index[:: max(1, len(index) // POINTS)]
    whole = data["true_field"].reshape(*data["mask"].shape, 3)
    points, targets = (nib.affines.apply_affine(affine, at) for at in (index, index + whole[tuple(index.T)]))
    return Pair(data["fixed"], data["moving"], affine, affine, points, targets, data["moving_true"], whole)


def save(pair: Pair, folder: Path) -> tuple[Path, Path]:
    """Write both images; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for path, data, affine in zip(
        paths, (pair.fixed, pair.moving), (pair.fixed_affine, pair.moving_affine), strict=True
    ):
        image = nib.Nifti1Image(data.astype(np.float32), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    return paths


def full(pair: Pair, rng: np.random.Generator) -> Pair:
    """As it is: what the others are compared with."""
    return pair


def aligned(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving image was never deformed: nothing is to be done."""
    return replace(pair, moving=pair.moving_true, targets=pair.points)


def moved(pair: Pair, rng: np.random.Generator) -> Pair:
    """The same, but who was scanned moved in between: turned about any axis and shifted, with correct headers."""
    return _moved(pair, rng.normal(size=3), rng.uniform(0, MOVED_DEGREES), rng.uniform(-MOVED_MM, MOVED_MM, 3))


def one_mask(pair: Pair, rng: np.random.Generator) -> Pair:
    """Brought together but for a little, then stripped by one mask, as patients' contrasts are: borders coincide."""
    way = rng.normal(size=3)
    shift = rng.uniform(*RESIDUAL_MM) * way / np.linalg.norm(way)
    return _masked_alike(_moved(pair, rng.normal(size=3), rng.uniform(0, RESIDUAL_DEGREES), shift))


def one_mask_bent(pair: Pair, rng: np.random.Generator) -> Pair:
    """The same, but what is left is a part of the deformation."""
    field = BENT * np.stack([gaussian_filter(pair.field[..., axis], 2) for axis in range(3)])
    index = np.indices(pair.moving_true.shape, np.float64)
    scan = map_coordinates(pair.moving_true, index + field, order=3)
    at = nib.affines.apply_affine(np.linalg.inv(pair.fixed_affine), pair.points)
    there = at
    for _ in range(30):  # the position from which the field leads to each point
        there = at - np.stack([map_coordinates(part, there.T, order=1) for part in field], 1)
    targets = nib.affines.apply_affine(pair.fixed_affine, there)
    return _masked_alike(replace(pair, moving=scan.clip(0, 1), moving_affine=pair.fixed_affine, targets=targets))


def _masked_alike(pair: Pair) -> Pair:
    """Both images within one mask, and the points in it."""
    shown = binary_fill_holes(pair.fixed > 0) & binary_fill_holes(pair.moving > EMPTY)
    mask = binary_erosion(binary_opening(shown, iterations=2), iterations=TIGHTER)
    at = np.rint(nib.affines.apply_affine(np.linalg.inv(pair.fixed_affine), pair.points)).astype(int)
    fixed, moving = (np.where(mask, np.maximum(one, 1e-3), 0) for one in (pair.fixed, pair.moving))
    return replace(pair, fixed=fixed, moving=moving).where(mask[tuple(at.T)])


def _moved(pair: Pair, axis: Array, degrees: float, shift: Array) -> Pair:
    """The moving image before it was deformed after a turn about the middle of the brain and a shift in mm."""
    assert pair.targets is not None
    centre, motion = np.eye(4), np.eye(4)
    centre[:3, 3] = pair.points.mean(0)
    motion[:3, :3] = rotation(axis, degrees)
    motion[:3, 3] = shift
    motion = centre @ motion @ np.linalg.inv(centre)
    back = np.linalg.inv(pair.moving_affine) @ np.linalg.inv(motion) @ pair.fixed_affine
    scan = affine_transform(pair.moving_true, back[:3, :3], back[:3, 3], output_shape=pair.moving.shape, order=3)
    targets = nib.affines.apply_affine(motion, pair.points)
    at = nib.affines.apply_affine(np.linalg.inv(pair.moving_affine), targets)
    seen = ((at >= 0) & (at <= np.array(scan.shape) - 1)).all(1)
    return replace(pair, moving=scan.clip(0, 1), targets=targets).where(seen)


def identical(pair: Pair, rng: np.random.Generator) -> Pair:
    """One image twice."""
    return replace(pair, moving=pair.fixed, targets=pair.points)


def slab_moving(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving image shows the middle of the brain only; counted where partners lie inside."""
    return _slab(pair, "moving", SHARE)


def slab_fixed(pair: Pair, rng: np.random.Generator) -> Pair:
    """The fixed image shows the middle of the brain only."""
    return _slab(pair, "fixed", SHARE)


def slab_thin(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving image is a slab of `THIN_MM`."""
    return _slab(pair, "moving", THIN_MM / np.ptp(pair.points[:, 2]))


def slab_oblique(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving image shows an oblique slab within zeros."""
    normal = rotation(np.array([1.0, 0, 0]), TILT_DEGREES)[:, 2]
    assert pair.targets is not None
    along = pair.targets @ normal
    low, high = np.quantile(along, (0.5 - SHARE / 2, 0.5 + SHARE / 2))
    index = np.stack(np.meshgrid(*map(np.arange, pair.moving.shape), indexing="ij"), -1)
    at = nib.affines.apply_affine(pair.moving_affine, index) @ normal
    shown = replace(pair, moving=np.where((at >= low) & (at <= high), pair.moving, 0))
    return shown.where((along >= low + 2) & (along <= high - 2))


def cut(pair: Pair, rng: np.random.Generator) -> Pair:
    """The top of the moving brain is outside the image."""
    assert pair.targets is not None
    low, high = pair.targets[:, 2].min(), pair.targets[:, 2].max()
    return _cropped(pair, "moving", low - 1000, low + CUT * (high - low))


def region(pair: Pair, rng: np.random.Generator) -> Pair:
    """Both images show a cube somewhere in the brain, not quite the same."""
    return _region(pair, rng, REGION_MM)


def region_small(pair: Pair, rng: np.random.Generator) -> Pair:
    """The same, of `SMALL_REGION_MM`."""
    return _region(pair, rng, SMALL_REGION_MM)


def tops(pair: Pair, rng: np.random.Generator) -> Pair:
    """Both images show the upper `TOP_MM` of the brain."""
    assert pair.targets is not None
    for which, along in (("fixed", pair.points[:, 2]), ("moving", pair.targets[:, 2])):
        pair = _cropped(pair, which, along.max() - TOP_MM, along.max() + 1000)
    return pair


def tiny(pair: Pair, rng: np.random.Generator) -> Pair:
    """Voxels and brain a tenth the size: a mouse."""
    scaled = np.diag([TINY, TINY, TINY, 1])
    assert pair.targets is not None
    affines = scaled @ pair.fixed_affine, scaled @ pair.moving_affine
    return replace(
        pair, fixed_affine=affines[0], moving_affine=affines[1], points=TINY * pair.points, targets=TINY * pair.targets,
        size=TINY,
    )  # fmt: skip


def thick(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving image in slices four voxels thick, averaged."""
    whole = pair.moving[:, :, : pair.moving.shape[2] // 4 * 4]
    slices = whole.reshape(*whole.shape[:2], -1, 4).mean(-1)
    thicker = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 1.5], [0, 0, 0, 1.0]])
    return replace(pair, moving=slices, moving_affine=pair.moving_affine @ thicker)


def turned(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header that turns the moving image by 40 to 180 degrees about any axis and shifts it by up to 40 mm."""
    axis = rng.normal(size=3)
    motion = np.eye(4)
    motion[:3, :3] = rotation(axis, rng.uniform(40, 180))
    motion[:3, 3] = rng.uniform(-40, 40, 3)
    return _by_header(pair, motion)


def on_its_side(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header that has lost the orientation: the moving image's axes are read as others, in cyclic order."""
    assert pair.targets is not None
    motion = np.eye(4)
    motion[:3, :3] = np.roll(np.eye(3), rng.integers(1, 3), 0) @ np.diag([(1, 1, 1), (-1, -1, 1)][rng.integers(2)])
    centre = pair.targets.mean(0)
    motion[:3, 3] = centre - motion[:3, :3] @ centre
    return _by_header(pair, motion)


def not_searched(pair: Pair, rng: np.random.Generator) -> Pair:
    """The same, with the start taken from the headers (`OPTIONS`): most of these must go wrong."""
    return turned(pair, rng)


def wrong_size(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header with voxels that are a quarter too high."""
    return _by_header(pair, np.diag([1, 1, WRONG_SIZE, 1]))


def noisy(pair: Pair, rng: np.random.Generator) -> Pair:
    """Noise of a tenth of the range in both images' brains."""
    noise = [rng.normal(0, 0.1, one.shape) * (one > 0) for one in (pair.fixed, pair.moving)]
    images = [np.clip(one + more, 0, 1) for one, more in zip((pair.fixed, pair.moving), noise, strict=True)]
    return replace(pair, fixed=images[0], moving=images[1])


def mirrored(pair: Pair, rng: np.random.Generator) -> Pair:
    """Left and right of the moving image are exchanged, and its header does not say so."""
    return replace(pair, moving=pair.moving[::-1], targets=None)


def unrelated(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving brain's outline filled with something else."""
    return replace(pair, moving=texture_within(pair.moving, rng), targets=None)


def texture_within(image: Array, rng: np.random.Generator) -> Array:
    """Smooth noise from 0.2 to 1 in what the image shows."""
    inside = gaussian_filter((image > 0).astype(np.float32), 1)
    texture = gaussian_filter(rng.normal(size=image.shape), 3)
    texture = (texture - texture.min()) / np.ptp(texture)
    return (inside > 0.5) * (0.2 + 0.8 * texture)


KINDS: dict[str, Callable[[Pair, np.random.Generator], Pair]] = {
    "full": full,
    "aligned": aligned,
    "moved": moved,
    "one-mask": one_mask,
    "one-mask-bent": one_mask_bent,
    "identical": identical,
    "slab-moving": slab_moving,
    "slab-fixed": slab_fixed,
    "slab-thin": slab_thin,
    "slab-oblique": slab_oblique,
    "cut": cut,
    "region": region,
    "region-small": region_small,
    "tops": tops,
    "tiny": tiny,
    "thick": thick,
    "turned": turned,
    "on-its-side": on_its_side,
    "not-searched": not_searched,
    "wrong-size": wrong_size,
    "noisy": noisy,
    "mirrored": mirrored,
    "unrelated": unrelated,
}
# kinds that are registered with other settings than the defaults
OPTIONS: dict[str, dict[str, str]] = {"not-searched": {"transform": "deform"}}


def _slab(pair: Pair, which: str, share: float) -> Pair:
    """The middle ``share`` of the brain along z."""
    assert pair.targets is not None
    along = (pair.points if which == "fixed" else pair.targets)[:, 2]
    middle, half = (along.min() + along.max()) / 2, share * np.ptp(along) / 2
    return _cropped(pair, which, middle - half, middle + half)


def _cropped(pair: Pair, which: str, low: float, high: float, axis: int = 2) -> Pair:
    """One image from ``low`` to ``high`` mm along an axis, and the points that lie in it, a voxel from its ends."""
    assert pair.targets is not None
    data, affine = (getattr(pair, name) for name in (which, f"{which}_affine"))
    at = affine[axis, axis] * np.arange(data.shape[axis]) + affine[axis, 3]
    kept = np.flatnonzero((at >= low) & (at <= high))
    begins = np.eye(4)
    begins[axis, 3] = kept[0]
    shown = np.moveaxis(np.moveaxis(data, axis, 0)[kept[0] : kept[-1] + 1], 0, axis)
    along = (pair.points if which == "fixed" else pair.targets)[:, axis]
    ends, margin = np.sort(at[kept[[0, -1]]]), abs(affine[axis, axis])
    seen = replace(pair, **{which: shown, f"{which}_affine": affine @ begins})
    return seen.where((along >= ends[0] + margin) & (along <= ends[1] - margin))


def _region(pair: Pair, rng: np.random.Generator, side: float) -> Pair:
    """Both images cropped to cubes, mm, the moving one a little elsewhere and wider, and the points in both."""
    assert pair.targets is not None
    off = OFF_MIDDLE_MM * rotation(rng.normal(size=3), rng.uniform(0, 360))[0]
    places = pair.points.mean(0) + off, pair.targets.mean(0) + off + rng.uniform(-APART_MM, APART_MM, 3)
    for which, middle, half in zip(("fixed", "moving"), places, (side / 2, side / 2 + WIDER_MM), strict=True):
        for axis in range(3):
            pair = _cropped(pair, which, middle[axis] - half, middle[axis] + half, axis)
    return pair


def _by_header(pair: Pair, motion: Array) -> Pair:
    """The moving image where a header with this motion (4, 4) of world space places it."""
    assert pair.targets is not None
    targets = nib.affines.apply_affine(motion, pair.targets)
    return replace(pair, moving_affine=motion @ pair.moving_affine, targets=targets)


def rotation(axis: Array, degrees: float) -> Array:
    """(3, 3) about an axis (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
