"""Cases made harder step by step: which sweeps there are, and at which levels."""

from __future__ import annotations

import importlib
from types import ModuleType

from deformgan.errors import UsageError
from deformgan.evaluation.cases import TestCase
from deformgan.evaluation.making import redeformed

DEFORMATION = "deformation"
SWEEPS = ("noise", "blur", "bias", "thick-slices", "inversion", DEFORMATION)
_DEFORMATION_LEVELS = (5.0, 10.0, 20.0, 30.0, 40.0)  # voxels
_MODULE = "deformgan.evaluation.robustness"


def levels(sweep: str) -> tuple[float, ...]:
    """The levels of a sweep, mildest first.

    Raises:
        UsageError: It is not in this version.
    """
    if sweep == DEFORMATION:
        return _DEFORMATION_LEVELS
    known = _robustness(sweep).SWEEPS
    if sweep not in known:
        raise UsageError(f"there is no sweep {sweep!r}", f"use {', '.join((*known, DEFORMATION))}")
    return tuple(known[sweep])


def harder(case: TestCase, sweep: str, level: float, seed: int) -> tuple[TestCase, TestCase]:
    """A case at one level of a sweep: as a method is to see it, and as it is scored.

    A larger deformation changes both. What else disturbs images is seen, but the field that a method finds then is
    scored on the undisturbed ones: how well the anatomy is aligned, not how noisy the image is.

    Raises:
        UsageError: The sweep is not in this version.
    """
    if sweep == DEFORMATION:
        case = redeformed(case, level, seed)
        return case, case
    return _robustness(sweep).perturbed(case, sweep, level, seed), case


def _robustness(sweep: str) -> ModuleType:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        raise UsageError(f"the sweep {sweep!r} is not in this version", f"use {DEFORMATION}") from error
