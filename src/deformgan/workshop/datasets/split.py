"""Which patients are trained on and which are kept for the test: by person, the same wherever it is computed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from deformgan.errors import UsageError

TEST_SHARE = 50 / 285  # of BraTS 2018's training cases, as in the Deform-GAN paper

# the last number of these names is the visit
_VISITS = (
    re.compile(r"(brats-[a-z]+-\d+)-\d+", re.IGNORECASE),  # BraTS 2023: BraTS-GLI-00000-000
    re.compile(r"(brats1[789]_[^_]+_[^_]+)_\d+", re.IGNORECASE),  # BraTS 2018: Brats18_2013_2_1
)


@dataclass(frozen=True)
class Split:
    """Names of patients, each part in order of name; no person is in two of them."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def person_of(name: str) -> str:
    """The person a case is of: BraTS names without the number of the visit, any other name as it is."""
    for pattern in _VISITS:
        if found := pattern.fullmatch(name):
            return found[1]
    return name


def split(names: Iterable[str], seed: int = 0, validation: int = 0) -> Split:
    """Divide patients into train, validation and test.

    People are ordered by the SHA-256 of the seed and their name, and the first 50 of every 285 (rounded; at least one
    where there are two or more) are the test part: BraTS 2018's 285 give 235 and 50. Which of them depends neither on
    the order of ``names`` nor on the machine, and a person who joins or leaves moves at most one other.

    Args:
        names: Cases; visits of one person (see `person_of`) stay together.
        seed: Another one gives another split.
        validation: People taken out of train.

    Raises:
        UsageError: ``validation`` leaves nobody to train on.
    """
    names = sorted(set(names))
    people = sorted({person_of(name) for name in names}, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    count = min(max(1, round(TEST_SHARE * len(people))), len(people) - 1) if people else 0
    test, rest = people[:count], people[count:]
    if validation < 0 or (validation and validation >= len(rest)):
        raise UsageError(
            f"{validation} of {len(rest)} people cannot be kept for validation", "leave at least one to train on"
        )

    def cases(of: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in names if person_of(name) in of)

    return Split(cases(set(rest[validation:])), cases(set(rest[:validation])), cases(set(test)))
