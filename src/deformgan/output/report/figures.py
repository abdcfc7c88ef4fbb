"""A registration's record as a report tells it: verdict, numbers with a sentence on what is good, origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deformgan.quality.verdict import COMPLAINTS

Rows = list[tuple[str, str, str]]

_AGREEMENT = {
    "similarity_before": ("Similarity before", "{:.3f}", "Shared information of the pair, 0 to 1, where it started."),
    "similarity_after": ("Similarity after", "{:.3f}", "Good when it is higher than before."),
    "edge_agreement_before": ("Edges before", "{:.3f}", "How well the images' edges run alike, 0 to 1."),
    "edge_agreement_after": ("Edges after", "{:.3f}", "Good when it is higher than before."),
    "failure_probability": ("Probability of a failure", "{:.2f}", "By a model fitted on results with a known error."),
    "foreground_dice": ("Overlap of the contents", "{:.3f}", "1 where the outlines cover each other."),
    "surface_distance_mm": ("Distance of their surfaces", "{:.1f} mm", "Good when small; unlike croppings raise it."),
    "mirror_ratio": (
        "Mirror image",
        "{:.2f} × as good",
        "The agreement of the mirrored moving image; above 1 left and right may be exchanged.",
    ),
    "coverage_percent": ("Covered", "{:.1f} %", "Of the fixed content, what finds its source in the moving image."),
}
_MAP = {
    "displacement_mean_mm": ("Displacement, mean", "{:.1f} mm", "How far the map moves things; no measure of error."),
    "displacement_p95_mm": ("Displacement, 95 %", "{:.1f} mm", "Of the content stay below this."),
    "displacement_max_mm": ("Displacement, largest", "{:.1f} mm", "Good when the anatomy can have moved that far."),
    "initial_shift_mm": ("Initial shift", "{:.1f} mm", "How far the start was off the headers; 0 kept them."),
    "folding_percent": ("Folding", "{:.3f} %", "Share of the brain turned inside out: good at 0, fails above 1 %."),
    "folded_voxels": ("Folded voxels", "{:.0f}", "Their number on the field's grid."),
    "jacobian_min": ("Jacobian, smallest", "{:.2f}", "Below 1 the moving tissue grew: at 0.5 to twice its volume."),
    "jacobian_max": ("Jacobian, largest", "{:.2f}", "Above 1 the moving tissue shrank: at 2 to half its volume."),
    "roughness_voxels": ("Roughness", "{:.3f}", "How much the map bends; 0 for affine maps."),
    "inverse_residual_mm": (
        "Error of the inverse",
        "{:.2f} mm",
        "After the map and back: good below 1, fails above 3.",
    ),
    "inconsistency_mean_mm": ("Forth and back", "{:.1f} mm", "Off the network's own way back; no measure of error."),
}
_SENTENCES = {
    "pass": "No reason to distrust the result was found. This is no proof of accuracy: look at the pictures.",
    "look": "It may have failed: look at the pictures before you use it.",
    "fail": "It very probably failed, or is unusable. The files were kept to be looked at.",
}


_FAR_APART = 5.0  # mm between the contents before, from which on a displacement is mostly that
_SIGNS = {"pass": "✓", "look": "!", "fail": "✕"}
# what a reason begins with, what it means, and what to do
_PLAIN = {
    COMPLAINTS[
        "agreement"
    ]: "Borders seen in one image are hardly found in the other. Check that both show one anatomy.",
    COMPLAINTS["pinning"]: "A slightly wrong position would look as good as this one, so nothing confirms it. Compare "
    "the edges before and after.",
    COMPLAINTS["gain"]: "The images want to be moved farther than they were. Try another start.",
    COMPLAINTS[
        "gain_p95"
    ]: "Most of it may be right, but some places are off. Look for edges that stay orange and blue.",
    COMPLAINTS["shift"]: "Several positions look alike, so the one found may be wrong. Watch borders in the flicker.",
    COMPLAINTS["log_similarity"]: "One image says little about the other. Check that they belong together.",
    COMPLAINTS["log_roughness"]: "Lines of the warped grid should be smooth. A larger --smoothness makes them so.",
    COMPLAINTS["log_jacobian"]: "Look at the volume change; strong colours belong at lesions and ventricles only.",
    COMPLAINTS["dice"]: "One image shows more of the head than the other. Strip both skulls or neither, or give masks.",
    "the map folds": "Tissue is turned inside out, which no anatomy does. A larger --smoothness prevents it.",
    "the images agree less": "The result is worse than the start. Do not use it; try another start.",
    "the contents do not overlap": "The images lie apart. Try another start.",
    "the inverse is off": "Going there and back does not return to the same place; do not use the inverse map.",
    "the displacement is not finite": "The computation broke down. Please report it with the images' headers.",
}


@dataclass(frozen=True)
class Reason:
    """One cause of a verdict: ``text`` as the record has it, as a sentence, and what it means in ``plain`` words."""

    text: str
    plain: str


@dataclass(frozen=True)
class Verdict:
    """``word`` is pass, look or fail, ``sign`` a character for it, ``sentence`` what it means, ``notes`` sentences."""

    word: str
    sentence: str
    because: list[Reason]
    notes: list[str]

    @property
    def sign(self) -> str:
        """Tells the words apart without colour."""
        return _SIGNS[self.word]


@dataclass(frozen=True)
class Tile:
    """A figure that is seen at once."""

    name: str
    value: str
    note: str


def verdict(record: dict[str, Any]) -> Verdict:
    """What the record's check says; a record without a word has passed or failed."""
    quality = record["quality"]
    word = quality.get("verdict", "pass" if quality["passed"] else "fail")
    because = quality.get("reasons", []) if word == "fail" else quality.get("doubts", [])
    notes = [sentence(str(note)) for note in record.get("notes", [])]
    joint = record.get("settings", {}).get("transform") == "joint"
    start = "a start from --init" if joint else "--transform joint, which searches all rotations for its start"
    found = [_reason(str(text), start) for text in because]
    likely = [Reason(sentence(f"likely cause: {text}"), "") for text in quality.get("causes", [])[:2]]
    return Verdict(word, _SENTENCES[word], found + likely, notes)


def _reason(text: str, start: str) -> Reason:
    plain = next((meaning for begins, meaning in _PLAIN.items() if text.startswith(begins)), "")
    return Reason(sentence(text), plain.replace("another start", start))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def tiles(record: dict[str, Any]) -> list[Tile]:
    """The few figures that come first; those that are not known are left out."""
    q = record["quality"]

    def both(name: str, form: str) -> str:
        before, after = q.get(f"{name}_before"), q.get(f"{name}_after")
        return "" if before is None or after is None else f"{before:{form}} → {after:{form}}"

    def one(name: str, form: str, unit: str = "") -> str:
        return "" if q.get(name) is None else f"{q[name]:{form}}{unit}"

    found = [
        Tile("Similarity", both("similarity", ".3f"), "higher is better"),
        Tile("Edge agreement", both("edge_agreement", ".2f"), "higher is better"),
        Tile("Displacement", one("displacement_mean_mm", ".1f", " mm"), _upto(q)),
        Tile("Folding", one("folding_percent", ".2f", " %"), "0 is best, fails above 1"),
        Tile("Contents overlap", one("foreground_dice", ".3f"), "1 is best"),
        Tile("Inverse error", one("inverse_residual_mm", ".2f", " mm"), "fails above 3"),
        Tile("Time", f"{record['timings']['total']:.1f} s" if "total" in record["timings"] else "", ""),
    ]
    return [tile for tile in found if tile.value]


def _upto(quality: dict[str, Any]) -> str:
    """The largest displacement, and how much of it lay between the contents before where that is much."""
    largest, apart = quality.get("displacement_max_mm"), quality.get("initial_shift_mm") or 0.0
    if largest is None:
        return "mean"
    before = f"; the contents lay {apart:.0f} mm apart" if apart >= _FAR_APART else ""
    return f"mean, at most {largest:.0f} mm{before}"


def figures(record: dict[str, Any]) -> list[tuple[str, Rows]]:
    """Groups of name, value and meaning; a number that no group knows comes last, under its own name."""
    quality = record["quality"]
    known = {**_AGREEMENT, **_MAP}
    more = {k: v for k, v in quality.items() if k not in known and isinstance(v, int | float) and k != "passed"}
    groups = [
        ("Agreement of the images", _rows(_AGREEMENT, quality)),
        ("The map", _rows(_MAP, quality)),
        ("Its affine part", _affine(record)),
        ("More", [(key.replace("_", " "), f"{value:.4g}", "") for key, value in more.items()]),
    ]
    return [(title, rows) for title, rows in groups if rows]


def origin(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What it was made from and with: name, text, and a checksum or nothing."""
    rows = [
        (role.replace("_", " "), source.get("path") or "in memory, no file", source.get("sha256") or "")
        for role, source in record["inputs"].items()
    ]
    model = record.get("model") or {}
    if "settings" in record:
        rows.append(("weights", str(model.get("name", "none: no network was run")), model.get("sha256", "")))
        rows.append(("settings", _listed(record["settings"]), ""))
    if "environment" in record:
        rows.append(("versions", _listed(record["environment"]), ""))
    if record.get("peak_memory_mb") is not None:
        rows.append(("peak memory", f"{record['peak_memory_mb']:.0f} MB", ""))
    return rows


def _rows(texts: dict[str, tuple[str, str, str]], quality: dict[str, Any]) -> Rows:
    return [
        (name, "not known" if quality[key] is None else form.format(quality[key]), meaning)
        for key, (name, form, meaning) in texts.items()
        if key in quality
    ]


def _affine(record: dict[str, Any]) -> Rows:
    rows = [("Start", text, "")] if (text := _start(record)) else []
    if parts := record.get("affine"):
        scales = ", ".join(f"{scale:.3f}" for scale in parts["scales"])
        rows += [
            ("Rotation", f"{parts['rotation_degrees']:.1f}°", "Of the affine map nearest to the whole one."),
            ("Stretch", scales, "Along three perpendicular directions; below 1 the moving tissue grew."),
            ("Shift", f"{parts['shift_mm']:.1f} mm", "Of the middle of the fixed image."),
        ]
    return rows


def _start(record: dict[str, Any]) -> str:
    settings, shift = record.get("settings", {}), record["quality"].get("initial_shift_mm")
    given = settings.get("init")
    start = "" if not given else PurePath(given).name if isinstance(given, str) else "a map in memory"
    if settings.get("transform") in ("joint", "affine", "rigid"):
        search = f"affine stage ({settings['transform']}): a search over all rotations"
        return f"{search}, near {start}" if start else search
    if start:
        return start
    if not settings:
        return ""
    return "where the headers place the images" if not shift else "the contents' centres together"


def _listed(values: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, bool) or value is None:
            return "yes" if value else "none"
        return "×".join(map(str, value)) if isinstance(value, list) else str(value)

    return ", ".join(f"{name.replace('_', ' ')} {text(value)}" for name, value in values.items())
