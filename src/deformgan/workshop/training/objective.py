"""What the three players are, and what T is taught by: weights of the losses, and similarities by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from deformgan import losses

Similarity = Literal["lcc_g+lg", "lcc+lg", "lg", "lcc", "mi", "ngf", "ngf2", "none"]


@dataclass(frozen=True)
class Networks:
    """The three players; a T trained on a similarity of the images alone needs neither G nor D."""

    transformation: nn.Module
    generator: nn.Module | None = None
    discriminator: nn.Module | None = None


@dataclass(frozen=True)
class LossWeights:
    """What the steps minimise; the defaults are Deform-GAN-2, with ``generator_gradient=0`` it is Deform-GAN-1.

    Args:
        similarity: Of T: ``lcc_g+lg`` (local correlation of fixed and generated, plus local gradient of fixed and
            moved), or between fixed and moved: ``lcc+lg`` the same two without a generator, ``lg`` local gradient,
            ``lcc`` local correlation, ``mi`` mutual information, ``ngf`` normalised gradients, ``ngf2`` their square;
            ``none`` leaves the images out.
        smoothness: α, of the field's gradient energy.
        gradient: β, of the local gradient term of T.
        l1: λ, of the mean absolute difference (in [-1, 1]) of fixed and generated.
        generator_gradient: μ, of the local gradient term of G.
        known_field: Of the mean distance in voxels to the true field, where there is one; 0 trains without any truth.
        stage_decay: What a coarser stage of T counts for in that distance, relative to the next finer one.
        window: Voxels along each side of the local windows, odd.
        adversarial: ``bce`` or ``least_squares``.
        adversarial_weight: Of the adversarial term in G's loss; the paper's is 1.
        commutation: Of the mean absolute difference, in [-1, 1], between G of a warped image and the warped G of the
            image: a generator that keeps geometry commutes with warping.
    """

    similarity: Similarity = "lcc_g+lg"
    smoothness: float = 1.0
    gradient: float = 2.0
    l1: float = 100.0
    generator_gradient: float = 5.0
    known_field: float = 0.0
    stage_decay: float = 0.5
    window: int = 7
    adversarial: Literal["bce", "least_squares"] = "bce"
    adversarial_weight: float = 1.0
    commutation: float = 0.0


def similarities(networks: Networks, fixed: Tensor, moved: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """The similarities T's loss is made of, by name, larger is better."""
    kind, window = weights.similarity, weights.window
    if kind in ("lcc_g+lg", "lcc+lg"):
        compared = moved
        if kind == "lcc_g+lg":
            compared = to_unit(bare(needed(networks.generator))(to_signed(moved)).float())
        return {
            "lcc": losses.local_cross_correlation(fixed, compared, window),
            "lg": losses.local_gradient_similarity(fixed, moved, window),
        }
    if kind == "lg":
        return {"lg": losses.local_gradient_similarity(fixed, moved, window)}
    if kind == "lcc":
        return {"lcc": losses.local_cross_correlation(fixed, moved, window)}
    if kind == "mi":
        return {"mi": losses.mutual_information(fixed, moved)}
    if kind in ("ngf", "ngf2"):
        return {kind: losses.ngf_similarity(fixed, moved, squared=kind == "ngf2")}
    raise ValueError(f"similarity is lcc_g+lg, lcc+lg, lg, lcc, mi, ngf, ngf2 or none, not {kind!r}")


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] → [-1, 1]."""
    return 2 * image - 1


def to_unit(image: Tensor) -> Tensor:
    """[-1, 1] → [0, 1]."""
    return (image + 1) / 2


def bare(network: nn.Module) -> nn.Module:
    """The network without its wrapper for several GPUs, which would wait for gradients a frozen network never has."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def needed(network: nn.Module | None) -> nn.Module:
    """The network; `ValueError` where this run has none."""
    if network is None:
        raise ValueError("this step needs a generator and a discriminator; there are none with these networks")
    return network
