"""What the three players are, and what T is taught by: weights of the losses, and similarities by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deformgan.errors import UsageError
from deformgan.losses import ADVERSARIAL, SIMILARITIES

_GENERATED = "_g"  # behind the name of a similarity: G's image is compared in place of the moved one


@dataclass(frozen=True)
class Networks:
    """The three players; a T trained on a similarity of the images alone needs neither G nor D."""

    transformation: nn.Module
    generator: nn.Module | None = None
    discriminator: nn.Module | None = None

    @property
    def first_field(self) -> int:
        """The number of the first of T's stages that images may be warped with."""
        return getattr(bare(self.transformation), "first_field", 0)


@dataclass(frozen=True)
class LossWeights:
    """What the steps minimise; the defaults are Deform-GAN-2, with ``generator_gradient=0`` it is Deform-GAN-1.

    Args:
        similarity: Of T: names of `deformgan.losses.SIMILARITIES` joined by ``+``, each between fixed and moved image
            or, with ``_g`` behind it, between fixed and generated. ``lcc_g+lg``, the paper's, is local correlation of
            fixed and generated plus local gradient of fixed and moved; ``none`` leaves the images out.
        smoothness: α, of the field's gradient energy.
        gradient: β, of the local gradient term of T; others count 1.
        l1: λ, of the mean absolute difference (in [-1, 1]) of fixed and generated.
        generator_gradient: μ, of the local gradient term of G.
        known_field: Of the mean distance in voxels to the true field, where there is one; 0 trains without any truth.
        stage_decay: What a coarser stage of T counts for, in that distance and in the losses of the images, relative to
            the next finer one.
        window: Voxels along each side of the local windows, odd.
        adversarial: A name of `deformgan.losses.ADVERSARIAL`.
        adversarial_weight: Of the adversarial term in G's loss; the paper's is 1.
        commutation: Of the mean absolute difference, in [-1, 1], between G of a warped image and the warped G of the
            image: a generator that keeps geometry commutes with warping.
    """

    similarity: str = "lcc_g+lg"
    smoothness: float = 1.0
    gradient: float = 2.0
    l1: float = 100.0
    generator_gradient: float = 5.0
    known_field: float = 0.0
    stage_decay: float = 0.5
    window: int = 7
    adversarial: str = "bce"
    adversarial_weight: float = 1.0
    commutation: float = 0.0

    def __post_init__(self) -> None:
        if unknown := [name for name, _ in self.terms if name not in SIMILARITIES]:
            known = f"use none, or {', '.join(SIMILARITIES)}, joined by + where there are several"
            raise UsageError(f"the similarity {self.similarity!r} has no {', '.join(unknown)}", known)
        if len({name for name, _ in self.terms}) < len(self.terms):
            raise UsageError(f"the similarity {self.similarity!r} names one twice", "name each once")
        if self.adversarial not in ADVERSARIAL:
            raise UsageError(f"there is no adversarial loss {self.adversarial!r}", f"use {' or '.join(ADVERSARIAL)}")

    @property
    def terms(self) -> tuple[tuple[str, bool], ...]:
        """The similarities' names, each with whether the generated image is compared in place of the moved one."""
        names = () if self.similarity == "none" else self.similarity.split("+")
        return tuple((name.removesuffix(_GENERATED), name.endswith(_GENERATED)) for name in names)

    @property
    def needs_generator(self) -> bool:
        """Whether T cannot be taught without G."""
        return any(generated for _, generated in self.terms)

    def of(self, name: str) -> float:
        """What a similarity counts for in T's loss."""
        return self.gradient if name == "lg" else 1.0


def similarities(networks: Networks, fixed: Tensor, moved: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """The similarities T's loss is made of, by name, larger is better."""
    found = {}
    for name, by_generator in weights.terms:
        compared = translated(needed(networks.generator), moved) if by_generator else moved
        found[name] = SIMILARITIES[name](fixed, compared, weights.window)
    return found


def translated(generator: nn.Module, moved: Tensor) -> Tensor:
    """What G makes of a moved image in [0, 1], in [0, 1]."""
    return to_unit(bare(generator)(to_signed(moved)).float())


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
