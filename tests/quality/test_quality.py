"""The verdict: what passes, what does not, and numbers with a known value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Phantom

from deformgan.align.start import find_start
from deformgan.io.image import load_image
from deformgan.losses.joint_histogram import normalised_mutual_information
from deformgan.preprocess.conform import Conformed, conform_pair
from deformgan.preprocess.scan import Scan
from deformgan.quality import assess, inverse_residual
from deformgan.quality.measures import covered
from deformgan.spatial.field import affine_field
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform


def conformed(data: np.ndarray, centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Conformed:
    tensor = torch.from_numpy(data)[None, None]
    return Conformed(tensor, Grid.centred(data.shape, 2.0, np.array(centre_mm)), (tensor > 0).float())


def translation(shape: tuple[int, ...], voxels: tuple[float, float, float]) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[:3, 3] = torch.tensor(voxels)
    return affine_field(matrix[None], shape)


def test_similarity_has_its_known_values(generator: torch.Generator) -> None:
    image = torch.rand(20, 20, 20, generator=generator)
    other = torch.rand(20, 20, 20, generator=generator)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    levels = (image * 5).floor() / 5  # few levels: no bias from sparse bins
    assert normalised_mutual_information(levels, 1 - levels, everywhere) == pytest.approx(1)
    assert normalised_mutual_information(levels, (other * 5).floor() / 5, everywhere) < 0.01
    assert normalised_mutual_information(levels, torch.zeros_like(levels), everywhere) == 0


def test_only_the_mask_counts() -> None:
    image = torch.linspace(0, 1, 1000).view(10, 10, 10)
    other = image.clone()
    other[5:] = 0.5
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[:5] = True
    assert normalised_mutual_information(image, other, mask) == pytest.approx(1)


def test_a_shift_undone_passes_and_is_measured(phantom: Phantom) -> None:
    fixed = conformed(phantom.t2)
    moving = conformed(np.roll(phantom.t1, 2, axis=0))
    good = assess(fixed, moving, translation(phantom.t1.shape, (2, 0, 0)))
    assert good.passed
    assert good.similarity_after > good.similarity_before + 0.1
    assert good.displacement_mean_mm == pytest.approx(4.0)
    assert good.displacement_max_mm == pytest.approx(4.0)
    assert good.folding_percent == 0
    assert (good.jacobian_min, good.jacobian_max) == pytest.approx((1, 1))


def test_a_poor_inverse_fails(phantom: Phantom) -> None:
    good = assess(conformed(phantom.t2), conformed(phantom.t1), translation(phantom.t1.shape, (0, 0, 0)))
    assert good.with_inverse(0.2).passed
    bad = good.with_inverse(3.5)
    assert not bad.passed
    assert "inverse is off by 3.5 mm" in bad.reasons[0]
    grid = Grid.centred((6, 6, 6), 2.0, np.zeros(3))
    shift = np.eye(4)
    shift[0, 3] = 3
    assert inverse_residual(Transform(shift), Transform.identity(), np.ones((6, 6, 6)), grid) == pytest.approx(3)


def test_of_nothing_the_inverse_is_right() -> None:
    grid = Grid.centred((6, 6, 6), 2.0, np.zeros(3))
    assert inverse_residual(Transform.identity(), Transform.identity(), np.zeros((6, 6, 6)), grid) == 0


def test_both_images_have_data_where_the_moving_one_has_it_through_the_field() -> None:
    shape = (8, 6, 5)
    fixed, moving = torch.ones(1, 1, *shape), torch.ones(1, 1, *shape)
    fixed[..., :2] = 0
    moving[:, :, 6:] = 0
    found = covered(fixed, moving, translation(shape, (2, 0, 0)))
    expected = torch.zeros(shape, dtype=torch.bool)
    expected[:4, :, 2:] = True  # what comes from voxels 2 to 5
    assert torch.equal(found, expected)
    assert torch.equal(covered(None, None, translation(shape, (2, 0, 0))), torch.ones(shape, dtype=torch.bool))


def test_before_means_as_the_headers_have_it(phantom: Phantom) -> None:
    # the working grids differ by the shift of the content, so the start is aligned and the headers are not
    fixed = conformed(phantom.t2)
    moving = conformed(phantom.t1, centre_mm=(8.0, 0.0, 0.0))
    start = assess(fixed, moving, translation(phantom.t1.shape, (0, 0, 0)))
    assert start.similarity_after > start.similarity_before + 0.1
    shifted = assess(fixed, moving, translation(phantom.t1.shape, (-4, 0, 0)))
    assert shifted.similarity_after == pytest.approx(start.similarity_before, abs=1e-6)


def test_a_worse_agreement_fails(phantom: Phantom) -> None:
    pair = conformed(phantom.t2), conformed(phantom.t1)
    bad = assess(*pair, translation(phantom.t1.shape, (5, 0, 0)))
    assert not bad.passed
    assert "agree less" in bad.reasons[0]


def test_folding_fails(phantom: Phantom) -> None:
    field = translation(phantom.t1.shape, (0, 0, 0))
    field[:, 0, 18:22] += torch.tensor([3.0, 1.0, -1.0, -3.0]).view(1, 4, 1, 1)
    bad = assess(conformed(phantom.t2), conformed(phantom.t1), field)
    assert bad.folding_percent > 1
    assert bad.jacobian_min < 0
    assert any("folds" in reason for reason in bad.reasons)


def test_a_field_that_is_not_finite_fails_and_is_still_json(phantom: Phantom) -> None:
    field = translation(phantom.t1.shape, (0, 0, 0))
    field[0, 1, 3, 3, 3] = float("nan")
    bad = assess(conformed(phantom.t2), conformed(phantom.t1), field)
    assert not bad.passed
    record = json.loads(json.dumps(bad.as_dict(), allow_nan=False))
    assert record["passed"] is False
    assert record["folding_percent"] is None


def test_a_field_on_a_coarser_grid_is_judged_alike(phantom: Phantom) -> None:
    fixed, moving = conformed(phantom.t2), conformed(np.roll(phantom.t1, 2, axis=0))
    full = assess(fixed, moving, translation((40, 44, 36), (2, 0, 0)))
    half = assess(fixed, moving, translation((20, 22, 18), (1, 0, 0)))
    assert half.displacement_mean_mm == pytest.approx(full.displacement_mean_mm)
    assert (half.jacobian_min, half.jacobian_max) == pytest.approx((1, 1))
    assert half.similarity_after > half.similarity_before + 0.1


def test_a_shell_too_thin_for_a_coarse_grid_is_judged() -> None:
    away = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(32) - 15.7] * 3, indexing="ij")), axis=0)
    shell = np.where(abs(away - 11) < 0.3, 1.0, 0.0).astype(np.float32)
    quality = assess(conformed(shell), conformed(shell), torch.zeros(1, 3, 8, 8, 8))
    assert quality.foreground_dice == 1
    json.dumps(quality.as_dict(), allow_nan=False)


def test_a_nearly_zero_field_changes_nothing(rng: np.random.Generator) -> None:
    """Averaged masks take exactly 1/2 along a flat object's border: half a thousandth of a voxel must not decide."""
    block = np.zeros((40, 40, 40), np.float32)
    inner = (slice(9, 31),) * 3  # odd, so that coarse voxels are half foreground
    block[inner] = 0.3 + 0.4 * rng.random((22, 22, 22), np.float32)
    other = np.where(block > 0, 1 - block, 0).astype(np.float32)
    pair = conformed(block), conformed(other)
    zero, tiny = (assess(*pair, torch.full((1, 3, 20, 20, 20), step)) for step in (0.0, 5e-4))
    assert zero.passed
    assert tiny.passed
    assert zero.similarity_after == pytest.approx(zero.similarity_before, abs=1e-6)
    assert tiny.similarity_after == pytest.approx(zero.similarity_after, rel=0.01)


@pytest.mark.parametrize("patient", ["BraTS2021_01484", "openms_cs19", "stroke_mit"])
def test_patients_that_were_aligned_pass_as_they_are(shared_data: Path, patient: str) -> None:
    fixed, moving = (load_image(shared_data / patient / f"{contrast}.nii.gz") for contrast in ("t2", "t1"))
    scans = Scan.of(fixed), Scan.of(moving)
    start = find_start(*scans, "deform")
    np.testing.assert_array_equal(start.fixed_to_moving, np.eye(4), "the headers are right and were kept")
    conformed = conform_pair(*scans, start.fixed_to_moving)
    pair = conformed.fixed, conformed.moving
    assert assess(*pair, torch.full((1, 3, 56, 64, 48), 5e-4)).passed
    assert not assess(*pair, translation((56, 64, 48), (1.0, 0, 0))).passed
