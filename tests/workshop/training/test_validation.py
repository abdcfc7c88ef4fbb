"""A validation pass: what it reports about a T whose fields are known, its pictures, and how T is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from small_training import PYRAMID, UNET
from torch import Tensor, nn

from deformgan.networks import build
from deformgan.networks.base import TransformationNetwork, reduced
from deformgan.spatial.field import resize
from deformgan.workshop.training.predict import Staged, stage_fields
from deformgan.workshop.training.samples import save_samples
from deformgan.workshop.training.validation import validate

SHAPE = (16, 16, 16)
REGIMES = ["small", "large"]


class Oracle(TransformationNetwork):
    """A T that answers with one field per pair, in turn; in training mode it would answer nonsense."""

    def __init__(self, fields: list[Tensor]) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(()))
        self.fields, self.asked = fields, 0

    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        self.asked += 1
        return [self.fields[(self.asked - 1) % len(self.fields)] * (100 if self.training else 1)]


def pair(regime: int, shift: float, lesion: bool = True) -> dict[str, Tensor]:
    """A bright block and, ``shift`` voxels further along the first axis, the same block as moving image."""
    true = torch.zeros(1, *SHAPE)
    true[:, 4:10, 4:12, 4:12] = 1.0
    moving = true.roll(round(shift), 1)
    field = torch.zeros(3, *SHAPE)
    field[0] = shift
    outline = true if lesion else torch.zeros_like(true)
    return {
        "fixed": 1 - true,
        "moving": moving,
        "moving_true": true,
        "field": field,
        "mask": torch.ones_like(true),
        "regime": torch.tensor(regime),
        "lesion": outline,
        "moving_lesion": outline.roll(round(shift), 1),
    }


def truth(pairs: list[dict[str, Tensor]]) -> list[Tensor]:
    return [p["field"][None] for p in pairs]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_perfect_t_has_no_error(scale: float) -> None:
    pairs = [pair(0, 1.0), pair(1, 3.0)]
    found = validate(Oracle(truth(pairs)), pairs, REGIMES, scale, bf16=False)
    assert found == pytest.approx(
        {
            "initial": 2.0 / scale,
            "error": 0.0,
            "error_small": 0.0,
            "error_large": 0.0,
            "rmse": 0.0,
            "dice": 1.0,
            "folding": 0.0,
        }
    )


def test_each_regime_has_its_error_in_voxels_of_the_working_grid() -> None:
    pairs = [pair(0, 1.0), pair(1, 3.0), pair(1, 4.0)]
    found = validate(Oracle([torch.zeros(1, 3, *SHAPE)]), pairs, REGIMES, 0.5, bf16=False)
    assert found["error_small"] == pytest.approx(2.0)
    assert found["error_large"] == pytest.approx(7.0)
    assert found["error"] == found["initial"] == pytest.approx(16 / 3)
    # 6 layers each; 1, 3 and 4 of them are beside the others
    assert found["dice"] == pytest.approx((10 / 12 + 6 / 12 + 4 / 12) / 3)
    wrong = [2 * layers * 64 / 16**3 for layers in (1, 3, 4)]
    assert found["rmse"] == pytest.approx(sum(100 * share**0.5 for share in wrong) / 3)


def test_a_coarse_field_is_brought_to_the_grid_of_the_pair() -> None:
    pairs = [pair(0, 2.0)]
    coarse = resize(truth(pairs)[0], (8, 8, 8))
    assert validate(Oracle([coarse]), pairs, REGIMES, 1.0, bf16=False)["error"] == pytest.approx(0, abs=1e-5)


def test_folding_is_reported() -> None:
    mirror = torch.zeros(1, 3, *SHAPE)
    mirror[:, 0] = -2 * torch.arange(16.0).view(16, 1, 1)
    assert validate(Oracle([mirror]), [pair(0, 1.0)], REGIMES, 1.0, bf16=False)["folding"] == 100


def test_pairs_without_a_lesion_do_not_count_for_dice() -> None:
    pairs = [pair(0, 1.0), pair(0, 1.0, lesion=False)]
    assert validate(Oracle(truth(pairs)), pairs, REGIMES, 1.0, bf16=False)["dice"] == 1.0
    assert "dice" not in validate(Oracle(truth(pairs[1:])), pairs[1:], REGIMES, 1.0, bf16=False)


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_is_given_back(training: bool, tmp_path: Path) -> None:
    pairs = [pair(0, 1.0)]
    oracle = Oracle(truth(pairs)).train(training)
    assert validate(oracle, pairs, REGIMES, 1.0, bf16=False)["error"] == 0
    assert oracle.training is training
    save_samples(tmp_path / "s.png", oracle, pairs, 1.0)
    assert oracle.training is training


@pytest.mark.parametrize("network", [PYRAMID, UNET], ids=["pyramid", "unet"])
def test_bf16_validates_about_the_same(network: dict) -> None:
    torch.manual_seed(0)
    made = build(network)
    pairs = [pair(0, 1.0)]
    full, rounded = (validate(made, pairs, REGIMES, 0.5, bf16=bf16) for bf16 in (False, True))
    assert full.keys() == rounded.keys()
    assert rounded["error"] == pytest.approx(full["error"], abs=0.05)


def test_training_goes_on_after_a_validation_pass() -> None:
    """Nothing made in inference mode is kept for the steps that follow."""
    torch.manual_seed(0)
    made = build(PYRAMID)
    item = {name: value[None] for name, value in pair(0, 1.0).items()}
    validate(made, [pair(0, 1.0)], REGIMES, 0.5, bf16=False)
    stage_fields(made, item["fixed"], item["moving"], 0.5)[-1].square().mean().backward()
    assert all(p.grad is not None for p in made.stage.parameters())  # type: ignore[union-attr]


def test_samples_are_a_picture_with_a_row_for_each_pair(tmp_path: Path) -> None:
    pairs = [pair(0, 1.0), pair(1, 3.0)]
    heights = []
    for n in (1, 2):
        path = tmp_path / "new" / f"{n}.png"
        save_samples(path, Oracle(truth(pairs)), pairs[:n], 0.5)
        image = imread(path)
        assert image[..., :3].max() > 0.9
        assert image[..., :3].std() > 0.05
        heights.append(image.shape[0])
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)


def test_a_pyramid_halves_full_images_and_gives_all_stages() -> None:
    torch.manual_seed(0)
    made = build(PYRAMID).eval()
    fixed, moving = torch.rand(2, 1, 1, 32, 32, 32)
    with torch.no_grad():
        full = stage_fields(made, fixed, moving, 1.0)
        half = stage_fields(made, reduced(fixed, 2), reduced(moving, 2), 0.5)
    assert len(full) == 3
    assert all(torch.equal(a, b) for a, b in zip(full, half, strict=True))


def test_other_networks_take_images_as_they_are() -> None:
    made = build(UNET)
    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    (field,) = stage_fields(made, fixed, moving, 0.5)
    assert field.shape == (1, 3, *SHAPE)


def test_a_wrapped_network_gives_every_stage() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any) -> list[Tensor]:
            return self.module(*args)

    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    assert len(stage_fields(Wrapper(Staged(build(PYRAMID))), fixed, moving, 0.5)) == 3
