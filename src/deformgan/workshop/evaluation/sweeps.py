"""Cases perturbed step by step: which sweeps there are, and at which levels."""

from __future__ import annotations

from deformgan.errors import UsageError
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.make_cases import redeformed

DEFORMATION = "deformation"
SWEEPS = ("noise", "blur", "bias", "thick-slices", "inversion", DEFORMATION)
_DEFORMATION_LEVELS = (5.0, 10.0, 20.0, 30.0, 40.0)  # voxels


def levels(sweep: str) -> tuple[float, ...]:
    """The levels of a sweep, mildest first.

    Raises:
        UsageError: There is no such sweep.
    """
    if sweep == DEFORMATION:
        return _DEFORMATION_LEVELS
    from deformgan.workshop.evaluation.robustness import SWEEPS as DISTURBANCES

    if sweep not in DISTURBANCES:
        raise UsageError(f"there is no sweep {sweep!r}", f"use {', '.join((*DISTURBANCES, DEFORMATION))}")
    return tuple(DISTURBANCES[sweep])


def perturb(case: EvaluationCase, sweep: str, level: float, seed: int) -> tuple[EvaluationCase, EvaluationCase]:
    """A case at one level of a sweep: as a method is to see it, and as it is scored.

    A larger deformation changes both. What else disturbs images is seen, but the field that a method finds then is
    scored on the undisturbed ones: how well the anatomy is aligned, not how noisy the image is.

    Raises:
        UsageError: There is no such sweep, or the level is out of its range.
    """
    if sweep == DEFORMATION:
        case = redeformed(case, level, seed)
        return case, case
    from deformgan.workshop.evaluation.robustness import perturbed

    return perturbed(case, sweep, level, seed), case
