"""deformgan: dense alignment of 3-D medical images of different modality.

>>> import deformgan
>>> result = deformgan.register("t2.nii.gz", "t1.nii.gz")  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP

Importing the package is cheap: PyTorch and nibabel are loaded when a name that needs them is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deformgan.grid import Grid as Grid
    from deformgan.image import Image as Image
    from deformgan.image import load_image as load_image
    from deformgan.models import Model as Model
    from deformgan.models import load_model as load_model
    from deformgan.register import Registration as Registration
    from deformgan.register import register as register
    from deformgan.transform import Transform as Transform
    from deformgan.transform import load_transform as load_transform

__version__ = "0.1.0"

_HOME = {
    "register": "register",
    "Registration": "register",
    "Transform": "transform",
    "load_transform": "transform",
    "load_model": "models",
    "Model": "models",
    "Image": "image",
    "load_image": "image",
    "Grid": "grid",
}

__all__ = [
    "Grid",
    "Image",
    "Model",
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


class _Package(ModuleType):
    """The import of a submodule does not hide the public function of the same name (`deformgan.register`)."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
