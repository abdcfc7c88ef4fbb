"""What the generator G makes of the moved image: the fixed image's contrast on the moving image's anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deformgan.errors import DeformganError
from deformgan.io.image import Image
from deformgan.models.load import load_generator
from deformgan.preprocess.conform import conform


@dataclass(frozen=True, eq=False)
class Synthesis:
    """G's image, intensities in [0, 1]; or None, and a sentence that says why there is none."""

    image: Image | None
    why: str = ""


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
    made = generator.translate(conform(moved, grid=grid).tensor)[0, 0]
    d, h, w = made.shape
    return Synthesis(Image(made.numpy(), grid.resized((d, h, w)), "G's image"))
