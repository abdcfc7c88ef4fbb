"""What `scipy.ndimage` has for slices, as far as a page needs it: importing that takes as long as drawing half a page.

Arrays hold one slice, (rows, columns), or several, (slices, rows, columns); neighbours share a side.
"""

from __future__ import annotations

import numpy as np

_WIDTHS = 4.0  # standard deviations to which the Gaussian reaches


def smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """A slice after a Gaussian of ``sigma`` pixels, mirrored at its borders; float32 as `scipy.ndimage` to the bit."""
    reach = int(_WIDTHS * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
    weights /= weights.sum()
    for _ in range(2):  # along the rows of the one, then of its transpose
        image = _along_rows(image, weights[: reach + 1]).T
    return image


def _along_rows(image: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Symmetric weights, the first half of them with the middle one, over the first axis of an image."""
    reach, size = len(half) - 1, len(image)
    if size < reach:
        padded = np.pad(image, ((reach, reach), (0, 0)), "symmetric").astype(np.float64)
    else:  # the same in a fraction of the time, which matters where a slice has a hundred labels
        padded = np.empty((size + 2 * reach, image.shape[1]))
        padded[reach : reach + size] = image
        padded[:reach], padded[reach + size :] = image[:reach][::-1], image[size - reach :][::-1]
    total = padded[reach : reach + size] * half[reach]
    for near, weight in enumerate(half[:reach]):
        total += (padded[near : near + size] + padded[2 * reach - near :][:size]) * weight
    return total.astype(np.float32)


def eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """What of a slice's mask is more than ``times`` steps from what is not; beyond the slice is nothing."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def parts(mask: np.ndarray) -> np.ndarray:
    """The number of the part that each pixel belongs to, int, as the mask, (slices, rows, columns): 0 outside, from 1.

    A part lies in one slice.
    """
    padded = np.pad(mask, ((0, 0), (1, 0), (1, 0)))
    starts = padded[:, 1:, 1:] & ~padded[:, 1:, :-1]
    runs = np.cumsum(starts).reshape(mask.shape) * mask  # pixels side by side
    upper, lower = runs[:, :-1], runs[:, 1:]
    touching = (upper > 0) & (lower > 0)
    pairs = np.stack([upper[touching], lower[touching]])
    least = np.arange(runs.max(initial=0) + 1)
    while True:  # every run takes the least number among its neighbours', and then the one that this one has
        before = least.copy()
        reached = np.minimum(least[pairs[0]], least[pairs[1]])
        np.minimum.at(least, pairs[0], reached)
        np.minimum.at(least, pairs[1], reached)
        np.minimum.at(least, before, least)
        least = least[least]
        if np.array_equal(least, before):
            break
    return np.unique(least, return_inverse=True)[1][runs]


def filled(mask: np.ndarray) -> np.ndarray:
    """Each of several slices with its holes: what cannot be reached from the slice's border."""
    outside = parts(~mask)
    rim = np.ones(mask.shape, bool)
    rim[:, 1:-1, 1:-1] = False
    reached = np.zeros(outside.max(initial=0) + 1, bool)
    reached[outside[rim]] = True
    reached[0] = False
    return ~reached[outside]


def without_specks(mask: np.ndarray, share: float) -> np.ndarray:
    """Each of several slices without the parts that have less than ``share`` of its pixels."""
    numbers = parts(mask)
    sizes = np.bincount(numbers.ravel())
    needed = share * mask.sum((1, 2))
    return mask & (sizes[numbers] >= needed[:, None, None])
