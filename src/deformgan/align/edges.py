"""The linear map by edges deep in both images, where one mask cut them and its border must not count.

Mutual information of so near a pair follows the bias fields and what interpolation smooths: among patients' T1 and T2
it moved brains by up to 1.8 mm to where their edges match less. Edges in the interior agree with it where a patient
moved between the scans, and stay where none did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.ascent import Round, centred, improved_map, mean_shift_mm
from deformgan.align.parameters import AFFINE, RIGID
from deformgan.align.placement import excluded_of
from deformgan.align.similarity import sampling_positions, volume_coordinates
from deformgan.losses.gradient import image_gradient
from deformgan.preprocess.conform import on_grid
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.spatial.native.threads import one_thread
from deformgan.spatial.warp import box_maximum

_SPACING_MM = 1.5  # of an adult's brain
_NOISE = 0.3  # of the median length of a gradient, that counts half
_DEEP = 3  # voxels from the mask's border: what few millimetres bring into it must not count
_POINTS = 30_000
_ROUND = Round(_SPACING_MM, _POINTS, 1, AFFINE, 24, 0.5)


@dataclass(frozen=True, eq=False)
class Edges:
    """A pair's edges in the interior, for maps that are nearly right; it has what `deformgan.align.finest.Finest` has.

    Args:
        points: (N, 3) float32, fixed world positions minus the fixed centre, mm.
        edges: (N, 3) float32, the fixed gradient there over its length, which noise adds to.
        volume: (1, 3, D, H, W) float32, the moving image's gradient along the world axes.
        to_volume: (3, 4) float32 from moving world mm minus the moving centre to `grid_sample`'s coordinates.
        noise: Length of a moving gradient that counts half.
        centres_mm: Where the contents of the two have their centres, (3,) world mm (RAS+) each.
        voxel_mm: Of the fixed image, the mean of its three sides.

    Attributes:
        trust: Share of the best map's score from which on images stay where they are: training pairs that were moved by
            1.4 mm and more keep 0.87 at most, patients with nothing to be seen 0.985 and more.
    """

    trust: ClassVar[float] = 0.97

    points: Tensor
    edges: Tensor
    volume: Tensor
    to_volume: Tensor
    noise: float
    centres_mm: tuple[np.ndarray, np.ndarray]
    voxel_mm: float

    @classmethod
    @one_thread()
    def of(cls, fixed: Scan, moving: Scan, size: float = 1.0) -> Edges:
        """Of two scans that one mask cut (`Scan.within`).

        Args:
            size: As `deformgan.align.finest.Finest.of` takes it.
        """
        (here, grid, valid), (there, moving_grid, _) = (_gradient(scan, size) for scan in (fixed, moving))
        centres = fixed.content.centre_mm(fixed.image.grid) / size, moving.content.centre_mm(moving.image.grid) / size
        deep = torch.nonzero(1 - box_maximum(1 - valid, _DEEP)[0, 0])
        index = deep[torch.randperm(len(deep), generator=torch.Generator().manual_seed(0))[:_POINTS]]
        points = torch.from_numpy(grid.to_world(index.numpy()) - centres[0]).float()
        found = here[0][:, *index.T].T
        noise = _noise_of(there[0].flatten(1).T)
        edges = found / (found.square().sum(1, keepdim=True) + _noise_of(found) ** 2).sqrt().clamp_min(1e-9)
        voxel_mm = float(fixed.image.grid.spacing.mean()) / size
        return cls(points, edges, there, volume_coordinates(moving_grid, centres[1]), noise, centres, voxel_mm)

    def slope(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """The match of edges (B,) in [0, 1], and its derivative with respect to each map (B, 3, 4)."""
        with torch.enable_grad():
            leaf = matrices.detach().requires_grad_()
            score = self._match(leaf)
            return score.detach(), torch.autograd.grad(score.sum(), leaf)[0]

    def _match(self, matrices: Tensor) -> Tensor:
        at = sampling_positions(self.points, self.to_volume, matrices)
        volume = self.volume.expand(len(matrices), -1, -1, -1, -1)
        there = F.grid_sample(volume, at[:, None, None], padding_mode="border", align_corners=False)[:, :, 0, 0]
        there = (matrices[:, :, :3].transpose(1, 2) @ there).transpose(1, 2)  # as the fixed image sees it
        product = (self.edges * there).sum(2).square()
        return (product / (there.square().sum(2) + self.noise**2).clamp_min(1e-12)).mean(1)

    def moves(self, matrix: np.ndarray) -> float:
        """How far a 4×4 takes the points from where they are, on average, in voxels of the fixed image."""
        return mean_shift_mm(self.points, self.centres_mm[0], matrix) / self.voxel_mm

    @one_thread()
    def score(self, matrix: np.ndarray) -> float:
        """The match of edges under a 4×4 ``fixed_to_moving``, in [0, 1]."""
        with torch.no_grad():
            return float(self._match(centred(matrix, self.centres_mm))[0])

    @one_thread()
    def improved(self, matrix: np.ndarray, *, rigid: bool) -> np.ndarray:
        """The map after an ascent; a rigid one leaves the scales and shears as they are."""
        return improved_map(self, matrix, self.centres_mm, _ROUND, RIGID if rigid else AFFINE)


def _gradient(scan: Scan, size: float) -> tuple[Tensor, Grid, Tensor]:
    """Gradient (1, 3, D, H, W) along the world axes, its grid, and where all of it is known (1, 1, D, H, W)."""
    own = scan.image.grid
    corners = scan.content.corners_mm(own)
    spacing = _SPACING_MM * size
    shape = tuple(int(n) for n in np.ceil((corners.max(0) - corners.min(0)) / spacing) + 4)
    grid = Grid.centred(shape, spacing, (corners.min(0) + corners.max(0)) / 2)  # type: ignore[arg-type]
    known, excluded = scan.content.mask if scan.within is None else scan.within, excluded_of(scan)
    shown = on_grid(scan.image, scan.content, grid, known if excluded is None else known & ~excluded)
    assert shown.within is not None
    valid = 1 - box_maximum(1 - shown.within, 1)
    return image_gradient(shown.tensor) * valid, grid.moved_by(np.diag([1 / size] * 3 + [1.0])), valid


def _noise_of(gradients: Tensor) -> float:
    """The length that counts half, of gradients (N, 3) of which those count that are any."""
    lengths = gradients.norm(dim=1)
    lengths = lengths[lengths > 0]
    return _NOISE * float(lengths.median()) if len(lengths) else 1.0
