"""A registration's numbers as a report tells them: name, value with unit, and a sentence on what is good."""

from __future__ import annotations

from typing import Any

_TEXT = {
    "similarity_before": ("Similarity before", "{:.3f}", "Shared information of the pair, 0 to 1, where it started."),
    "similarity_after": ("Similarity after", "{:.3f}", "Good when it is higher than before."),
    "displacement_mean_mm": ("Displacement, mean", "{:.1f} mm", "How far the map moves things; no measure of error."),
    "displacement_max_mm": ("Displacement, largest", "{:.1f} mm", "Good when the anatomy can have moved that far."),
    "folding_percent": ("Folding", "{:.3f} %", "Share of the brain turned inside out: good at 0, fails above 1 %."),
    "jacobian_min": ("Volume change, smallest", "{:.2f}", "1 is unchanged, ½ is halved; good when clearly above 0."),
    "jacobian_max": ("Volume change, largest", "{:.2f}", "2 is doubled; larger values want a look at the map below."),
    "initial_shift_mm": ("Initial shift", "{:.1f} mm", "How far the start was off the headers; 0 kept them."),
    "inverse_residual_mm": (
        "Error of the inverse",
        "{:.2f} mm",
        "After the map and back: good below 1, fails above 3.",
    ),
}


def figures(quality: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each known figure; any other that is a number comes after them under its own name."""
    rows = [
        (name, "not finite or not made" if quality[key] is None else form.format(quality[key]), meaning)
        for key, (name, form, meaning) in _TEXT.items()
        if key in quality
    ]
    more = {k: v for k, v in quality.items() if k not in _TEXT and isinstance(v, int | float) and k != "passed"}
    return rows + [(key.replace("_", " "), f"{value:.4g}", "") for key, value in more.items()]
