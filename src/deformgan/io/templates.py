"""Templates that are known by name: where an image is taken, ``MNI152`` is the brain of the MNI.

The ICBM 152 template (2009a, nonlinear, symmetric; Fonov et al. 2009, 2011) is a T1 of 1 mm without a skull. The
package nilearn carries it with its licence, and it is read from there.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from deformgan.errors import UsageError

_FILES = {"MNI152": "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"}  # in the package nilearn
NAMES = tuple(_FILES)


def is_template(source: Any) -> bool:
    """Whether a path is a template's name; a file or folder of that name comes first."""
    return isinstance(source, str | os.PathLike) and os.fspath(source) in _FILES and not os.path.exists(source)


def located(source: Any) -> Any:
    """The path of a template's file; anything else comes back as it is.

    Raises:
        UsageError: nilearn is not installed, or does not carry it.
    """
    if not is_template(source):
        return source
    name = os.fspath(source)
    package = importlib.util.find_spec("nilearn")  # which takes two seconds to import
    if package is None or not package.submodule_search_locations:
        raise UsageError(f"the template {name} comes with nilearn, which is not installed", "pip install nilearn")
    path = Path(package.submodule_search_locations[0]) / _FILES[name]
    if not path.is_file():
        raise UsageError(f"this version of nilearn does not carry {name}", "pip install 'nilearn==0.14.*'")
    return path
