"""The linear map that brings two images together, from anywhere: wrong orientations, large rotations, far headers.

The headers' place and the centres' are improved first: a result that clearly beats every other orientation is it.
Else rotations all over SO(3) are scored at low resolution, the best are improved, fewer and fewer (successive halving)
while resolution and degrees of freedom rise, and the last few are compared where left and right, front and back differ.
Where one image shows much less of the brain than the other, a part of it fits many places: then everything is searched,
the headers' and the centres' places are improved at fine resolution too, the best of all is slid along the smaller
image's axes and improved again, and maps that distort or leave the headers' orientation must fit better. The same where
one is a region cut out on most sides, which tells no size: no other scales are tried, and maps far from the headers'
place must fit better too.
The map never mirrors: a header that does shows one hemisphere as the other, and nothing in a single brain tells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deformgan.align.ascent import CHUNK, Round, centred, improved, improved_map, world
from deformgan.align.parameters import AFFINE, RADIUS_MM, RIGID, SIMILARITY, Maps
from deformgan.align.parts import Region, compares_parts, has_region, is_partial, rated, volume_ratio
from deformgan.align.placement import Subsampled
from deformgan.align.similarity import Level, make_level, nmi_score
from deformgan.spatial.native.threads import most_threads, one_thread

_ROTATIONS = 400  # about 25° apart
_SCALES = (0.82, 1.0, 1.22)  # tried beside the one that the foregrounds' volumes give
_NEW = 0.05  # difference from them that makes it worth a trial
_OFFSETS_MM = (-40.0, -20.0, 20.0, 40.0)  # from the centres, along each axis, where one image shows less of the brain
_SCREEN = (8.0, 400)  # mm apart and points, when all starts are scored
_SLIDES_MM = (-30.0, -20.0, -10.0, 10.0, 20.0, 30.0)  # then, from what was found, along each axis
_HEADERS = 1.05  # times as good is, in the end, what keeps the headers' orientation
_ELSEWHERE = 40.0  # degrees from the headers' orientation, from which on a rotation is another one
_CLEARLY = 1.15  # times the best score of those that the improved headers' or centres' place needs to be believed
_SAME_MM = 4.0  # between candidates that are one


_Place = tuple[Tensor, Tensor, float]  # rotation (1, 3, 3), parameters (1, 13), and their `nmi_score`


ROUNDS = (
    Round(8.0, 1000, 200, SIMILARITY, 5, 8.0),
    Round(8.0, 1000, 50, SIMILARITY, 14, 6.0),
    Round(6.0, 1600, 16, SIMILARITY, 24, 4.0),
    Round(4.0, 3500, 4, AFFINE, 24, 2.0),
    Round(3.0, 9000, 2, AFFINE, 20, 1.0),
)


def search(
    fixed: Subsampled,
    moving: Subsampled,
    centres_mm: tuple[np.ndarray, np.ndarray],
    *,
    rigid: bool = False,
    near: bool = False,
    rounds: tuple[Round, ...] = ROUNDS,
) -> tuple[np.ndarray, float]:
    """Find the map.

    Args:
        fixed, moving: From `deformgan.align.placement.subsample`.
        centres_mm: Where the contents of the two have their centres, (3,) world mm (RAS+) each.
        rigid: Without scales and shears.
        near: From the headers' place alone, not from everywhere.
        rounds: Of the halving, coarse to fine.

    Returns:
        4×4 ``fixed_to_moving``, world mm (RAS+), of positive determinant; its `nmi_score` in the last round, in [0, 1].
    """
    threads = most_threads()  # for what is large
    given = (fixed, moving, centres_mm, rigid)
    with one_thread():
        rotations, theta = _starts(*given)
        if near:
            return _found(_pursued(*given, rotations[:1], theta[:1], rounds), centres_mm)
        screen = make_level(fixed, moving, *_SCREEN, centres_mm)
        scores = _scored(screen, rotations, theta, threads)
        tried = [_pursued(*given, rotations[:2], theta[:2], rounds)]
        partial = compares_parts(fixed, moving)
        elsewhere = scores[_angles(rotations) > _ELSEWHERE]
        beats = float(nmi_score(screen, Maps(*tried[0][:2]).matrices)[0]) >= _CLEARLY * float(elsewhere.amax())
        if beats and not partial:
            return _found(tried[0], centres_mm)
        # the headers and the centres come first, and always go on
        scores[:2] += 1
        tried.append(_pursued(*given, rotations, theta, rounds, scores))
        if not partial:
            return _found(max(tried, key=lambda one: one[2]), centres_mm)
        tried.append(_pursued(*given, rotations[:2], theta[:2], rounds[-3:]))
        region = Region.of(*given[:3])
        tried.append(_pursued(*given, *_slid(fixed, moving, *_best(tried, region)[:2]), rounds[-4:]))
        return _found(_best(tried, region), centres_mm)


def _found(place: _Place, centres_mm: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """What `search` returns."""
    return world(*place[:2], centres_mm), place[2]


def _best(tried: list[_Place], region: Region | None) -> _Place:
    """By score less distortion; headers are right more often than not."""

    def worth(one: _Place) -> float:
        matrices = Maps(*one[:2]).matrices
        as_headers = float(_turned(matrices)[0]) <= _ELSEWHERE
        return float(rated(one[2], matrices, region)) * (_HEADERS if as_headers else 1.0)

    return max(tried, key=worth)


def _pursued(
    fixed: Subsampled,
    moving: Subsampled,
    centres_mm: tuple[np.ndarray, np.ndarray],
    rigid: bool,
    rotations: Tensor,
    theta: Tensor,
    rounds: tuple[Round, ...],
    score: Tensor | None = None,
) -> _Place:
    """The best of some starts after all rounds; all go on where there are no scores."""
    score = torch.zeros(len(rotations)) if score is None else score
    partial, region, plain = compares_parts(fixed, moving), Region.of(fixed, moving, centres_mm), score
    for one in rounds:
        best = _distinct(Maps(rotations, theta).matrices, score, one.keep)
        rotations, theta = rotations[best], theta[best]
        level = make_level(fixed, moving, one.spacing_mm, one.points, centres_mm)
        stiff = rigid or (region is not None and one.dof == SIMILARITY)
        theta, plain = improved(level, rotations, theta, one, min(one.dof, RIGID if stiff else AFFINE))
        score = rated(plain, Maps(rotations, theta).matrices, region) if partial else plain
    best = int(score.argmax())
    return rotations[best : best + 1], theta[best : best + 1], float(plain[best])


def _slid(fixed: Subsampled, moving: Subsampled, rotation: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """A place (1, 3, 3) and (1, 13), and those beside it along the axes of the image that shows less."""
    axes = _axes(moving)
    if volume_ratio(fixed, moving) > 1:
        axes = _axes(fixed) @ Maps(rotation, theta).matrices[0, :, :3].T
    offsets = torch.cat([torch.zeros(1, 3), *(mm * axes for mm in _SLIDES_MM)])
    beside = theta.repeat(len(offsets), 1)
    beside[:, :3] += offsets
    return rotation.repeat(len(offsets), 1, 1), beside


@one_thread()
def score_of(
    matrix: np.ndarray, fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray]
) -> float:
    """The `nmi_score` of a 4×4 ``fixed_to_moving`` (world mm, RAS+) as `search` takes it."""
    last = ROUNDS[-1]
    level = make_level(fixed, moving, last.spacing_mm, last.points, centres_mm)
    return float(nmi_score(level, centred(matrix, centres_mm))[0])


def as_rigid(
    matrix: np.ndarray, fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """The rigid map near a 4×4 ``fixed_to_moving`` (world mm, RAS+), improved in the last round, and its score."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    stiff = np.eye(4)
    stiff[:3, :3] = left @ right
    stiff[:3, 3] = matrix[:3, :3] @ centres_mm[0] + matrix[:3, 3] - stiff[:3, :3] @ centres_mm[0]
    last = ROUNDS[-1]
    with one_thread():
        level = make_level(fixed, moving, last.spacing_mm, last.points, centres_mm)
        stiff = improved_map(level, stiff, centres_mm, last, RIGID)
        return stiff, float(nmi_score(level, centred(stiff, centres_mm))[0])


def _starts(
    fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray], rigid: bool
) -> tuple[Tensor, Tensor]:
    """Rotations (B, 3, 3) and parameters (B, 13): the headers' place, the centres', then every rotation.

    The ratio of the foregrounds' volumes says that the scale differs, or that one image shows less, or both: each scale
    is tried with the coverage that remains.
    """
    ratio = volume_ratio(fixed, moving)
    whole = float(np.clip(ratio ** (1 / 3), _SCALES[0], _SCALES[-1]))
    headers = torch.zeros(2, AFFINE)
    headers[0, :3] = torch.from_numpy(centres_mm[0] - centres_mm[1]).float()
    every = _rotations(_ROTATIONS)
    all_rotations, theta = [torch.eye(3).repeat(2, 1, 1)], [headers]
    scales = [*_SCALES, *([whole] if min(abs(whole - s) for s in _SCALES) > _NEW else [])]
    if rigid or has_region(fixed, moving):
        scales = [1.0]
    for scale in scales:
        shares = ratio / scale**3
        offsets = torch.zeros(1, 3)
        if is_partial(shares):
            offsets = torch.cat([offsets, *(mm * _axes(fixed if shares > 1 else moving) for mm in _OFFSETS_MM)])
        rotations = every.repeat(len(offsets), 1, 1)
        some = torch.zeros(len(rotations), AFFINE)
        some[:, :3] = offsets.repeat_interleave(len(every), 0)
        if shares > 1:  # along the fixed image's axes, as the rotation has them
            some[:, :3] = scale * (rotations @ some[:, :3, None])[:, :, 0]
        some[:, SIMILARITY - 1] = RADIUS_MM * float(np.log(scale))
        all_rotations.append(rotations)
        theta.append(some)
    return torch.cat(all_rotations), torch.cat(theta)


def _axes(subsampled: Subsampled) -> Tensor:
    """Directions of the voxel axes, (3, 3): a row each."""
    return torch.from_numpy((subsampled.grid.affine[:3, :3] / subsampled.grid.spacing).T.copy()).float()


def _rotations(count: int) -> Tensor:
    """Rotations evenly over SO(3): super-Fibonacci spirals (Alexa, CVPR 2022), (count, 3, 3)."""
    s = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (s / count).sqrt(), (1 - s / count).sqrt()
    alpha, beta = 2 * torch.pi * s / 2**0.5, 2 * torch.pi * s / 1.533751168755204288118041
    x, y, z, w = inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2).float()


def _angles(rotations: Tensor) -> Tensor:
    """Of rotations (B, 3, 3), degrees."""
    return torch.rad2deg(torch.arccos(((rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))


def _turned(matrices: Tensor) -> Tensor:
    """By how many degrees linear maps (B, 3, 4) turn, scales and shears apart."""
    left, _, right = torch.linalg.svd(matrices[:, :, :3])
    return _angles(left @ right)


def _distinct(matrices: Tensor, score: Tensor, most: int) -> Tensor:
    """Indices of the best candidates, best first, none within `_SAME_MM` of a better one (over a brain's surface)."""
    flat = torch.cat([matrices[:, :, :3].flatten(1) * RADIUS_MM / 3**0.5, matrices[:, :, 3]], 1)
    left = score.argsort(descending=True, stable=True)[: 10 * most]
    kept = []
    while len(left) and len(kept) < most:
        kept.append(left[0])
        left = left[(flat[left] - flat[left[0]]).norm(dim=1) > _SAME_MM]
    return torch.stack(kept)


def _scored(level: Level, all_rotations: Tensor, theta: Tensor, threads: int) -> Tensor:
    size = max(1, CHUNK // len(level.points))
    matrices = Maps(all_rotations, theta).matrices
    return torch.cat([nmi_score(level, part, threads) for part in matrices.split(size)])
