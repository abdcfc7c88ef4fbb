"""Where a registration starts, decided here and nowhere else: headers, contents' centres, a search, or a given map."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from deformgan.align.edges import Edges
from deformgan.align.finest import Finest
from deformgan.align.options import TransformKind
from deformgan.align.placement import adult_sized, headers_win, subsampled_pair
from deformgan.align.search import as_rigid, score_of, search
from deformgan.align.stripping import without_borders
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.preprocess.foreground import find_content
from deformgan.preprocess.rims import without_rims
from deformgan.preprocess.scan import Scan, require_overlap
from deformgan.spatial.grid import Grid
from deformgan.transforms.chain import Chain, single
from deformgan.transforms.transform import Transform, load_transform

_TRUST = 0.98  # share of the found map's score that suffices for the start: joint leaves its voxels as they are
_ENOUGH_EDGES = 2000  # points: an adult's brain has 300 000
_NOTHING = 0.1  # voxels: no reason to sample the image anew
# shares of the found map's score that a rigid one must keep, at the search's resolution and on the images' own voxels,
# to be believed: rigid motion of one person keeps 0.98 and more, another person's brain 0.956 at most
_RIGID, _RIGID_FINEST = 0.97, 0.95
_PART = 0.9  # of what the other image shows, below which an image that is cut off counts as a part of it
_DRAWN = 2.0  # share of their agreement that two parts' map loses for the sum of squares of its log stretches
_RIGID_ALONE = 0.98  # share of a fitted affine map's score that a rigid one must keep to be taken for it

_Measured = Finest | Edges
Init = str | os.PathLike[str] | Transform | Chain | None


@dataclass(frozen=True, eq=False)
class Start:
    """Where fixed positions come from before anything is deformed.

    Args:
        fixed_to_moving: 4×4, from fixed to ``moving``'s world, mm (RAS+).
        moving: The moving image, pulled through ``outer`` if there is one.
        outer: A given map with a field, applied after all else; or None.
    """

    fixed_to_moving: np.ndarray
    moving: Scan
    outer: Transform | None = None

    def completed(self, transform: Transform) -> Transform:
        """The map to the moving image as it was given, of one to ``moving``."""
        return transform if self.outer is None else self.outer @ transform


def find_start(fixed: Scan, moving: Scan, transform: TransformKind = "joint", init: Init = None) -> Start:
    """Take up the given map, and run the affine stage where ``transform`` has one.

    Args:
        transform: ``deform`` starts from the given map, else where headers or else contents' centres place the images;
            the others search, from everywhere or, with a given map, near it.
        init: From fixed to moving; a file as `load_transform` takes it.

    Raises:
        UsageError: A map with a field cannot begin a linear one.
        InputError: The file cannot be used, its map leads past the moving image, or without one the two images share no
            part of world space.
    """
    given, outer = np.eye(4), None
    if init is not None:
        init = _loaded(init, fixed.image.grid, moving.image, transform)
        if init.disp_mm is None:
            given = init.affine
        else:
            outer, moving = init, _pulled(moving, init, fixed.image.grid)
    if transform == "deform":
        return Start(given if init is not None else _headers_or_centres(fixed, moving), moving, outer)
    found = _found(fixed, moving.moved_by(np.linalg.inv(given)), transform, near=init is not None)
    return Start(given @ found, moving, outer)


def _found(fixed: Scan, moving: Scan, transform: TransformKind, *, near: bool) -> np.ndarray:
    """The 4×4 that the affine stage ends with, fixed to moving."""
    if fixed.content.field_of_view.is_limited and moving.content.field_of_view.is_limited:
        return _mutual(fixed, moving, transform, near=near)
    if _shows_part(moving, fixed):
        # where the part is the fixed image, nearly all that is compared lies in what both show
        return np.linalg.inv(_found_from(moving, fixed, transform, near=near))
    return _found_from(fixed, moving, transform, near=near)


def _mutual(fixed: Scan, moving: Scan, transform: TransformKind, *, near: bool) -> np.ndarray:
    """Of two parts the map, found from one or from the other, by which each agrees better with the other.

    Parts that are drawn out or made smaller find others to agree with.
    """
    ways = [
        _found_from(fixed, moving, transform, near=near),
        np.linalg.inv(_found_from(moving, fixed, transform, near=near)),
    ]
    _, size = adult_sized(*subsampled_pair(fixed, moving))
    there, back = _measured(fixed, moving, size), _measured(moving, fixed, size)

    def agreement(way: np.ndarray) -> float:
        sized = way.copy()
        sized[:3, 3] /= size
        stretches = np.log(np.linalg.svd(way[:3, :3])[1])
        straight = max(0.0, 1 - _DRAWN * float(np.square(stretches).sum()))
        return there.score(sized) * back.score(np.linalg.inv(sized)) * straight

    return max(ways, key=agreement)


def _found_from(fixed: Scan, moving: Scan, transform: TransformKind, *, near: bool) -> np.ndarray:
    """The same, compared where the fixed image shows something."""
    rigid = transform == "rigid"
    pair, size = adult_sized(*subsampled_pair(fixed, moving))
    found, score = search(*pair, rigid=rigid, near=near)
    parts = any(scan.content.field_of_view.is_limited for scan in (fixed, moving))
    if rigid and parts:
        # parts of which one shows a little more meet only where they may stretch
        found, score = max((found, score), as_rigid(search(*pair, near=near)[0], *pair), key=lambda one: one[1])
    if corrected := (without := without_borders(found, *pair, rigid=rigid)) is not found:
        found, score = without, score_of(without, *pair)
    stiff, alike = (found, score) if rigid else as_rigid(found, *pair)
    if transform != "joint":
        found = _linear(found, stiff, _measured(fixed, moving, size), rigid=rigid, corrected=corrected)
    elif alike >= _RIGID * score:
        found = _joint(found, stiff, _measured(fixed, moving, size))
    elif score_of(np.eye(4), *pair) >= _TRUST * score:
        found = np.eye(4)
    elif parts:  # a thin one may be drawn out, which the images' own voxels tell
        found = max((found, stiff, np.eye(4)), key=_measured(fixed, moving, size).score)
    found[:3, 3] *= size
    return found


def _shows_part(scan: Scan, other: Scan) -> bool:
    """Whether a scan is cut off and shows much less than the other."""
    shown, whole = (s.content.volume_mm3(s.image.grid) for s in (scan, other))
    return scan.content.field_of_view.is_limited and shown < _PART * whole


def _measured(fixed: Scan, moving: Scan, size: float) -> _Measured:
    """What the map is judged by on the images' own voxels: where one mask cut both, by edges far enough from it."""
    if fixed.within is not None and len((edges := Edges.of(fixed, moving, size)).points) >= _ENOUGH_EDGES:
        return edges
    return Finest.of(fixed, moving, size)


def _linear(found: np.ndarray, stiff: np.ndarray, finest: _Measured, *, rigid: bool, corrected: bool) -> np.ndarray:
    """The rigid or affine map as far as the images show it; of the affine one no scales and shears that gain little.

    Args:
        corrected: Whether borders drew the map that the search found: they would draw it again.
    """
    stiff = finest.improved(stiff, rigid=True)
    if rigid:
        return stiff
    wide = found if corrected else finest.improved(found, rigid=False)
    share = _RIGID_FINEST if corrected else _RIGID_ALONE
    return stiff if finest.score(stiff) >= share * finest.score(wide) else wide


def _joint(found: np.ndarray, stiff: np.ndarray, finest: _Measured) -> np.ndarray:
    """The rigid map as far as the images show it, or the one that was found; none where that is as good."""
    best = finest.improved(stiff, rigid=True)
    score, other = finest.score(best), finest.score(found)
    if score < _RIGID_FINEST * other:
        best, score = found, other
    as_good = finest.score(np.eye(4)) >= finest.trust * score
    return np.eye(4) if as_good or finest.moves(best) < _NOTHING else best


def agreement_elsewhere(fixed: Scan, moving: Scan, fixed_to_moving: np.ndarray) -> tuple[float, float]:
    """Agreement of the pair in a place that was not searched for, and the best from everywhere; in [0, 1].

    Args:
        fixed_to_moving: 4×4, world mm (RAS+), the linear part of the result. A search near the start would not do: it
            may find what the registration did not.
    """
    pair, _ = adult_sized(*subsampled_pair(fixed, moving.moved_by(np.linalg.inv(fixed_to_moving))))
    return score_of(np.eye(4), *pair), search(*pair)[1]


def _headers_or_centres(fixed: Scan, moving: Scan) -> np.ndarray:
    """No map where the images agree as their headers place them, else the shift from centre to centre."""
    require_overlap(fixed.image, moving.image)
    one, other, (centre_f, centre_m) = subsampled_pair(fixed, moving)
    shift = np.eye(4)
    if not headers_win(one, other, centre_m - centre_f):
        shift[:3, 3] = centre_m - centre_f
    return shift


def _loaded(init: str | os.PathLike[str] | Transform | Chain, fixed: Grid, moving: Image, transform: str) -> Transform:
    if isinstance(init, str | os.PathLike):
        init = load_transform(init, fixed=fixed, moving=moving.grid)
    init = single(init)
    if not init.meets(moving.grid, fixed):
        raise InputError(f"`init` leads nowhere into {moving.name}", "give the map from fixed to moving")
    if init.disp_mm is not None and transform in ("rigid", "affine"):
        raise UsageError(
            f"`init` holds a field, and a {transform} map has none", 'use `transform="joint"` or `transform="deform"`'
        )
    return init


def _pulled(moving: Scan, init: Transform, onto: Grid) -> Scan:
    """The moving image and its lesion through a map with a field."""
    image = without_rims(init.apply(moving.image, onto))
    if not image.data.any():
        raise InputError("`init` leaves nothing of the moving image", "give the map from fixed to moving")
    lesion = None if moving.lesion is None else init.apply_labels(moving.lesion, onto)
    return Scan(moving.original, image, find_content(image), lesion)
