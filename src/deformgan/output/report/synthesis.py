"""What the generator G makes of the moved image: the fixed image's contrast on the moving image's anatomy.

G must change intensities and move nothing: what it moved would hide what the map leaves undone. So the page says how
well the edges of its image lie on those of the moved image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deformgan.errors import DeformganError
from deformgan.io.image import Image
from deformgan.models.load import load_generator
from deformgan.networks.base import reduced
from deformgan.preprocess.conform import conform
from deformgan.quality.matching import STRIDES, match

# of the match of edges, by which a shift has to better it to count: less is chance
_BETTER = 0.01
_COMPARED_AT = 2  # working voxels to one where edges are matched, whatever G's resolution


@dataclass(frozen=True, eq=False)
class Synthesis:
    """G's image, intensities in [0, 1], and a sentence on how well it lies; or None, and why there is none."""

    image: Image | None
    told: str = ""


def synthesise(record: dict[str, Any], fixed: Image, moved: Image) -> Synthesis:
    """Let G of the weights that a record names translate the moved image.

    Args:
        record: What registration.json holds; its ``model`` names weights and checksums.
        fixed: Places the working grid.
        moved: On any grid in fixed space.
    """
    model = record.get("model") or {}
    if not model:
        return Synthesis(None, "No network was run for this map, so there is no generator's image to show.")
    name = model.get("name", "")
    if not model.get("generator"):
        return Synthesis(
            None, f"The weights {name} hold the transformation network alone; without G there is no image to show."
        )
    if not moved.data.any():
        return Synthesis(None, "The map brings nothing of the moving image here, so G has nothing to translate.")
    try:
        generator = load_generator(name)
    except DeformganError as error:
        return Synthesis(None, f"The generator could not be run: {error.args[0]}.")
    if generator is None or generator.sha256 != model["generator"]:
        return Synthesis(None, f"The generator beside the weights {name} is not the one of this registration any more.")
    grid = conform(fixed, *generator.grid).grid
    given = conform(moved, grid=grid)
    made = generator.translate(given.tensor)
    d, h, w = made.shape[2:]
    coarse = grid.resized((d, h, w))
    halves = max(1, _COMPARED_AT // generator.reduction)
    seen, mask = (reduced(volume.float(), halves * generator.reduction) for volume in (given.tensor, given.mask))
    told = _lies(seen, reduced(made, halves), mask > 0.5, halves * float(coarse.spacing.mean()))
    return Synthesis(Image(made[0, 0].numpy(), coarse, "G's image"), told)


def _lies(seen: Tensor, made: Tensor, inside: Tensor, spacing_mm: float) -> str:
    """How the edges of G's image lie on those of the image it was made of, both (1, 1, D, H, W), in a sentence."""
    if not bool(inside.any()):
        return ""
    found = match(seen, made, inside.float(), spacing_mm)
    where = inside[0, 0]
    agreement, still = float(found.agreement[where].mean()), float((found.gain[where] <= _BETTER).float().mean())
    reach = f"{STRIDES[0] * spacing_mm:.3g} to {STRIDES[-1] * spacing_mm:.3g} mm"
    return (
        f"In {100 * still:.0f} % of the content no shift of {reach} makes the edges of the generator's image match "
        f"those of the moved image better than they do; their match is {agreement:.2f} (1: edges run alike everywhere)."
    )
