"""Improves T's field for one pair at test time; network weights are never touched.

`refine_pair` decides how: `refine` with control points and a stiff regulariser for two images of one person,
`refine_fluid` with a displacement of every voxel for two people.
"""

from deformgan.refine.fluid import refine_fluid
from deformgan.refine.optimise import refine
from deformgan.refine.pair import Refined, refine_pair
from deformgan.refine.settings import (
    DEFAULT_FLUID,
    DEFAULT_SETTINGS,
    FluidSettings,
    RefineSettings,
)
from deformgan.refine.spread import Perturbed, perturbed

__all__ = [
    "DEFAULT_FLUID",
    "DEFAULT_SETTINGS",
    "FluidSettings",
    "Perturbed",
    "RefineSettings",
    "Refined",
    "perturbed",
    "refine",
    "refine_fluid",
    "refine_pair",
]
