"""Registrations as users get them, of the jobs in which they go wrong (``benchmarks/hard_cases``)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
from verdict_cases import Sample

import deformgan
from deformgan.errors import DeformganError

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "hard_cases"))
from kinds import KINDS, OPTIONS, read, save
from measuring import recorded_features

_MODEL = "probability of a failure"  # in a reason that is the model's, not a rule's


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


def _sample(folder: Path, subject: str, kind: str) -> Sample | None:
    pair = KINDS[kind](read(folder), np.random.default_rng(crc32(f"{subject} {folder.name} {kind}".encode())))
    with tempfile.TemporaryDirectory() as place, recorded_features() as features:
        try:
            done = deformgan.register(*save(pair, Path(place)), **OPTIONS.get(kind, {}))  # type: ignore[arg-type]
        except DeformganError:
            return None
    if done.quality.failure_probability is None:
        return None
    mean = p95 = None
    if pair.targets is not None:
        off = np.linalg.norm(done.transform.map_points(pair.points) - pair.targets, axis=1) / pair.size
        mean, p95 = float(off.mean()), float(np.quantile(off, 0.95))
    rules = tuple(reason for reason in done.quality.reasons if _MODEL not in reason)
    return Sample(
        f"{folder.parent.name}/{folder.name}",
        subject,
        f"hard: {kind}",
        mean,
        p95,
        dict(features),
        rules,
        np.empty((0, 7)),
    )
