"""deformgan: dense alignment of 3-D medical images of different modality.

>>> import deformgan
>>> result = deformgan.register("t2.nii.gz", "t1.nii.gz")  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP

Importing the package is cheap: PyTorch and nibabel are loaded when a name that needs them is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deformgan.io.image import Image as Image
    from deformgan.io.image import load_image as load_image
    from deformgan.models.load import Model as Model
    from deformgan.models.load import load_model as load_model
    from deformgan.options import Options as Options
    from deformgan.output.registration import Registration as Registration
    from deformgan.pipeline import register as register
    from deformgan.spatial.grid import Grid as Grid
    from deformgan.transforms.transform import Transform as Transform
    from deformgan.transforms.transform import load_transform as load_transform

__version__ = "0.1.0"

_HOME = {
    "register": "pipeline",
    "Registration": "output.registration",
    "Transform": "transforms.transform",
    "load_transform": "transforms.transform",
    "load_model": "models.load",
    "Model": "models.load",
    "Image": "io.image",
    "load_image": "io.image",
    "Grid": "spatial.grid",
    "Options": "options",
}

__all__ = [
    "Grid",
    "Image",
    "Model",
    "Options",
    "Registration",
    "Transform",
    "__version__",
    "load_image",
    "load_model",
    "load_transform",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
