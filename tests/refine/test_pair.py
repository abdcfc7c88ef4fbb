"""The kind of a pair is found from it, and a field that does harm is not a start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deformgan.refine.pair as pair_module
from deformgan.preprocess.lesions import NO_LESIONS
from deformgan.refine import refine_pair
from deformgan.refine.pair import consistent
from deformgan.refine.view import View
from deformgan.spatial.field import identity_positions, invert
from deformgan.spatial.warp import box_maximum, warp

SHAPE = (48, 48, 48)


def anatomy(seed: int) -> Tensor:
    """Detail of some voxels' size inside a ball, (1, 1, D, H, W)."""
    noise = torch.rand(1, 1, 14, 14, 14, generator=torch.Generator().manual_seed(seed))
    image = F.interpolate(noise, size=SHAPE, mode="trilinear", align_corners=False)
    middle = (identity_positions(SHAPE) - 23.5).norm(dim=1, keepdim=True)
    return (0.2 + 0.8 * image) * (middle < 20)


def bumps(height: float, size: int, seed: int) -> Tensor:
    noise = torch.rand(1, 3, size, size, size, generator=torch.Generator().manual_seed(seed)) - 0.5
    return height * F.interpolate(noise, size=SHAPE, mode="trilinear", align_corners=True)


def pair(field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    image = anatomy(1)
    moving = warp((1.2 - image) * (image > 0), invert(field)[0])
    return image, moving, (image > 0).float()


def mean_error(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    found = F.interpolate(found, size=SHAPE, mode="trilinear") * (SHAPE[0] / found.shape[2])
    return float(((found - truth).norm(dim=1)[:, None] * mask).sum() / mask.sum())


def test_a_smooth_deformation_is_one_person() -> None:
    truth = bumps(4.0, 3, 2)
    fixed, moving, mask = pair(truth)
    found = refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask)
    assert found.subject == "same"
    assert mean_error(found.field, truth, mask) < 0.35 * mean_error(0 * truth, truth, mask)


def test_fine_differences_are_two_people() -> None:
    """What a stiff field cannot follow and a fluid one can."""
    truth = bumps(5.0, 9, 3)
    fixed, moving, mask = pair(truth)
    found = refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask)
    assert found.subject == "other"
    stiff = refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask, subject="same")
    assert mean_error(found.field, truth, mask) < mean_error(stiff.field, truth, mask)


def sides_of(moving: Tensor, fixed: Tensor, mask: Tensor):
    zeros = torch.zeros(1, 3, 24, 24, 24)
    return refine_pair(fixed, moving, zeros, mask=mask, mirrored=lambda: zeros)


def test_one_person_whom_a_fluid_field_fits_better_is_told_by_the_mirror_image() -> None:
    fixed, moving, mask = pair(bumps(5.0, 9, 3))
    found = sides_of(moving, fixed, mask)
    assert found.subject == "same"
    assert found.sides is not None
    assert found.sides[1] < 0.8 * found.sides[0]


def test_in_noise_one_person_is_told_by_the_mirror_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise matches either way alike, and weighs less at half resolution."""
    monkeypatch.setattr("deformgan.refine.view.View.gain", lambda *_: 1.0)
    fixed, moving, mask = pair(bumps(3.0, 4, 3))
    generator = torch.Generator().manual_seed(9)
    noisy = [(one + 0.1 * torch.randn(one.shape, generator=generator) * mask).clamp(0, 1) for one in (fixed, moving)]
    found = sides_of(noisy[1], noisy[0], mask)
    assert found.subject == "same"
    assert found.sides is not None
    assert found.sides[1] < 0.94 * found.sides[0]


def test_a_clear_answer_is_taken_before_the_last_level(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    fixed, mask = anatomy(1), (anatomy(1) > 0).float()
    zeros = torch.zeros(1, 3, 24, 24, 24)
    given = {"mask": mask, "mirrored": lambda: zeros, "steps": 50, "progress": lambda step, _: done.append(step)}
    for gain, last in ((1.0, 30), (0.06, 50)):
        monkeypatch.setattr("deformgan.refine.view.View.gain", lambda *_, gain=gain: gain)
        done.clear()
        found = refine_pair(fixed, (1.2 - anatomy(8)) * mask, zeros, **given)
        assert found.subject == "other"
        assert found.sides is not None
        assert done.index(last) + 1 < len(done)
        assert done[done.index(last) + 1] == 1  # the fluid's first


def test_a_mirrored_person_matches_better_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deformgan.refine.view.View.gain", lambda *_: 1.0)
    fixed, moving, mask = pair(bumps(3.0, 5, 3))
    found = sides_of(moving.flip(2), fixed, mask)
    assert found.sides is not None
    assert found.sides[1] > 1.1 * found.sides[0]


def test_a_stranger_matches_either_way_alike() -> None:
    fixed, mask = anatomy(1), (anatomy(1) > 0).float()
    found = sides_of((1.2 - anatomy(8)) * mask, fixed, mask)
    assert found.subject == "other"
    assert found.sides is not None
    assert 0.9 < found.sides[1] / found.sides[0] < 1.1


@pytest.mark.parametrize("subject", ["same", "other"])
def test_a_hint_is_obeyed(subject: str) -> None:
    fixed, moving, mask = pair(bumps(2.0, 4, 4))
    assert (
        refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask, subject=subject, steps=3).subject
        == subject
    )


def test_a_prediction_that_does_harm_is_no_start() -> None:
    """The images agree already; T would move them apart."""
    fixed = anatomy(1)
    mask = (fixed > 0).float()
    wrong = torch.full((1, 3, 24, 24, 24), 1.5)
    found = refine_pair(fixed, fixed, wrong, mask=mask, steps=6)
    assert mean_error(found.field, torch.zeros(1, 3, *SHAPE), mask) < 0.2
    unrefined = refine_pair(fixed, fixed, wrong, mask=mask, steps=0)
    assert unrefined.field is wrong


def test_identical_images_stay_identical() -> None:
    fixed = anatomy(1)
    found = refine_pair(fixed, fixed, bumps(1.0, 4, 5), mask=(fixed > 0).float())
    assert found.subject == "same"
    assert float(found.field.abs().max()) == 0


def test_an_aligned_pair_of_other_contrast_hardly_moves() -> None:
    fixed, mask = anatomy(1), (anatomy(1) > 0).float()
    noise = 0.02 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(6))
    moving = ((1.2 - fixed + noise) * mask).clamp(0, 1)
    found = refine_pair(fixed, moving, bumps(1.0, 4, 5), mask=mask)
    assert mean_error(found.field, torch.zeros(1, 3, *SHAPE), mask) < 0.1


def test_a_small_motion_is_still_found() -> None:
    truth = bumps(2.0, 3, 7)
    fixed, moving, mask = pair(truth)
    found = refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask)
    assert mean_error(found.field, truth, mask) < 0.6 * mean_error(0 * truth, truth, mask)


def test_what_moves_far_against_the_intensities_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges without a partner may draw one image far across the other; here the first field found is such a one."""
    fixed, mask = anatomy(1), (anatomy(1) > 0).float()
    moving = (1.2 - fixed) * mask
    wrong = bumps(16.0, 5, 8)
    first, by_edges = [wrong[:, :, ::2, ::2, ::2] / 2], pair_module._by_edges
    monkeypatch.setattr(pair_module, "_by_edges", lambda *given: first.pop() if first else by_edges(*given))
    assert mean_error(0 * wrong, wrong, mask) > pair_module._LITTLE
    none = torch.zeros(1, 3, 24, 24, 24)
    assert mean_error(refine_pair(fixed, moving, none, mask=mask, subject="same").field, 0 * wrong, mask) < 0.1


def test_a_bright_rim_in_the_mask_does_not_speak_for_doing_nothing() -> None:
    """What lies two voxels within and more decides where it speaks clearly: for the true field, not for a wrong one."""
    image, mask = anatomy(1), (anatomy(1) > 0).float()
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 2] = 1.2
    rim = mask * box_maximum(1 - mask, 2)
    moved = warp(1.2 - image, -shift)
    bright = rim * torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(3))
    view = View(image * (1 - rim) + bright, moved * mask * (1 - rim) + bright, mask, NO_LESIONS)
    assert view.information(shift) < view.information(0 * shift)
    assert view.agrees_better(shift, 0 * shift)
    assert not view.agrees_better(-shift, 0 * shift)
    assert not view.agrees_better(0 * shift, 0 * shift)


def test_what_only_one_direction_finds_is_taken_back() -> None:
    """Shifts of which 3 of 5 parts of the squared length are common, in closed form."""

    def shift(*voxels: float) -> Tensor:
        return torch.tensor(voxels).view(1, 3, 1, 1, 1).expand(1, 3, 6, 6, 6)

    mask = torch.ones(1, 1, 12, 12, 12)
    found = consistent(shift(2, 1, 0), shift(-2, 1, 0), mask)
    torch.testing.assert_close(found, shift(1.2, 0, 0) + 0 * found)
    torch.testing.assert_close(consistent(shift(0, 2, 1), shift(0, -2, -1), mask), shift(0, 2, 1) + 0 * found)
    assert float(consistent(shift(1, 0, 2), shift(1, 0, 2), mask).abs().max()) == 0
    assert float(consistent(shift(0, 0, 0), shift(0, 0, 0), mask).abs().max()) == 0


def test_edges_without_a_partner_move_little() -> None:
    """Each image has structures of its own beside the common ones."""
    common, mask = anatomy(1), (anatomy(1) > 0).float()
    fixed, moving = ((0.6 * common + 0.4 * anatomy(seed)) * mask for seed in (2, 3))
    moving = (1.2 - moving) * mask
    found = refine_pair(fixed, moving, torch.zeros(1, 3, 24, 24, 24), mask=mask, subject="same")
    assert mean_error(found.field, torch.zeros(1, 3, *SHAPE), mask) < 0.045  # 0.054 in one direction
