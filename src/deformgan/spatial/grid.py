"""A voxel grid in world space: the only way from voxel indices to millimetres and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int, int]


def box_corners(ends: Sequence[tuple[float, float]]) -> np.ndarray:
    """The 8 corners of a box, (8, 3), from where it starts and ends along each axis."""
    return np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular 3-D grid.

    Args:
        shape: Voxels along each axis.
        affine: 4×4 matrix from voxel index (voxel centres are integers) to world millimetres (RAS+).
    """

    shape: Shape
    affine: np.ndarray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"a grid's affine is 4×4, this one is {affine.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.shape == other.shape and np.allclose(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash(self.shape)  # equal grids may differ in rounding, and must hash alike

    def __repr__(self) -> str:
        size = "×".join(f"{one:.3g}" for one in self.spacing)
        centre = ", ".join(f"{one:.1f}" for one in self.centre_mm)
        return f"Grid({'×'.join(map(str, self.shape))} voxels of {size} mm about ({centre}))"

    @classmethod
    def centred(cls, shape: Shape, spacing: float | np.ndarray, centre_mm: np.ndarray) -> Grid:
        """A grid along the world axes (RAS+) whose middle lies at ``centre_mm``."""
        affine = np.diag([*np.broadcast_to(np.asarray(spacing, float), 3), 1.0])
        affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return cls(shape, affine)

    @property
    def spacing(self) -> np.ndarray:
        """Millimetres between neighbouring voxels along each axis, shape (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def centre_mm(self) -> np.ndarray:
        """World position of the middle of the grid, shape (3,)."""
        return self.to_world((np.array(self.shape) - 1) / 2)

    @property
    def world_to_index(self) -> np.ndarray:
        """The inverse of ``affine``, 4×4."""
        return np.linalg.inv(self.affine)

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """World millimetres of voxel indices, (…, 3) → (…, 3)."""
        return np.asarray(index) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world_mm: np.ndarray) -> np.ndarray:
        """Voxel indices of world millimetres, (…, 3) → (…, 3)."""
        matrix = self.world_to_index
        return np.asarray(world_mm) @ matrix[:3, :3].T + matrix[:3, 3]

    def index_to(self, other: Grid) -> np.ndarray:
        """4×4 matrix from this grid's voxel indices to those of ``other``, the world position kept."""
        return other.world_to_index @ self.affine

    def corners_mm(self, box: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
        """World positions of the 8 corners (outer voxel faces), (8, 3).

        Args:
            box: Of these voxels alone, ``start ≤ i < stop`` along each axis; default: of the whole grid.
        """
        faces = [(start - 0.5, stop - 0.5) for start, stop in box or [(0, n) for n in self.shape]]
        return self.to_world(box_corners(faces))

    def farthest_mm(self, other: Grid) -> float:
        """The largest distance between the same voxel of two grids of one shape: at a corner, for both are affine."""
        corners = box_corners([(0, n - 1) for n in self.shape])
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def moved_by(self, matrix: np.ndarray) -> Grid:
        """The same grid after a 4×4 world-to-world matrix has been applied to every voxel position."""
        return Grid(self.shape, np.asarray(matrix) @ self.affine)

    def resized(self, shape: Shape) -> Grid:
        """A grid over the same extent (outer voxel faces kept) with another number of voxels."""
        factor = np.array(self.shape) / np.array(shape)
        index = np.eye(4)
        index[:3, :3] = np.diag(factor)
        index[:3, 3] = (factor - 1) / 2
        return Grid(shape, self.affine @ index)

    def padded(self, voxels: Shape) -> Grid:
        """The grid with so many more voxels at both ends of each axis."""
        index = np.eye(4)
        index[:3, 3] = -np.array(voxels)
        shape = tuple(n + 2 * p for n, p in zip(self.shape, voxels, strict=True))
        return Grid(shape, self.affine @ index)  # type: ignore[arg-type]

    def covering(self, other: Grid, most: int) -> Grid:
        """A grid over both, along this one's axes and through its voxels, as fine as the finer of the two.

        Args:
            most: At most so many times finer than this one along an axis.
        """
        there = self.to_index(other.to_world(box_corners([(0, n - 1) for n in other.shape])))
        slack = 1e-3  # a grid that differs by rounding is the same grid
        low = np.minimum(np.floor(there.min(0) + slack), 0)
        high = np.maximum(np.ceil(there.max(0) - slack), np.array(self.shape) - 1)
        finer = np.clip(np.rint(self.spacing / other.spacing.min()), 1, most)
        to_own = np.diag([*(1 / finer), 1.0])
        to_own[:3, 3] = low
        shape = tuple(int(n) for n in (high - low) * finer + 1)
        return Grid(shape, self.affine @ to_own)  # type: ignore[arg-type]
