"""Cases made harder step by step: which sweeps there are, and at which levels."""

from __future__ import annotations

import importlib
from types import ModuleType

from deformgan.errors import UsageError
from deformgan.evaluation.cases import TestCase
from deformgan.evaluation.making import redeformed

DEFORMATION = "deformation"
SWEEPS = ("noise", "blur", "bias", "thick-slices", "inversion", DEFORMATION)
_DEFORMATION_LEVELS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)  # voxels
_MODULE = "deformgan.evaluation.robustness"


def levels(sweep: str) -> tuple[float, ...]:
    """The levels of a sweep, mildest first.

    Raises:
        UsageError: It is not in this version.
    """
    if sweep == DEFORMATION:
        return _DEFORMATION_LEVELS
    known = _robustness(sweep).LEVELS
    if sweep not in known:
        raise UsageError(f"there is no sweep {sweep!r}", f"use {', '.join((*known, DEFORMATION))}")
    return tuple(known[sweep])


def perturbed(case: TestCase, sweep: str, level: float, seed: int) -> TestCase:
    """The case at one level of a sweep; images are changed, the truth is not, but for ``deformation``.

    Raises:
        UsageError: The sweep is not in this version.
    """
    if sweep == DEFORMATION:
        return redeformed(case, level, seed)
    return _robustness(sweep).perturbed(case, sweep, level, seed)


def _robustness(sweep: str) -> ModuleType:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        raise UsageError(f"the sweep {sweep!r} is not in this version", f"use {DEFORMATION}") from error
