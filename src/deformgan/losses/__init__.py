"""Similarities of images (larger is better), smoothness of fields (smaller is better) and adversarial losses.

A new similarity is a module here and its line in `SIMILARITIES`: configurations then know it by that name.
"""

from collections.abc import Callable

from torch import Tensor

from deformgan.losses.adversarial import (
    AdversarialLoss,
    bce,
    bce_discriminator,
    bce_generator,
    least_squares,
    least_squares_discriminator,
    least_squares_generator,
)
from deformgan.losses.boxes import box_sum
from deformgan.losses.correlation import LocalCorrelation, local_cross_correlation
from deformgan.losses.dice import soft_dice
from deformgan.losses.gradient import GradientSimilarity, image_gradient, local_gradient_similarity, ngf_similarity
from deformgan.losses.information import mutual_information
from deformgan.losses.mind import mind_similarity, mind_ssc
from deformgan.losses.smoothness import bending_energy, gradient_energy

# (fixed, moved, voxels along each side of local windows) → a number that is larger the better they match
SIMILARITIES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "lcc": local_cross_correlation,
    "lg": local_gradient_similarity,
    "mi": lambda fixed, moved, _: mutual_information(fixed, moved),
    "ngf": lambda fixed, moved, _: ngf_similarity(fixed, moved),
    "ngf2": lambda fixed, moved, _: ngf_similarity(fixed, moved, squared=True),
    "mind": lambda fixed, moved, _: mind_similarity(fixed, moved),
}
ADVERSARIAL: dict[str, AdversarialLoss] = {"bce": bce, "least_squares": least_squares}

__all__ = [
    "ADVERSARIAL",
    "SIMILARITIES",
    "AdversarialLoss",
    "GradientSimilarity",
    "LocalCorrelation",
    "bce",
    "bce_discriminator",
    "bce_generator",
    "bending_energy",
    "box_sum",
    "gradient_energy",
    "image_gradient",
    "least_squares",
    "least_squares_discriminator",
    "least_squares_generator",
    "local_cross_correlation",
    "local_gradient_similarity",
    "mind_similarity",
    "mind_ssc",
    "mutual_information",
    "ngf_similarity",
    "soft_dice",
]
