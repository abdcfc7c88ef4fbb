"""How a slice is drawn: greys, edges of two images, maps in colours. Arrays in, 8-bit pixels out."""

from __future__ import annotations

import numpy as np

from deformgan.output.report.slices import eroded, smoothed

# edges of one image alone and of the other alone; their sum, where both have one, is white
EDGE_FIXED, EDGE_OTHER = (0, 165, 255), (255, 90, 0)
FOLD = (255, 0, 200)
# volume change, log2 from -1 to 1: blue shrank, white, orange grew (told apart also with red-green blindness)
CHANGE_COLOURS = np.array([[5, 48, 97], [67, 147, 195], [247, 247, 247], [230, 140, 40], [127, 59, 8]], np.float32)
# lengths and errors: dark to light, lightness alone tells the order
LENGTH_COLOURS = np.array([[27, 16, 53], [59, 59, 152], [36, 135, 150], [127, 208, 107], [253, 240, 111]], np.float32)
ERROR_COLOURS = np.array([[0, 32, 77], [87, 93, 109], [188, 175, 111], [255, 234, 70]], np.float32)
_LEVELS = 254  # of a map's colours; the two that are left are folds and what is outside
_OUTSIDE, _FOLDED = 255, 254
_EDGE_SIGMA_MM = 1.0
_EDGE_SHARE = 0.12  # of the foreground's pixels, the steepest, that count as edges
_RIM = 3  # pixels
_EDGE = np.array([255, 176, 46], np.float32)
_EDGE_WHITE = 0.97  # quantile of the gradient inside the content that is drawn at full strength


def grey(image: np.ndarray) -> np.ndarray:
    """(rows, columns) in [0, 1] as uint8."""
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def edge_strength(image: np.ndarray, mask: np.ndarray, pixel_mm: float) -> np.ndarray:
    """How steep a slice is, (rows, columns) in [0, 1], relative to the steepest places inside ``mask``."""
    down, across = np.gradient(smoothed(image.astype(np.float32), _EDGE_SIGMA_MM / pixel_mm))
    steep = np.hypot(down, across)
    if not mask.any():
        return np.zeros_like(steep)
    top = float(np.quantile(steep[mask], _EDGE_WHITE))
    return (steep / max(top, 1e-6)).clip(0, 1)


def edge_difference(fixed: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Edges of two slices, strengths in [0, 1]: blue the fixed one's alone, orange the other's alone, white both."""
    both = np.stack([fixed, other], -1).clip(0, 1) @ np.array([EDGE_FIXED, EDGE_OTHER], np.float32)
    return both.round().astype(np.uint8)


def edges(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where a slice is steepest inside ``mask``, one pixel wide: bool, as `image`.

    What is steep is judged away from the mask's rim, which in skull-stripped images would outdo all else.
    """
    steep = np.hypot(*np.gradient(image)) * mask
    if not mask.any():
        return np.zeros(image.shape, bool)
    inner = eroded(mask, _RIM)
    limit = np.quantile(steep[inner if inner.any() else mask], 1 - _EDGE_SHARE)
    padded = np.pad(steep, 1)
    across = (steep >= padded[:-2, 1:-1]) & (steep >= padded[2:, 1:-1])
    along = (steep >= padded[1:-1, :-2]) & (steep >= padded[1:-1, 2:])
    return (steep >= max(float(limit), 1e-6)) & (across | along)


def edges_over(fixed: np.ndarray, moved: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The moved slice's edges, orange, on the fixed slice, RGB uint8: for pictures too small for `edge_difference`."""
    lines = edges(moved, mask)
    return np.where(lines[..., None], _EDGE, 255 * fixed.clip(0, 1)[..., None]).round().astype(np.uint8)


def colours_of(stops: np.ndarray, count: int = _LEVELS) -> np.ndarray:
    """``count`` colours (count, 3) uint8 from the first to the last of ``stops`` (N, 3), at equal distances."""
    at, wanted = np.linspace(0, 1, len(stops)), np.linspace(0, 1, count)
    return np.stack([np.interp(wanted, at, stops[:, c]) for c in range(3)], -1).round().astype(np.uint8)


def change_map(change: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Volume change of the moving tissue: blue shrank, orange grew, white is unchanged, magenta folds; RGB uint8.

    Args:
        change: Times larger; ≤ 0 where the map folds.
    """
    share = np.log2(np.maximum(change, 1e-6)).clip(-1, 1) / 2 + 0.5
    pixels = (share * (_LEVELS - 1)).round().astype(np.uint8)
    return _map(np.where(change > 0, pixels, _FOLDED), mask, CHANGE_COLOURS)


def amount_map(values: np.ndarray, mask: np.ndarray, top: float, stops: np.ndarray) -> np.ndarray:
    """Amounts from 0 to ``top`` and more in colours from the first of ``stops`` to the last; black outside; RGB."""
    share = (values / max(top, 1e-6)).clip(0, 1)
    return _map((share * (_LEVELS - 1)).round().astype(np.uint8), mask, stops)


def _map(pixels: np.ndarray, mask: np.ndarray, stops: np.ndarray) -> np.ndarray:
    palette = np.vstack([colours_of(stops), [FOLD, (0, 0, 0)]]).astype(np.uint8)
    return palette[np.where(mask, pixels, _OUTSIDE)]
