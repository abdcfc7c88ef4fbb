"""What makes an image unlike those the networks know."""

from __future__ import annotations

from deformgan.preprocess.conform import Conformed, Pair

LARGEST_BRAIN_LITRES = 2.5


def input_warnings(role: str, image: Conformed, spacing: float) -> list[str]:
    """What makes an image unlike the skull-stripped brains the networks know."""
    own = float(image.grid.spacing[0])
    litres = float(image.mask.sum()) * own**3 / 1e6
    found = []
    if litres > LARGEST_BRAIN_LITRES:
        found.append(f"its foreground measures {litres:.1f} l")
    if not image.zero_background:
        found.append("its background is not constant")
    if own > 1.25 * spacing:
        found.append(f"it fits the working grid at {own:.2f} mm only, not {spacing:g} mm")
    if not found:
        return []
    return [f"the {role} image may not be a skull-stripped brain: {', '.join(found)}; results may be less accurate"]


def pair_warnings(pair: Pair, spacing: float) -> list[str]:
    """`input_warnings` of both images."""
    return [*input_warnings("fixed", pair.fixed, spacing), *input_warnings("moving", pair.moving, spacing)]
