"""The split: sizes as in the paper, by person, and the same whatever else changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deformgan.errors import UsageError
from deformgan.workshop.datasets.split import person_of, split

BRATS_2018 = [f"Brats18_{site}_{k}_1" for site in ("2013", "CBICA", "TCIA01") for k in range(95)]


def test_285_patients_are_split_as_in_the_paper() -> None:
    parts = split(BRATS_2018)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (235, 0, 50)
    assert sorted(parts.train + parts.test) == sorted(BRATS_2018)


def test_it_is_the_same_in_any_order_and_at_any_time() -> None:
    shuffled = random.Random(3).sample(BRATS_2018, len(BRATS_2018))
    assert split(shuffled) == split(BRATS_2018) == split(iter(BRATS_2018 * 2))
    # sha256sum of "0:a" … "0:h": that of "0:h" is the lowest
    assert split("abcdefgh", seed=0).test == ("h",)


def test_another_seed_is_another_split() -> None:
    assert split(BRATS_2018, seed=1).test != split(BRATS_2018).test


@pytest.mark.parametrize(
    ("count", "test"), [(0, 0), (1, 0), (2, 1), (3, 1), (8, 1), (9, 2), (57, 10), (484, 85), (1251, 219)]
)
def test_the_same_share_of_other_data_sets(count: int, test: int) -> None:
    parts = split(f"case{k}" for k in range(count))
    assert (len(parts.train), len(parts.test)) == (count - test, test)


def test_validation_comes_out_of_train() -> None:
    without, parts = split(BRATS_2018), split(BRATS_2018, validation=35)
    assert parts.test == without.test
    assert len(parts.validation) == 35
    assert sorted(parts.train + parts.validation) == list(without.train)


@pytest.mark.parametrize(("count", "validation"), [(10, 8), (10, 9), (10, -1), (0, 1), (1, 1)])
def test_somebody_is_left_to_train_on(count: int, validation: int) -> None:
    with pytest.raises(UsageError, match="leave at least one to train on"):
        split((f"case{k}" for k in range(count)), validation=validation)


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("BraTS-GLI-00000-001", "BraTS-GLI-00000"),
        ("BraTS-MEN-00012-000", "BraTS-MEN-00012"),
        ("Brats18_TCIA01_147_2", "Brats18_TCIA01_147"),
        ("Brats18_2013_2_1", "Brats18_2013_2"),
        ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00001", "BraTS2021_00001"),
        ("BraTS-GLI-00000", "BraTS-GLI-00000"),
        ("BRATS_001", "BRATS_001"),
        ("subject-01-002", "subject-01-002"),
    ],
)
def test_the_visits_of_a_person(name: str, person: str) -> None:
    assert person_of(name) == person


def test_nobody_is_in_two_parts() -> None:
    names = [f"BraTS-GLI-{k:05}-{visit:03}" for k in range(60) for visit in range(1 + k % 4)]
    parts = split(names, validation=7)
    people = [{person_of(name) for name in part} for part in (parts.train, parts.validation, parts.test)]
    assert [len(p) for p in people] == [60 - 11 - 7, 7, 11]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert sorted(parts.train + parts.validation + parts.test) == names


@given(st.sets(st.integers(0, 10_000), min_size=3, max_size=60), st.integers(0, 5))
def test_one_who_leaves_moves_at_most_one_other(numbers: set[int], seed: int) -> None:
    names = [f"case{k}" for k in sorted(numbers)]
    before, after = split(names, seed), split(names[1:], seed)
    moved = set(before.test) ^ set(after.test)
    assert len(moved - {names[0]}) <= 1
