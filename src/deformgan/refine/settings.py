"""How fields are refined; chosen by the experiments in ``docs/log.md``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RefineSettings:
    """How a field of control points is refined.

    Args:
        levels: For each level, coarse to fine: the factor by which the images are reduced, and its share of the steps.
        spacing: Voxels between control points.
        smoothing: How often the control points are smoothed with a 3³ box.
        margin: Voxels by which the mask is widened: the content's border is an edge, and both its sides must count, or
            the moved image is drawn inwards.
        epsilon: Gradient (intensity in [0, 1] per voxel of the level) below which an edge counts as noise.
        bending: Weight of the bending energy at the end.
        relaxation: How many times heavier it is at the start; it falls geometrically over the first level.
        folding: Weight of the mean squared amount by which the Jacobian determinant falls below `least_jacobian`.
        least_jacobian: See there.
        rate: Adam's step in voxels, of the control points.
        affine_rate: The same of the affine map; 0 leaves it to the control points.
    """

    levels: tuple[tuple[int, float], ...] = ((4, 0.3), (2, 0.3), (1, 0.4))
    spacing: int = 4
    smoothing: int = 2
    margin: int = 3
    epsilon: float = 0.015
    bending: float = 0.02
    relaxation: float = 3.0
    folding: float = 5.0
    least_jacobian: float = 0.25
    rate: float = 0.5
    affine_rate: float = 2.0


@dataclass(frozen=True)
class FluidSettings:
    """How a dense field is refined.

    Args:
        levels: For each level on the working grid, coarse to fine: the factor by which the images are reduced, and its
            share of the steps.
        fine_share: Share of the steps that follows with images on a finer grid, the field staying on the working grid;
            where the images are not as fine, the last level's steps are so many more.
        update_sigma, field_sigma: Of the Gaussians that smooth each update and then the field, in voxels of the level's
            images.
        fine_update_sigma: The first of these on the finer grid.
        step: Length of the largest update in the same voxels; it falls linearly to a tenth within each level.
        shorter: Share of the updates that are shorter than that; the others are shortened to it, so that a few strong
            edges do not hold up all others. 1 shortens none.
        correlation, information: Weights of the local correlation and of the mutual information.
        fine_information: The latter on the finer grid, where a voxel's intensity says less of what it is.
        radius: The correlation is taken in cubes of ``2 radius + 1`` voxels.
        epsilon: Added to both variances there.
        bins: Of the joint histogram, along each axis.
        margin: Voxels by which the mask is widened.
    """

    levels: tuple[tuple[int, float], ...] = ((4, 0.31), (2, 0.31), (1, 0.23))
    fine_share: float = 0.15
    update_sigma: float = 1.5
    fine_update_sigma: float = 0.8
    field_sigma: float = 0.5
    step: float = 0.99
    shorter: float = 0.98
    correlation: float = 2.0
    information: float = 1.0
    fine_information: float = 0.5
    radius: int = 2
    epsilon: float = 1e-4
    bins: int = 32
    margin: int = 3


DEFAULT_SETTINGS = RefineSettings()
DEFAULT_FLUID = FluidSettings()
FLUID_SHARE = 0.27  # of the steps that control points take, for a fluid field
