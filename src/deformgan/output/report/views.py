"""The slices a report shows: three planes of volumes on one grid along the world axes, drawn with numpy alone.

Radiological layout: the patient's right on the left, the nose of the sagittal slice to the left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PLANES = ("axial", "coronal", "sagittal")
SQUARE_MM, LINE_MM = 18.0, 9.0
_EDGE_SHARE = 0.12  # of the foreground's pixels, the steepest, that count as edges
_RIM = 3  # pixels
_EDGE = np.array([255, 176, 46], np.float32)
_TINT = np.array([0.72, 0.95, 1.0], np.float32)
_FOLD = np.array([255, 0, 200], np.float32)
# volume change, log2 from -1 to 1: blue, white, orange (told apart also with red-green blindness)
JACOBIAN_COLOURS = np.array([[5, 48, 97], [67, 147, 195], [247, 247, 247], [230, 140, 40], [127, 59, 8]], np.float32)
# uncertainty: dark to light, brightness alone tells the order
UNCERTAINTY_COLOURS = np.array([[0, 32, 77], [87, 93, 109], [188, 175, 111], [255, 234, 70]], np.float32)


def cut(volume: np.ndarray, plane: str, index: tuple[int, int, int]) -> np.ndarray:
    """The slice of (D, H, W, …) through voxel ``index``: (rows, columns, …), head or front in the first row."""
    axis = 2 - PLANES.index(plane)
    at = tuple(index[axis] if a == axis else slice(None) for a in range(3))
    return np.swapaxes(volume[at], 0, 1)[::-1, ::-1]


def grey(image: np.ndarray) -> np.ndarray:
    """(rows, columns) in [0, 1] as uint8."""
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def checkerboard(fixed: np.ndarray, other: np.ndarray, spacing: float) -> np.ndarray:
    """Squares of the fixed slice (tinted) and of the other's in turn, RGB uint8."""
    side = max(1, round(SQUARE_MM / spacing))
    odd = np.add.outer(*(np.arange(n) // side for n in fixed.shape)) % 2 == 1
    board = np.where(odd, fixed, other)[..., None] * np.where(odd[..., None], _TINT, 1.0)
    return grey(board)


def edges(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where a slice is steepest inside ``mask``, one pixel wide: bool, as `image`.

    What is steep is judged away from the mask's rim, which in skull-stripped images would outdo all else.
    """
    steep = np.hypot(*np.gradient(image)) * mask
    if not mask.any():
        return np.zeros(image.shape, bool)
    inner = _within(mask, _RIM)
    limit = np.quantile(steep[inner if inner.any() else mask], 1 - _EDGE_SHARE)
    padded = np.pad(steep, 1)
    across = (steep >= padded[:-2, 1:-1]) & (steep >= padded[2:, 1:-1])
    along = (steep >= padded[1:-1, :-2]) & (steep >= padded[1:-1, 2:])
    return (steep >= max(float(limit), 1e-6)) & (across | along)


def _within(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask without a rim of so many pixels."""
    for _ in range(pixels):
        p = np.pad(mask, 1)
        mask = mask & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask


def edges_over(fixed: np.ndarray, moved: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The moved slice's edges, orange, on the fixed slice, RGB uint8."""
    lines = edges(moved, mask)
    return np.where(lines[..., None], _EDGE, 255 * fixed.clip(0, 1)[..., None]).round().astype(np.uint8)


def coloured(share: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as RGB (…, 3) float32 in [0, 255], between ``colours`` (N, 3) at equal distances."""
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(share, at, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def jacobian_map(determinant: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Local volume change: blue shrinks, orange grows, white is unchanged, magenta folds; black outside the mask."""
    change = np.log2(np.maximum(determinant, 1e-6)).clip(-1, 1)
    shown = np.where((determinant <= 0)[..., None], _FOLD, coloured(change / 2 + 0.5, JACOBIAN_COLOURS))
    return np.where(mask[..., None], shown, 0).round().astype(np.uint8)


def uncertainty_map(uncertainty: np.ndarray, mask: np.ndarray, top: float) -> np.ndarray:
    """Dark is certain, light uncertain, ``top`` the lightest; black outside the mask."""
    shown = coloured((uncertainty / max(top, 1e-6)).clip(0, 1), UNCERTAINTY_COLOURS)
    return np.where(mask[..., None], shown, 0).round().astype(np.uint8)


def grid_lines(displacement: np.ndarray, mask: np.ndarray, plane: str, spacing: float) -> Iterator[str]:
    """A regular grid of the fixed slice as the map bends it: SVG path data in pixels of the slice.

    Args:
        displacement: (rows, columns, 3) in voxels along the world axes; only the part in the plane is drawn.
        mask: (rows, columns), where lines are drawn.
    """
    across, up = (a for a in range(3) if a != 2 - PLANES.index(plane))
    rows, columns = np.indices(mask.shape).astype(np.float32) + 0.5
    # both directions of the page run against the axes
    x, y = columns - displacement[..., across], rows - displacement[..., up]
    step = max(1, round(LINE_MM / spacing))
    lines = [(x[r], y[r], mask[r]) for r in range(0, mask.shape[0], step)]
    lines += [(x[:, c], y[:, c], mask[:, c]) for c in range(0, mask.shape[1], step)]
    for xs, ys, inside in lines:
        at = np.flatnonzero(inside)
        for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1):
            if len(run) > 2:
                yield "M" + "L".join(f"{xs[i]:.1f} {ys[i]:.1f}" for i in run)
