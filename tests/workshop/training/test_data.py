"""Pairs: the same for the same index, and the known field is the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import AUGMENTATION, data_config, write_people
from torch import Tensor

from deformgan.networks.base import reduced
from deformgan.spatial.field import compose, jacobian_determinant
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.subjects import Subject, load_subjects
from deformgan.workshop.evaluation.metrics import dice, rmse_percent
from deformgan.workshop.training import data as module
from deformgan.workshop.training.config import AugmentationConfig
from deformgan.workshop.training.data import PairDataset

CLEAN = replace(AUGMENTATION, degradation=0.0)
SCALES = pytest.mark.parametrize("scale", [1.0, 0.5])


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    root = write_people(tmp_path_factory.mktemp("people"))
    return load_subjects(data_config(root, root / "cache"), ("one", "two"), ("labels.nii.gz",))


def dataset(
    subjects: list[Subject], augmentation: AugmentationConfig = CLEAN, scale: float = 0.5, seed: int = 1, **changes: Any
) -> PairDataset:
    config = data_config(Path("."), Path("."), **changes)
    return PairDataset(subjects, config, augmentation, scale, seed, 8, complete=True)


def batched(item: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[None] for name, value in item.items()}


@SCALES
def test_an_item_has_one_shape_and_range(subjects: list[Subject], scale: float) -> None:
    pairs = dataset(subjects, AUGMENTATION, scale)
    side = round(32 * scale)
    assert len(pairs) == 8
    for index in range(4):
        item = pairs[index]
        assert item["field"].shape == (3, side, side, side)
        for name in ("fixed", "moving", "mask", "moving_true", "lesion", "moving_lesion"):
            assert item[name].shape == (1, side, side, side), name
            assert 0 <= float(item[name].min()) <= float(item[name].max()) <= 1 + 1e-6, name
        assert set(item["mask"].unique().tolist()) == {0.0, 1.0}
        assert float(item["fixed"].max()) > 0.9
        assert int(item["regime"]) in (0, 1)


def test_only_validation_gets_what_only_validation_needs(subjects: list[Subject]) -> None:
    config = data_config(Path("."), Path("."))
    item = PairDataset(subjects, config, CLEAN, 0.5, 1, 8)[0]
    assert set(item) == {"fixed", "moving", "field", "mask", "regime"}


def test_the_same_index_is_the_same_pair(subjects: list[Subject]) -> None:
    one, same, other = (dataset(subjects, AUGMENTATION, seed=s) for s in (1, 1, 2))
    for index in (3, 0, 3):
        first, second = one[index], same[index]
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.allclose(one[0]["field"], one[1]["field"])
    assert not torch.allclose(one[0]["field"], other[0]["field"])


@SCALES
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_known_field_is_the_truth(subjects: list[Subject], scale: float, flip: float) -> None:
    pairs = dataset(subjects, replace(CLEAN, flip=flip, weights=(0.0, 1.0)), scale)
    for index in range(4):
        item = batched(pairs[index])
        before = rmse_percent(item["moving"], item["moving_true"], item["mask"])
        after = rmse_percent(warp(item["moving"], item["field"]), item["moving_true"], item["mask"])
        assert after < 0.5 * before
        assert after < 8
        lesions = [dice(warp(item["moving_lesion"], f), item["lesion"]) for f in (item["field"], 0 * item["field"])]
        assert lesions[0] > max(0.6, lesions[1])
        assert float(jacobian_determinant(item["field"])[:, None][item["mask"] > 0.5].min()) > 0


def test_forward_and_inverse_agree_on_the_grid_of_the_pair(
    subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are drawn on a coarser grid, where they agree: brought to the pair's, they are polished once more."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(forward: Tensor, inverse: Tensor, rounds: int) -> Tensor:
        polished = module_polish(forward, inverse, rounds)
        seen.append((forward, inverse, polished))
        return polished

    module_polish = module.polished_inverse
    monkeypatch.setattr(module, "polished_inverse", spy)
    pairs = dataset(subjects, replace(CLEAN, weights=(0.0, 1.0)))
    for index in range(3):
        mask = batched(pairs[index])["mask"]
        forward, rough, polished = seen[index]
        before, after = (
            float((compose(forward, inverse).square().sum(1, keepdim=True).sqrt() * mask).mean())
            for inverse in (rough, polished)
        )
        assert after < 0.3 * before


def test_mirroring_exchanges_left_and_right_of_the_whole_pair(subjects: list[Subject]) -> None:
    plain, mirrored = (dataset(subjects, replace(CLEAN, flip=flip))[2] for flip in (0.0, 1.0))
    for name in ("fixed", "moving", "mask", "moving_true", "lesion", "moving_lesion"):
        torch.testing.assert_close(mirrored[name], plain[name].flip(1))
    torch.testing.assert_close(mirrored["field"], plain["field"].flip(1) * torch.tensor([-1.0, 1, 1]).view(3, 1, 1, 1))
    assert torch.equal(mirrored["regime"], plain["regime"])


def test_half_resolution_is_the_full_one_halved(subjects: list[Subject]) -> None:
    """What T sees in training is what its first step makes of a full-resolution image."""
    full, half = (batched(dataset(subjects, replace(CLEAN, anatomy=STILL), s)[1]) for s in (1.0, 0.5))
    for name in ("moving_true", "fixed"):
        difference = (reduced(full[name], 2) - half[name])[reduced(full["mask"], 2) == 1].abs()
        assert float(difference.mean()) < 0.02
    torch.testing.assert_close(reduced(full["field"], 2) / 2, half["field"], atol=0.25, rtol=0)


STILL = replace(AUGMENTATION.anatomy, elastic=(0.0, 0.0), shift=0.0, rotation=(0.0, 0.0, 0.0), log_scale=0.0, shear=0.0)


def test_strong_degradation_spares_the_truth(subjects: list[Subject]) -> None:
    clean, harsh = (dataset(subjects, replace(CLEAN, degradation=d))[0] for d in (0.0, 1.0))
    assert torch.equal(clean["field"], harsh["field"])
    assert torch.equal(clean["moving_true"], harsh["moving_true"])
    assert not torch.equal(clean["moving"], harsh["moving"])


@pytest.mark.parametrize(("share", "synthetic"), [(0.0, False), (1.0, True)])
def test_the_share_of_synthetic_pairs(subjects: list[Subject], share: float, synthetic: bool) -> None:
    pairs = dataset(subjects, synthetic=share)
    drawn = [pairs._draw_subject(torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert {subject.synthetic for subject, _ in drawn} == {synthetic}
    assert all(len(set(names)) == 2 for _, names in drawn)


@pytest.mark.parametrize(("share", "kept"), [(0.0, True), (1.0, False)])
def test_what_there_is_none_of_is_replaced(subjects: list[Subject], share: float, kept: bool) -> None:
    pairs = dataset([s for s in subjects if s.synthetic is kept], synthetic=share)
    subject, _ = pairs._draw_subject(torch.Generator())
    assert subject.synthetic is kept


def test_contrasts_are_drawn_by_weight(subjects: list[Subject]) -> None:
    volumes = {**subjects[0].volumes, "flair": subjects[0].volumes["t1"]}
    pairs = dataset([replace(subjects[0], volumes=volumes)], contrasts={"t1": 1.0, "t2": 1.0, "flair": 1e-6})
    drawn = [set(pairs._draw_subject(torch.Generator().manual_seed(seed))[1]) for seed in range(12)]
    assert drawn == [{"t1", "t2"}] * 12


def test_regimes_are_drawn_by_weight(subjects: list[Subject]) -> None:
    for regime in (0, 1):
        pairs = dataset(subjects, replace(CLEAN, weights=tuple(float(r == regime) for r in (0, 1))))
        assert int(pairs[0]["regime"]) == regime
