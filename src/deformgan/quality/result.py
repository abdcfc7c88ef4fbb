"""The evidence of one registration and the verdict it gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

MAX_INVERSE_RESIDUAL_MM = 3.0  # a voxel of the half-resolution field: finer than that it cannot say

# of 33 pairs that are the right way round none had more than 1.01; pairs of one person, mirrored, have 1.08 to 1.39
MIRRORED, SURELY_MIRRORED = 1.05, 1.10
# a search from everywhere that agrees so much better than the linear part of the result has found another place: it
# does by 1.02 to 1.10 where results of training people are right, by 1.48 and more where they are wrong
BETTER_ELSEWHERE = 1.25
_LEAST_AGREEMENT = 0.05  # below which the sides say nothing
_WORDS = ("reasons", "doubts", "causes")


@dataclass(frozen=True)
class Quality:
    """Evidence and verdict of one registration; "inside" means inside the fixed image's foreground."""

    folding_percent: float
    """Voxels inside where the map turns space inside out (Jacobian determinant ≤ 0), per cent."""
    jacobian_min: float
    """Smallest local volume change inside, 1 is none."""
    jacobian_max: float
    """Largest local volume change inside."""
    displacement_mean_mm: float
    """Mean length of the complete displacement inside, the shift of the initial alignment included."""
    displacement_max_mm: float
    """Largest length inside."""
    similarity_before: float
    """Normalised mutual information in [0, 1] of fixed and moving as their headers place them."""
    similarity_after: float
    """The same of fixed and moved."""
    reasons: tuple[str, ...]
    """Why the check failed; empty when it did not."""
    initial_shift_mm: float = 0.0
    """How far the initial alignment moved the contents before any deformation, 0 where the headers were kept."""
    inverse_residual_mm: float | None = None
    """How far a position is off after the map and back, see `inverse_residual`; None where no inverse was made."""
    doubts: tuple[str, ...] = ()
    """What a person should look at; empty when it passed or failed outright."""
    failure_probability: float | None = None
    """That the error exceeds 3 mm on average or 8 mm in 5 % of the content; None for images not calibrated for."""
    folded_voxels: int | None = None
    """Their number on the field's grid."""
    displacement_p95_mm: float | None = None
    """95th percentile of the length inside."""
    roughness_voxels: float | None = None
    """Square root of the bending energy of the field, 0 for affine maps."""
    edge_agreement_before: float | None = None
    """Squared cosine between the edges of fixed and moving as their headers place them, in [0, 1]."""
    edge_agreement_after: float | None = None
    """The same of fixed and moved."""
    inconsistency_mean_mm: float | None = None
    """Mean distance after the map and T's own prediction of the way back, inside; T errs too: not an accuracy."""
    foreground_dice: float | None = None
    """Overlap of the foregrounds of fixed and moved, in [0, 1]."""
    coverage_percent: float | None = None
    """Of the fixed foreground, what finds its source where the moving image has data."""
    surface_distance_mm: float | None = None
    """Mean distance between the surfaces of the two foregrounds."""
    mirror_ratio: float | None = None
    """How well the moving image mirrored left to right agrees with the fixed one, as a multiple of how well it does."""
    structures_apart_mm: float | None = None
    """Mean distance between the centres of structures seen in both images of two people; None where not asked."""
    causes: tuple[str, ...] = ()
    """What probably went wrong and what to try next, the likeliest first; empty for a `pass`."""

    @property
    def is_mirrored(self) -> bool:
        """Whether the images say that one of them shows left as right."""
        return self.mirror_ratio is not None and self.mirror_ratio >= MIRRORED

    @property
    def passed(self) -> bool:
        """No reason to reject the result was found; there may be some to look at it."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """``pass``, ``look`` or ``fail``."""
        return "fail" if self.reasons else "look" if self.doubts else "pass"

    def with_inverse(self, residual_mm: float) -> Quality:
        """The same with what is known of the inverse; a large residual is a reason to fail."""
        reasons = self.reasons
        if not residual_mm <= MAX_INVERSE_RESIDUAL_MM:
            reasons += (f"the inverse is off by {residual_mm:.1f} mm (limit {MAX_INVERSE_RESIDUAL_MM:g} mm)",)
        return replace(self, inverse_residual_mm=residual_mm, reasons=reasons)

    def with_sides(self, *looks: tuple[float, float] | None) -> Quality:
        """The same with how well the pair agrees as it is and mirrored; a mirror image that fits better is no pass.

        Args:
            looks: Each a measure of the pair as it is and mirrored, or None; the one that speaks most for the mirror
                image counts.
        """
        known = [look for look in looks if look is not None and look[0] >= _LEAST_AGREEMENT]
        if not known:
            return self
        plain, mirrored = max(known, key=lambda look: look[1] / look[0])
        ratio = mirrored / plain
        found = replace(self, mirror_ratio=ratio)
        if ratio < MIRRORED:
            return found
        said = f"the moving image agrees better when it is mirrored left to right ({plain:.3f} → {mirrored:.3f})"
        if ratio >= SURELY_MIRRORED or self.reasons:
            return replace(found, reasons=(*self.reasons, said), doubts=())
        return replace(found, doubts=(said, *self.doubts))

    def with_place(self, here: float, elsewhere: float) -> Quality:
        """The same with how well the pair agrees under the linear part of the result, and where a search finds best."""
        if elsewhere < BETTER_ELSEWHERE * here or elsewhere < _LEAST_AGREEMENT or self.reasons:
            return self
        said = f"the images agree better in another place than where they were put ({here:.3f} → {elsewhere:.3f})"
        return replace(self, doubts=(said, *self.doubts))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with ``passed`` and ``verdict``; a number that is not finite becomes None."""
        values = {key: _plain(value) for key, value in asdict(self).items() if key not in _WORDS}
        words = {key: list(getattr(self, key)) for key in _WORDS}
        return {"passed": self.passed, "verdict": self.verdict, **words, **values}


def _plain(value: float | None) -> float | None:
    return round(value, 5) if value is not None and abs(value) < float("inf") else None
