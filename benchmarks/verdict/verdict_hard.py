"""Registrations as users get them, of the jobs in which they go wrong (``benchmarks/hard_cases``)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from verdict_cases import Sample

import deformgan
from deformgan.errors import DeformganError

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "hard_cases"))
from kinds import KINDS, OPTIONS, read, save
from measuring import recorded_features

_MODEL = "probability of a failure", "more than in any right result"  # in what the model says, and not a rule


def hard_samples(folder: Path) -> Iterator[Sample]:
    """Every kind of one case, by `deformgan.register`; those that the model is not asked about are left out."""
    subject = str(json.loads((folder / "meta.json").read_text())["subject"])
    for kind in KINDS:
        found = _sample(folder, subject, kind)
        if found is not None:
            yield found


def one_a_subject(folders: list[Path]) -> list[Path]:
    """The first case of each subject."""
    firsts: dict[str, Path] = {}
    for folder in folders:
        firsts.setdefault(str(json.loads((folder / "meta.json").read_text())["subject"]), folder)
    return list(firsts.values())


@dataclass(frozen=True, eq=False)
class Kept:
    """Of a registration what a sample is made of: features of the verdict's model, and what its rules say."""

    done: deformgan.Registration
    features: dict[str, float | None]
    rules: tuple[str, ...]
    refined_as: str
    doubts: tuple[str, ...]

    def sample(self, case: str, subject: str, kind: str, error_mm: tuple[float, float] | None, **limits: Any) -> Sample:
        """With what is known of its error: mean and 95th percentile, or None."""
        mean, p95 = error_mm or (None, None)
        told = self.features, self.rules, np.empty((0, 3)), self.refined_as
        return Sample(case, subject, kind, mean, p95, *told, doubts=self.doubts, **limits)


def registered(fixed: Path, moving: Path, **options: Any) -> Kept | None:
    """By `deformgan.register`; None where that ends in an error, or the model is not asked."""
    with recorded_features() as features:
        try:
            done = deformgan.register(fixed, moving, **options)
        except DeformganError:
            return None
    if done.quality.failure_probability is None:
        return None
    rules, doubts = (_of_rules(said) for said in (done.quality.reasons, done.quality.doubts))
    refined_as = "other" if done.provenance["settings"]["subject"] == "other" else "same"
    return Kept(done, dict(features), rules, refined_as, doubts)


def _of_rules(said: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in said if not any(mark in one for mark in _MODEL))


def _sample(folder: Path, subject: str, kind: str) -> Sample | None:
    pair = KINDS[kind](read(folder), np.random.default_rng(crc32(f"{subject} {folder.name} {kind}".encode())))
    with tempfile.TemporaryDirectory() as place:
        kept = registered(*save(pair, Path(place)), **OPTIONS.get(kind, {}))
    if kept is None:
        return None
    error = None
    if pair.targets is not None:
        off = np.linalg.norm(kept.done.transform.map_points(pair.points) - pair.targets, axis=1) / pair.size
        error = float(off.mean()), float(np.quantile(off, 0.95))
    return kept.sample(f"{folder.parent.name}/{folder.name}", subject, f"hard: {kind}", error)
