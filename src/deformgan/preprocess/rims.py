"""A second flat background: padding around an image's own air, such as 0 around 1000 or CT's -3024 around -1024.

Padding is one value; what lies next to it all around is another, the lowest there is. It becomes that other value, and
the image has one background as any other.
"""

from __future__ import annotations

import numpy as np

from deformgan.io.image import Image
from deformgan.preprocess.extent import areas_of, extent

_MOST_VOXELS = 1_500_000  # that are looked at
_MOST_RIMS = 4  # one around the other
_ON_FACES = 0.03  # share of the image's outer faces that a rim takes
_SHARE = 0.005  # of all voxels
_SOLID = 0.8  # borders of a rim for each of its voxels: a bright skull has more, values in noisy air three and more
_NEAR = 0.06  # share of the range of values that air's noise takes to either side
_LIKE_AIR = 0.7  # share of the voxels beside a rim that are air
_BOX = 0.7  # share of its bounding box that what a rim leaves fills: a box or a cylinder does, a brain does not
_LARGE_LITRES = 2.5  # a brain is smaller
_FLAT_AIR = 0.33  # share of what a rim leaves that has one and the same value
_WITHIN = (0.01, 0.99)  # of what is shown, along each axis, that says where it lies
_HOLLOW = 0.5  # share of the middle of that, below which it is a shell
_BLURRED = 2  # voxels beside a rim that interpolation may have mixed with it
_FEWEST = 64  # voxels beside a rim that say what lies there


def without_rims(image: Image) -> Image:
    """The image with padding around its air given the air's value; the same object where there is none.

    Args:
        image: Checked by `deformgan.io.image.load_image`: finite values.
    """
    for _ in range(_MOST_RIMS):
        step = max(1, int(np.ceil((image.data.size / _MOST_VOXELS) ** (1 / 3))))
        sample = image.data[::step, ::step, ::step]
        found = _rim_and_air(sample, image.grid.spacing * step, max(1, round(_BLURRED / step)))
        if found is None:
            break
        image = Image(_filled(image.data, *found), image.grid, image.name)
    return image


def _rim_and_air(sample: np.ndarray, spacing: np.ndarray, blurred: int) -> tuple[float, np.ndarray] | None:
    """The value of the outermost rim and the values of the air within it, or None."""
    best, found = _LIKE_AIR, None
    for value in _values_on_faces(sample):
        rim = sample == value
        count = np.count_nonzero(rim)
        if count < _SHARE * rim.size or count == rim.size or borders(rim) > _SOLID * count:
            continue
        air, alike = _beside(sample, rim, blurred)
        if len(air) and alike > best and _is_whole_scan(sample, rim, air, spacing):
            best, found = alike, (float(value), air)
    return found


def _values_on_faces(sample: np.ndarray) -> np.ndarray:
    """Each value that takes a good part of the six faces."""
    values, counts = counts_on_faces(sample)
    return values[counts > _ON_FACES * counts.sum()]


def counts_on_faces(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values on the six faces of (D, H, W), ascending, and how often each is there."""
    return np.unique(on_faces(sample), return_counts=True)


def on_faces(sample: np.ndarray) -> np.ndarray:
    """The values on the six faces of (D, H, W), (N,)."""
    return np.concatenate([np.moveaxis(sample, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)])


def _beside(sample: np.ndarray, rim: np.ndarray, blurred: int) -> tuple[np.ndarray, float]:
    """The values beside a rim that are air, and their share; none where something else lies there, or the same."""
    within = ~grown(rim, blurred)
    beside, inside = sample[within & grown(~within, 1)], sample[within]
    if beside.size < _FEWEST:
        return beside[:0], 0.0
    lowest, highest = (float(q) for q in np.quantile(inside[::7], (0.005, 0.998)))
    if highest <= lowest:
        return beside[:0], 0.0
    air, near = float(np.median(beside)), _NEAR * (highest - lowest)
    flat = np.count_nonzero(beside == air) / beside.size
    if flat > _LIKE_AIR and np.count_nonzero(inside == air) >= _FLAT_AIR * inside.size:
        return beside[beside == air], flat  # whatever lies below it
    like = np.abs(beside - air) <= near
    is_air = air - lowest <= near and not _is_shell(within & (np.abs(sample - air) > near))
    return beside[like] if is_air else beside[:0], float(like.mean())


def _is_shell(shown: np.ndarray) -> bool:
    """Whether what differs from the air surrounds what does not: bone in CT, where soft tissue lies beside flat air."""
    if not shown.any():
        return False
    ends = [extent(areas, _WITHIN) for areas in areas_of(shown)]
    quarters = [(stop - 1 - start) // 4 for start, stop in ends]
    middle = tuple(slice(start + q, stop - q) for (start, stop), q in zip(ends, quarters, strict=True))
    return bool(np.mean(shown[middle]) < _HOLLOW)


def _is_whole_scan(sample: np.ndarray, rim: np.ndarray, air: np.ndarray, spacing: np.ndarray) -> bool:
    """Whether what a rim leaves is a scan with air in it, and not a brain whose surface is dark."""
    rest, level = ~rim, np.median(air)
    count = np.count_nonzero(rest)
    if np.count_nonzero(sample == level) >= _FLAT_AIR * count and sample[rest].min() == level:
        return True
    if count * float(spacing.prod()) / 1e6 > _LARGE_LITRES:
        return True
    sides = [np.flatnonzero(rest.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return bool(count >= _BOX * float(np.prod([side[-1] - side[0] + 1 for side in sides])))


def _filled(data: np.ndarray, value: float, air: np.ndarray) -> np.ndarray:
    """A copy with the air's values, in turn, in the rim and in what interpolation mixed with it: noise stays noise."""
    rim, level = data == value, float(np.median(air))
    low, high = sorted((value, level))
    reach = _BLURRED if value < level else 1  # tissue may lie between the air and a bright rim
    rim |= grown(rim, reach) & (data > low) & (data < high)
    out = np.array(data, np.result_type(data, np.float32), order="F")
    out[rim] = np.resize(air, np.count_nonzero(rim))
    return out


def borders(mask: np.ndarray) -> int:
    """How often voxels inside and outside a mask (D, H, W) lie side by side."""
    transposed = (mask, mask.T, mask.swapaxes(0, 1))  # each puts another axis first
    return sum(int(np.count_nonzero(view[1:] != view[:-1])) for view in transposed)


def grown(mask: np.ndarray, times: int) -> np.ndarray:
    """A mask (D, H, W) and its neighbours along each axis, so many times."""
    for _ in range(times):
        wider = mask.copy(order="K")
        for axis in range(3):
            lower, upper = [slice(None)] * 3, [slice(None)] * 3
            lower[axis], upper[axis] = slice(None, -1), slice(1, None)
            wider[tuple(lower)] |= mask[tuple(upper)]
            wider[tuple(upper)] |= mask[tuple(lower)]
        mask = wider
    return mask
