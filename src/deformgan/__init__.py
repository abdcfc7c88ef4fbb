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
    from deformgan.align.options import Options as Options
    from deformgan.errors import DeformganError as DeformganError
    from deformgan.errors import InputError as InputError
    from deformgan.errors import QualityError as QualityError
    from deformgan.errors import UsageError as UsageError
    from deformgan.io.image import Image as Image
    from deformgan.io.image import load_image as load_image
    from deformgan.io.image import load_labels as load_labels
    from deformgan.io.points import Points as Points
    from deformgan.models.load import Model as Model
    from deformgan.models.load import load_model as load_model
    from deformgan.output.registration import Registration as Registration
    from deformgan.pipeline import register as register
    from deformgan.quality.result import Quality as Quality
    from deformgan.spatial.grid import Grid as Grid
    from deformgan.transforms.apply import apply as apply
    from deformgan.transforms.transform import Transform as Transform
    from deformgan.transforms.transform import load_transform as load_transform

__version__ = "0.1.0"

_HOME = {
    "register": "pipeline",
    "apply": "transforms.apply",
    "load_image": "io.image",
    "load_labels": "io.image",
    "load_transform": "transforms.transform",
    "load_model": "models.load",
    "Image": "io.image",
    "Grid": "spatial.grid",
    "Transform": "transforms.transform",
    "Points": "io.points",
    "Registration": "output.registration",
    "Quality": "quality.result",
    "Options": "align.options",
    "Model": "models.load",
    "DeformganError": "errors",
    "InputError": "errors",
    "QualityError": "errors",
    "UsageError": "errors",
}

__all__ = [
    "DeformganError",
    "Grid",
    "Image",
    "InputError",
    "Model",
    "Options",
    "Points",
    "Quality",
    "QualityError",
    "Registration",
    "Transform",
    "UsageError",
    "__version__",
    "apply",
    "load_image",
    "load_labels",
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
