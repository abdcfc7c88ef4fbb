"""From measurements to a probability of failure and to an expected error, by coefficients fitted on known truths.

``calibration.json`` is written by ``benchmarks/verdict/run.py --fit``; it says from what.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """A linear model of standardised features; a feature that is not known (None) counts as average.

    Args:
        names: Of the features.
        means, scales, weights: One for each.
        bias: Added.
        ends: Features are cut at this many scales from the mean: nothing was seen beyond.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    ends: float = 4.0

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Linear:
        """From its part of the JSON file."""
        parts = (tuple(entry[key]) for key in ("names", "means", "scales", "weights"))
        return cls(*parts, bias=float(entry["bias"]))

    def parts(self, features: Mapping[str, float | None]) -> dict[str, float]:
        """What each feature adds to the sum."""
        found = {}
        for name, mean, scale, weight in zip(self.names, self.means, self.scales, self.weights, strict=True):
            value = features.get(name)
            standard = 0.0 if value is None or math.isnan(value) else (value - mean) / scale
            found[name] = weight * min(max(standard, -self.ends), self.ends)
        return found

    def maps(self, features: Mapping[str, Tensor | None]) -> Tensor:
        """The sum for features that are maps of one shape."""
        total: Tensor | float = self.bias
        for name, mean, scale, weight in zip(self.names, self.means, self.scales, self.weights, strict=True):
            value = features.get(name)
            if value is not None:
                total = total + weight * ((value - mean) / scale).nan_to_num(0.0).clamp(-self.ends, self.ends)
        return torch.as_tensor(total)


@dataclass(frozen=True)
class Failure:
    """How probable a failure is, for pairs that were refined in one way.

    Args:
        model: Logistic model of a failure.
        look, fail: Probabilities from which on the verdict is ``look`` and ``fail``.
        most: Of some features the most that a right result had which the model was fitted on: beyond it no result is
            one that it knows.
    """

    model: Linear
    look: float
    fail: float
    most: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Failure:
        """From its part of the JSON file."""
        return cls(Linear.read(entry["model"]), float(entry["look"]), float(entry["fail"]), entry.get("most", {}))

    def probability(self, features: Mapping[str, float | None]) -> float:
        """In [0, 1], of a field with these features (`deformgan.quality.assess.features`)."""
        total = self.model.bias + sum(self.model.parts(features).values())
        return 1 / (1 + math.exp(-min(max(total, -60.0), 60.0)))

    def unseen(self, features: Mapping[str, float | None]) -> list[str]:
        """The features that exceed ``most``."""
        return [name for name, most in self.most.items() if (value := features.get(name)) is not None and value > most]


@dataclass(frozen=True)
class Calibration:
    """Everything that was fitted.

    Args:
        same, other: For one person's pairs, and for those that were refined as two people's: a right map between
            people bends as only a wrong one does within one.
        error: Linear model of the logarithm of the error in mm.
        knots: Rising pairs (sum of that model, expected error in mm), linear between.
        share68, share95: Multiples of the expected error that 68 % and 95 % of the errors stay below.
    """

    same: Failure
    other: Failure
    error: Linear
    knots: tuple[tuple[float, float], ...]
    share68: float
    share95: float

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Calibration:
        """From the JSON file's content."""
        verdict, uncertainty = entry["verdict"], entry["uncertainty"]
        return cls(
            same=Failure.read(verdict["same"]),
            other=Failure.read(verdict["other"]),
            error=Linear.read(uncertainty["model"]),
            knots=tuple((float(a), float(b)) for a, b in uncertainty["knots"]),
            share68=float(uncertainty["share68"]),
            share95=float(uncertainty["share95"]),
        )

    def failure(self, subject: str) -> Failure:
        """That of pairs refined as ``other`` people's, or of all others."""
        return self.other if subject == "other" else self.same

    def expected_error_mm(self, features: Mapping[str, Tensor | None]) -> Tensor:
        """Expected length of the error, mm, where `deformgan.quality.assess.local_features` are these."""
        total = self.error.maps(features)
        at, error = (np.array(column) for column in zip(*self.knots, strict=True))
        return torch.from_numpy(np.interp(total.numpy(), at, error).astype(np.float32))


@lru_cache(maxsize=1)
def shipped() -> Calibration:
    """What comes with the package, fitted for the shipped weights."""
    text = (files("deformgan.quality") / "calibration.json").read_text(encoding="utf-8")
    return Calibration.read(json.loads(text))
