"""How several commands read transforms: ``FILE[,inverse]``, and images of which only the geometry counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deformgan.errors import UsageError

if TYPE_CHECKING:
    from deformgan.spatial.grid import Grid
    from deformgan.transforms.chain import Chain
    from deformgan.transforms.transform import Transform

INVERSE = ",inverse"
FileFormat = Literal["itk", "fsl", "fsl-relative", "fsl-absolute", "freesurfer"]
Geometry = Annotated[Path | None, tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(optional)")]


def load(
    name: str, grids: Mapping[str, Callable[[], Grid | None]], file_format: str | None = None
) -> Transform | Chain:
    """Read ``FILE[,inverse]``.

    Args:
        grids: How to come by the grid of the ``fixed`` and the ``moving`` image between which ``name`` maps; asked only
            where the file's format cannot do without.

    Raises:
        UsageError: The file needs a geometry that is not to be had.
        InputError: The file cannot be used.
    """
    from deformgan.transforms.formats import exchange
    from deformgan.transforms.transform import load_transform

    if found := re.fullmatch(r"\[\s*(.+?)\s*,\s*([01])\s*\]", name):
        here = f"{found[1]}{INVERSE if found[2] == '1' else ''}"
        raise UsageError(f"{name} is how ANTs writes a transform and its direction", f"here that is {here}")
    path, inverted = name.removesuffix(INVERSE), name.endswith(INVERSE)
    other = {"fixed": "moving", "moving": "fixed"}
    # the file's own fixed image is on the other side of the map that is asked for
    known = {role: grids[other[role] if inverted else role]() for role in sorted(exchange.needs(path, file_format))}
    one = load_transform(path, file_format=file_format, fixed=known.get("fixed"), moving=known.get("moving"))
    return one.inverse() if inverted else one
