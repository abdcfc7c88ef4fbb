"""From the figures of a result to its verdict: what fails it, what makes it one to look at, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from deformgan.quality.calibration import Failure
from deformgan.quality.result import Quality

MAX_FOLDING_PERCENT = 1.0
# of 11 patients' pairs that were aligned before, none falls below it by a smooth error of 1 mm (root mean square), and
# 9 do by a shift of 2 mm
MIN_SIMILARITY_RATIO = 0.8
MIN_COVERAGE_PERCENT = 70.0  # of the fixed content, below which a person should know that the rest is a guess
# mean distance of the structures that S sees in both images of two people: 2.9 to 5.5 mm after right registrations, 7.4
# and more where the map is off by 10 mm or 20 degrees
STRUCTURES_MEET_MM, STRUCTURES_STRAY_MM = 6.5, 10.0

# what each feature says when it is what speaks most against a result
COMPLAINTS = {
    "agreement": "the edges of the images agree little",
    "pinning": "moving the image a little farther hardly makes its edges match less",
    "gain": "edges would match better elsewhere",
    "gain_p95": "in places edges would match clearly better elsewhere",
    "shift": "edges match as well a good deal farther on",
    "log_similarity": "the intensities of the images tell little about each other",
    "log_roughness": "the map bends more than anatomy does",
    "log_jacobian": "local volumes change more than between brains",
    "dice": "the contents do not cover each other",
}


def judged(
    quality: Quality,
    features: Mapping[str, float | None],
    failure: Failure,
    *,
    is_calibrated: bool,
    apart_mm: Callable[[], float | None] | None = None,
) -> Quality:
    """The same figures with reasons, where it failed, or with doubts, where a person should look.

    Args:
        features: What the calibrated model was given.
        failure: That model, and its limits.
        is_calibrated: Whether the images are like those that the model was fitted on.
        apart_mm: Gives how far apart the structures lie that are seen in both images, if that is known; asked only
            where the model speaks against a result and nothing else does.
    """
    covered, probability = quality.coverage_percent, quality.failure_probability
    reasons = _reasons(quality)
    doubts = () if is_calibrated else ("the images are unlike those the verdict was fitted on",)
    if covered is not None and covered < MIN_COVERAGE_PERCENT:
        doubts += (f"the moving image shows {covered:.0f} % of the fixed image's content; the rest is extrapolated",)
    if probability is not None and probability >= failure.look:
        parts = failure.model.parts(dict(features))
        likely = f"{COMPLAINTS[max(parts, key=lambda name: parts[name])]} (probability of a failure {probability:.2f})"
        apart = apart_mm() if apart_mm is not None and not reasons else None
        quality = replace(quality, structures_apart_mm=apart)
        if apart is not None:
            likely += f"; structures that are seen in both images lie {apart:.1f} mm apart on average"
        if _fails(probability >= failure.fail, apart):
            reasons = (*reasons, likely)
        else:
            doubts = (likely, *doubts)
    elif probability is not None:
        beyond = (f"{COMPLAINTS[name]}, more than in any right result known" for name in failure.unseen(features))
        doubts = (*beyond, *doubts)
    return replace(quality, reasons=reasons, doubts=() if reasons else doubts)


def _fails(likely: bool, apart_mm: float | None) -> bool:
    """Whether a result fails that the model speaks against; structures that meet, or do not, know better than edges."""
    if apart_mm is None or STRUCTURES_MEET_MM < apart_mm <= STRUCTURES_STRAY_MM:
        return likely
    return apart_mm > STRUCTURES_STRAY_MM


def _reasons(quality: Quality) -> tuple[str, ...]:
    """What fails a result whatever the model says."""
    found, before, after = [], quality.similarity_before, quality.similarity_after
    if quality.folding_percent > MAX_FOLDING_PERCENT:
        found.append(f"the map folds in {quality.folding_percent:.1f} % of the image (limit {MAX_FOLDING_PERCENT:g} %)")
    if after < MIN_SIMILARITY_RATIO * before:
        found.append(f"the images agree less than before (similarity {before:.3f} → {after:.3f})")
    if not quality.foreground_dice:
        found.append("the contents do not overlap")
    return tuple(found)
