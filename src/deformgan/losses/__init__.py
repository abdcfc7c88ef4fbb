"""Similarities of images (larger is better), smoothness of fields (smaller is better) and adversarial losses."""

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

__all__ = [
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
