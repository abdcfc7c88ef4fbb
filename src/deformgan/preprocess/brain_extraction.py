"""Where the brain is in a head: S looks at the image, and what it takes for brain goes onto the image's voxels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from deformgan.io.image import Image
from deformgan.preprocess.conform import Conformed, on_grid
from deformgan.preprocess.foreground import Content, find_content
from deformgan.preprocess.windows import window_of
from deformgan.spatial.blockwise import resampled
from deformgan.spatial.grid import Grid, Shape

_STEP = 16  # sizes S is given are multiples of it
_MOST = 160  # voxels along an axis that are looked at
_BEYOND = 8  # voxels by which a head may exceed the scans S was taught with before it is looked at twice
_COARSER = 1.25  # the voxels of the first look, a size of brain that S was taught with, at half the cost
_FIRST_STRUCTURE = 2  # after the background and what is outside the brain
_LEAST_BLOCKS = 8.0  # of a structure, below which its centre says little
_OTHERS = ((1, 2), (0, 2), (0, 1))  # for each axis
_LIMIT = 0.5  # of the probability
# certainties of heads made from maps that teach are 0.625 to 0.684, of turned ones 0.53 to 0.619
_CERTAIN, _KNOWN = 0.635, 0.57
_CLEARLY = 0.045  # surer than of the next half-turn S is of a head, 0.05 and more, but 0.041 at most of one on its side
_COARSEST = 1.5  # the voxels at which every orientation is looked at
_HALF_TURNS = tuple(np.diag(signs) for signs in ((-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, -1.0, -1.0)))
# of the brain's volume, that a head shows outside it: stripped brains 0.05 to 0.17, stripped 8 mm too widely 0.27
_HEAD_SHARE = 0.2
_BRAIN_LITRES = (0.35, 2.5)  # what a human brain measures, children's included


class SeesAnatomy(Protocol):
    """What is needed of S; `deformgan.models.anatomy.AnatomyModel` has it."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the channels of what `predict` returns first."""
        ...

    @property
    def shape(self) -> Shape:
        """Voxels of the scans it was taught with."""
        ...

    @property
    def spacing(self) -> float:
        """Their size in millimetres."""
        ...

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of structures in blocks of 2×2×2 voxels, and the probability of brain."""
        ...


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What S sees in an image.

    Args:
        grid: Where it looked, along the world axes (RAS+).
        structures: (1, S, D/2, H/2, W/2) share of each structure in a block of 2×2×2 voxels.
        probability: (D, H, W) float32, that a voxel is brain; 0 away from the largest piece, 1 in its holes.
        foreground: (D, H, W) bool, what the image shows.
    """

    grid: Grid
    structures: Tensor
    probability: np.ndarray
    foreground: np.ndarray

    @property
    def brain(self) -> np.ndarray:
        """(D, H, W) bool, the brain in one piece."""
        return self.probability >= _LIMIT

    @property
    def brain_litres(self) -> float:
        """Volume of the brain."""
        return float(self.brain.sum() * self.grid.spacing.prod() / 1e6)

    @property
    def is_human_sized(self) -> bool:
        """Whether the brain measures what a human one may."""
        return _BRAIN_LITRES[0] <= self.brain_litres <= _BRAIN_LITRES[1]

    @property
    def outside_share(self) -> float:
        """What the image shows outside the brain, as a share of the brain's volume."""
        if not self.brain.any():
            return float("inf")
        return float(np.count_nonzero(self.foreground & ~self.brain) / np.count_nonzero(self.brain))

    @property
    def certainty(self) -> float:
        """Share of the likeliest structure, on average over the brain: what is upside down or no head has a low one."""
        blocks = F.avg_pool3d(torch.from_numpy(self.brain).float()[None, None], 2)[0, 0] > 0.5
        return float(self.structures[0].amax(0)[blocks].mean()) if blocks.any() else 0.0

    @property
    def centres_mm(self) -> np.ndarray:
        """Centres of the brain's structures, (S - 2, 3) world mm (RAS+); NaN of those that fill fewer than 8 blocks."""
        shares = self.structures[0, _FIRST_STRUCTURE:].double().numpy()
        centres = np.full((len(shares), 3), np.nan)
        for number in np.flatnonzero(shares.sum((1, 2, 3)) >= _LEAST_BLOCKS):
            centres[number] = _centre_of(shares[number])
        return self.grid.resized(shares.shape[1:]).to_world(centres)

    @property
    def is_known(self) -> bool:
        """Whether the image shows a human brain, beyond doubt."""
        return self.is_human_sized and self.certainty >= _KNOWN

    @property
    def is_head(self) -> bool:
        """Whether it shows much more than that: a head, or a brain that was stripped widely."""
        return self.is_known and self.outside_share > _HEAD_SHARE


def find_anatomy(image: Image, model: SeesAnatomy, content: Content | None = None) -> Anatomy:
    """Look at an image of any contrast, orientation and spacing.

    Headers that have a head upside down or back to front are common; S knows heads as they should be. Where it is
    uncertain of what it sees, it looks again after each half-turn, and what it is most certain of counts. Where that
    is no clear choice, the head may lie on its side, as without a header: every orientation is looked at coarsely.

    In CT a brain is one grey between bone and air: S is shown it in a window, then.

    Args:
        content: What the image shows, where that is known.
    """
    content = find_content(image) if content is None else content
    found = _looked_at(image, content, model, np.eye(3))
    if found.brain.any() and (window := window_of(_values_in(found, image), content.background_value)):
        image = Image(np.clip(image.data, *window), image.grid, image.name)
        content = find_content(image)
        found = _looked_at(image, content, model, np.eye(3))
    if found.certainty < _CERTAIN and found.brain.any():
        ways = [found, *(_looked_at(image, content, model, turn) for turn in _HALF_TURNS)]
        found, second = sorted(ways, key=_certainty, reverse=True)[:2]
        if found.certainty - second.certainty < _CLEARLY:
            turns = _likeliest_turns(image, content, model)
            found = max([found, *(_looked_at(image, content, model, turn) for turn in turns)], key=_certainty)
    return found


def brain_mask(anatomy: Anatomy, image: Image) -> Image:
    """The brain on the voxels of the image it was found in, uint8."""
    # where S did not look there is none: sampling would go on with the outermost voxels
    around = anatomy.grid.padded((1, 1, 1))
    brain = resampled(torch.from_numpy(np.pad(anatomy.probability, 1)), around, image.grid) >= _LIMIT
    return Image(brain.astype(np.uint8), image.grid, f"the brain in {image.name}")


def _values_in(anatomy: Anatomy, image: Image) -> np.ndarray:
    """The image's values at voxels of the brain that was found in it."""
    index = np.rint(image.grid.to_index(anatomy.grid.to_world(np.argwhere(anatomy.brain)))).astype(int)
    index = index[((index >= 0) & (index < image.grid.shape)).all(1)]
    return image.data[tuple(index.T)]


def _looked_at(image: Image, content: Content, model: SeesAnatomy, turn: np.ndarray) -> Anatomy:
    """What S sees along turned axes.

    A head that is larger than the scans S was taught with (with a neck, say) is looked at as a whole first, on larger
    voxels, then around the brain that was found; once more, farther around it, where that ends within the brain.
    """
    corners_mm = content.corners_mm(image.grid) @ turn
    low, high, shown = corners_mm.min(0), corners_mm.max(0), (image, content)
    voxels, centre = (high - low) / model.spacing, turn @ (low + high) / 2
    if (voxels <= np.array(model.shape) + _BEYOND).all():
        return _look(*shown, model, model.spacing, voxels, centre, turn)
    whole = _look(*shown, model, _COARSER * model.spacing, voxels / _COARSER, centre, turn)
    # the structures' centre of mass: a border that runs out into the neck would move that of the mask
    mass = whole.structures[0, _FIRST_STRUCTURE:].sum(0).numpy()
    if mass.sum() <= 0:
        return whole
    coarse = whole.grid.resized(tuple(mass.shape))  # type: ignore[arg-type]
    given = coarse.to_world(_centre_of(mass)), turn
    near = _look(*shown, model, model.spacing, np.array(model.shape), *given)
    cut = [bool(np.take(near.brain, (0, -1), axis).any()) for axis in range(3)]
    return (
        _look(*shown, model, model.spacing, np.array(model.shape) + _STEP * np.array(cut), *given) if any(cut) else near
    )


def _look(
    image: Image,
    content: Content,
    model: SeesAnatomy,
    spacing: float,
    voxels: np.ndarray,
    centre_mm: np.ndarray,
    turn: np.ndarray,
) -> Anatomy:
    seen = _on_look_grid(image, content, spacing, voxels, centre_mm, turn)
    return _seen_by(model, seen.tensor, seen)


def _on_look_grid(
    image: Image, content: Content, spacing: float, voxels: np.ndarray, centre_mm: np.ndarray, turn: np.ndarray
) -> Conformed:
    """The image on a grid of a size that S takes."""
    shape = tuple(int(n) for n in np.minimum(_STEP * np.ceil(voxels / _STEP), _MOST))
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = turn, centre_mm
    return on_grid(image, content, Grid.centred(shape, spacing, np.zeros(3)).moved_by(placed))  # type: ignore[arg-type]


def _seen_by(model: SeesAnatomy, tensor: Tensor, seen: Conformed) -> Anatomy:
    """What S makes of voxels, which are those of ``seen`` or the same turned: then their certainty alone counts."""
    structures, brain = model.predict(tensor)
    return Anatomy(seen.grid, structures, _one_piece(brain[0, 0].numpy()), seen.mask[0, 0].numpy() > 0)


def _likeliest_turns(image: Image, content: Content, model: SeesAnatomy) -> list[np.ndarray]:
    """The two of the 24 rotations that map axes onto axes, (3, 3), of which S is most certain on large voxels."""
    corners_mm, spacing = content.corners_mm(image.grid), _COARSEST * model.spacing
    low, high = corners_mm.min(0), corners_mm.max(0)
    seen = _on_look_grid(image, content, spacing, (high - low) / spacing, (low + high) / 2, np.eye(3))
    turns = [
        np.eye(3)[:, axes] * signs
        for axes, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3))
        if np.linalg.det(np.eye(3)[:, axes] * signs) > 0
    ]

    def certainty(turn: np.ndarray) -> float:
        axes = np.abs(turn).argmax(0)
        turned = seen.tensor[0, 0].permute(*axes.tolist()).flip([a for a in range(3) if turn[axes[a], a] < 0])
        return _seen_by(model, turned[None, None].contiguous(), seen).certainty

    return sorted(turns, key=certainty, reverse=True)[:2]


def _centre_of(mass: np.ndarray) -> np.ndarray:
    """Centre of mass in voxels, (3,), of a volume that has some."""
    return (
        np.array([(np.arange(n) * mass.sum(others)).sum() for n, others in zip(mass.shape, _OTHERS, strict=True)])
        / mass.sum()
    )


def _certainty(anatomy: Anatomy) -> float:
    return anatomy.certainty


def _one_piece(probability: np.ndarray) -> np.ndarray:
    """The probability in the largest connected part and around it, where its border lies between voxels; 1 in holes."""
    parts, count = ndimage.label(probability >= _LIMIT)  # type: ignore[misc]
    if not count:
        return np.zeros_like(probability)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    filled = np.asarray(ndimage.binary_fill_holes(largest))
    kept = np.where(ndimage.binary_dilation(filled), probability, 0)
    kept[(parts > 0) & ~largest] = 0
    kept[filled & ~largest] = 1
    return kept.astype(np.float32)
