"""Label maps and images made to try the rule that tells them apart: what is brought to resampling tools, and hard ones.

Every case is made from a seed: ``CASES`` has its name, whether it is a label map, and the function that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from deformgan.io.label_maps import Evidence, gather, is_whole

SHAPE = (72, 84, 64)
CASES: dict[str, tuple[bool, Callable[[], np.ndarray]]] = {}


def _case(name: str, labels: bool) -> Callable[[Callable[[], np.ndarray]], Callable[[], np.ndarray]]:
    def add(make: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        CASES[name] = labels, make
        return make

    return add


@cache
def evidence_of(name: str) -> tuple[bool, Evidence | None]:
    """What the case is, and its evidence; None where its values are not whole."""
    labels, make = CASES[name]
    data = make()
    return labels, gather(data) if is_whole(data) else None


# -- what they are made of -------------------------------------------------------------------------------------------


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _head(size: float = 0.85) -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return sum((x / size) ** 2 for x in axes) <= 1


def _smooth(sigma: float, seed: int) -> np.ndarray:
    field = ndi.gaussian_filter(_rng(seed).standard_normal(SHAPE), sigma)
    return field / field.std()


def _regions(count: int, seed: int = 0, rough: float = 0.0) -> np.ndarray:
    """A parcellation of the head: every voxel goes to the nearest of ``count`` seeds, 1 … count in random order."""
    head, rng = _head(), _rng(seed)
    inside = np.argwhere(head)
    seeds = inside[rng.choice(len(inside), count, replace=False)]
    _, owner = cKDTree(seeds).query(inside + rough * rng.standard_normal(inside.shape))
    out = np.zeros(SHAPE, np.int64)
    out[head] = owner + 1
    return out


def _tissues(seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """0 air, 1 CSF, 2 grey, 3 white matter in folds."""
    depth = ndi.distance_transform_edt(_head()) + 3 * _smooth(3, seed) + noise * _rng(seed).standard_normal(SHAPE)
    return np.where(_head(), np.digitize(depth, [4, 10]) + 1, 0)


def _scan(noise: float, seed: int = 1, top: float = 1000.0) -> np.ndarray:
    """A head with a bias field, texture and noise, 0 outside."""
    grey = np.array([0, 0.2, 0.6, 0.9])[_tissues(seed)]
    grey = ndi.gaussian_filter(grey, 0.6) * (1 + 0.1 * _smooth(12, seed)) + 0.03 * _smooth(1.5, seed + 7)
    return np.clip(grey * top + noise * top * _rng(seed).standard_normal(SHAPE), 0, None) * _head()


def _upsampled(data: np.ndarray, times: int) -> np.ndarray:
    small = data[::times, ::times, ::times]
    return small.repeat(times, 0).repeat(times, 1).repeat(times, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def _spheres(count: int, radius: float, seed: int = 0) -> np.ndarray:
    points = _rng(seed).integers(4, np.array(SHAPE) - 4, (count, 3))
    out = np.zeros(SHAPE, np.int16)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    for number, point in enumerate(points, 1):
        out[((index - point) ** 2).sum(-1) <= radius**2] = number
    return out


# -- label maps ------------------------------------------------------------------------------------------------------


for _count in (8, 100, 400, 1000, 5000):
    _case(f"parcellation of {_count} regions", True)(lambda n=_count: _regions(n).astype(np.uint16))
_case("parcellation of 1000 regions with ragged borders", True)(lambda: _regions(1000, rough=0.7))
_case("parcellation of 300, left 1 to 150, right 1001 to 1150", True)(
    lambda: np.where(_regions(300) > 150, _regions(300) + 850, _regions(300))
)
_case("parcellation of 200, ids in order of position", True)(
    lambda: (lambda r: np.r_[0, 1 + np.argsort(np.argsort(ndi.mean(np.indices(SHAPE)[0], r, range(1, 201))))][r])(
        _regions(200)
    )
)
_case("Allen ids around 614 454 000, float64", True)(
    lambda: np.where(_regions(300) > 0, 614454000.0 + 7 * _regions(300), 0)
)
_case("ids up to 2^52, float64", True)(lambda: np.where(_regions(50) > 0, 2.0**52 - 3 * _regions(50), 0))
_case("tissues 1 to 3", True)(lambda: _tissues().astype(np.uint8))
_case("tissues, noisy", True)(lambda: _tissues(noise=1.5).astype(np.uint8))
_case("tissues as floats", True)(lambda: _tissues().astype(np.float32))
_case("tumour parts 1, 2, 4", True)(
    lambda: np.array([0, 2, 1, 4])[np.digitize(ndi.distance_transform_edt(_spheres(1, 12)), [0.5, 4, 8])]
)
_case("brain mask", True)(_head)
_case("brain mask of 0 and 255", True)(lambda: (_head() * 255).astype(np.uint8))
_case("mask, everything", True)(lambda: np.ones(SHAPE, np.uint8))
_case("empty map", True)(lambda: np.zeros(SHAPE, np.uint8))
_case("26 labels of one voxel", True)(lambda: _spheres(26, 0.5))
_case("200 electrodes of one voxel", True)(lambda: _spheres(200, 0.5, 3))
_case("64 electrodes of 3 mm", True)(lambda: _spheres(64, 1.5, 4))
_case("one voxel alone", True)(lambda: np.eye(1, SHAPE[0] * SHAPE[1] * SHAPE[2], 99999).reshape(SHAPE))
_case("24 vertebrae in a row", True)(lambda: np.where(_head(0.5), np.indices(SHAPE)[1] // 4 + 1, 0))
_case("20 cortical layers", True)(lambda: np.digitize(ndi.distance_transform_edt(_head()), np.linspace(0.5, 12, 20)))
_case("100 pieces along a tract", True)(lambda: np.where(_head(0.6), (np.indices(SHAPE)[1] * 100 // SHAPE[1]) + 1, 0))
_case("labels with air at -1024", True)(lambda: np.where(_regions(60) > 0, _regions(60), -1024))
_case("200 vessels of one to two voxels", True)(lambda: np.where(np.abs(_smooth(2, 9)) < 0.08, _regions(200), 0))
_case("600 supervoxels of a noisy map, opened", True)(lambda: ndi.median_filter(_regions(600, rough=1.0), 3))
_case("a label of its own for every voxel", True)(lambda: np.arange(np.prod(SHAPE)).reshape(SHAPE))

# -- images ----------------------------------------------------------------------------------------------------------


_case("T1, 16 bits", False)(lambda: _scan(0.03).astype(np.int16))
_case("T1, 8 bits", False)(lambda: _scan(0.03, top=230).astype(np.uint8))
_case("T1, 8 bits, denoised", False)(lambda: ndi.median_filter(_scan(0.02, top=230).astype(np.uint8), 3))
_case("T1, 8 bits, smoothed with 3 voxels", False)(
    lambda: ndi.gaussian_filter(_scan(0.02, top=230), 3).astype(np.uint8)
)
_case("T1, 8 bits, hardly any noise", False)(lambda: _scan(0.002, top=230).astype(np.uint8))
_case("T1, whole numbers as floats", False)(lambda: np.rint(_scan(0.03)).astype(np.float32))
_case("T1, 12 bits, low contrast", False)(lambda: _scan(0.03, top=60).astype(np.int16))
_case("T1 with 100 grey values", False)(lambda: _scan(0.05, top=80).astype(np.int16))
_case("T1, doubled by nearest neighbour", False)(lambda: _upsampled(_scan(0.03).astype(np.int16), 2))
_case("T1, tripled by nearest neighbour", False)(lambda: _upsampled(_scan(0.03, top=230).astype(np.uint8), 3))
_case("T1, thick slices repeated", False)(lambda: _scan(0.03).astype(np.int16)[:, :, ::4].repeat(4, 2))
_case("T1, fractions", False)(lambda: _scan(0.03) / 997)
_case("CT with air at -1024", False)(lambda: np.where(_head(), np.rint(_scan(0.05, top=80)), -1024).astype(np.int16))
_case("CT with rim at -3024", False)(
    lambda: np.where(_head(0.95), np.where(_head(), _scan(0.02, top=100), -1000 + 10 * _smooth(0.5, 2)), -3024).astype(
        np.int16
    )
)
_case("CT, bone window", False)(lambda: np.clip(_scan(0.05, top=1500) - 300, 0, 1000).astype(np.int16))
_case("probability in percent", False)(lambda: np.rint(100 / (1 + np.exp(-4 * _smooth(3, 5)))).astype(np.uint8))
_case("probability of 0 to 255", False)(lambda: np.rint(255 / (1 + np.exp(-4 * _smooth(2, 5)))).astype(np.uint8))
_case("blurred mask of 0 to 255", False)(
    lambda: np.rint(255 * ndi.gaussian_filter(_head().astype(float), 3)).astype(np.uint8)
)
_case("distance map, rounded", False)(lambda: np.rint(4 * ndi.distance_transform_edt(_head())).astype(np.int16))
_case("counts of lesions of 60 patients", False)(
    lambda: sum((_smooth(4, 100 + n) > 1.2).astype(np.int16) for n in range(60))
)
_case("tract density, whole numbers", False)(lambda: np.where(_smooth(2, 3) > 0.5, _rng(1).poisson(40, SHAPE), 0))
_case("PET counts", False)(lambda: _rng(2).poisson(ndi.gaussian_filter(_scan(0, top=12), 1.5)).astype(np.int16))
_case("noise alone, 8 bits", False)(lambda: _rng(3).integers(0, 256, SHAPE).astype(np.uint8))
_case("noise of 60 values", False)(lambda: _rng(4).integers(0, 60, SHAPE).astype(np.uint8))
_case("ramp of whole numbers", False)(lambda: np.indices(SHAPE).sum(0).astype(np.int16))
_case("angiography: dark, with bright vessels", False)(
    lambda: np.where(np.abs(_smooth(2, 9)) < 0.05, 800, 100 * _head() + 15 * _rng(5).standard_normal(SHAPE)).astype(
        np.int16
    )
)
_case("phase, -4096 to 4095", False)(lambda: np.rint(4095 * np.sin(_smooth(8, 6) * 3)).astype(np.int16))
_case("smooth phase, 8 bits", False)(lambda: np.rint(127 * np.sin(_smooth(12, 6))).astype(np.int8))
_case("image of 16 grey values", False)(lambda: (_scan(0.02, top=15)).astype(np.uint8))


def table(mistaken: set[str]) -> str:
    """The page's table and its counts, in Markdown."""
    titles = ["made", "is", "is taken for", "values", "alike", "regions a value", "steps", "jump"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in CASES:
        labels, found = evidence_of(name)
        said = found is not None and found.labels
        words = [name, "labels" if labels else "image", "labels" if said else "image"]
        if said != labels:
            words[2] = f"**{words[2]}**"
        if found is not None:
            shown = (found.alike, found.regions, found.steps, found.jump)
            words += [str(found.values), *(f"{value:.2f}" for value in shown)]
        else:
            words += ["fractions", "", "", "", ""]
        lines.append(f"| {' | '.join(words)} |")
    counts = [sum(labels == truth for labels, _ in CASES.values()) for truth in (True, False)]
    wrong = [sum(CASES[name][0] == truth for name in mistaken) for truth in (True, False)]
    said = f"Label maps taken for images: {wrong[0]} of {counts[0]}. "
    said += f"Images taken for label maps: {wrong[1]} of {counts[1]}."
    return "\n".join([*lines, "", said]) + "\n"
