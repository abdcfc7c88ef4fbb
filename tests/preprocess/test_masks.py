"""Masks and lesions: what they keep out, what a wrong one says, and that a lesion keeps its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPE, PairFiles, Phantom, make_phantom, write_nifti
from tiny import write_tiny_model
from torch import Tensor

import deformgan
from deformgan.align.placement import subsampled_pair
from deformgan.align.search import score_of
from deformgan.align.start import find_start
from deformgan.commands.main import main
from deformgan.errors import InputError
from deformgan.io.image import Image
from deformgan.models.load import Model, load_model
from deformgan.output.provenance import sha256
from deformgan.preprocess.conform import conform
from deformgan.preprocess.lesions import Lesions, harmonic, valid_mask
from deformgan.preprocess.scan import Scan
from deformgan.quality import assess
from deformgan.refine import RefineSettings, refine
from deformgan.spatial.field import affine_field, resize
from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import warp
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.deformation import DeformationConfig, sample_deformation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny"))


def image(data: np.ndarray, phantom: Phantom, name: str = "image") -> Image:
    return Image(data, Grid(data.shape, phantom.affine), name)


# -- what a mask says


def test_outside_a_mask_is_background(phantom: Phantom, rng: np.random.Generator) -> None:
    """A head in noisy air: with a brain mask it becomes what conform makes of the stripped brain."""
    brain = phantom.labels > 0
    air = rng.uniform(0, 0.02, SHAPE).astype(np.float32)
    head = np.where(brain, 100 + 100 * phantom.t1, 300 * air + 900 * shell(brain)).astype(np.float32)
    one, other = image(head, phantom), image(phantom.t2, phantom)
    kept = Scan.of(one).masked("fixed", other, image(brain.astype(np.uint8), phantom))
    assert kept.lesion is None
    np.testing.assert_array_equal(kept.image.data > 0, brain)
    cut = conform(kept.image, (32, 36, 28), 6.0)
    assert cut.zero_background
    assert not conform(one, (32, 36, 28), 6.0).zero_background
    stripped = conform(image(np.where(brain, head, 0).astype(np.float32), phantom), (32, 36, 28), 6.0)
    np.testing.assert_allclose(cut.grid.affine, stripped.grid.affine)
    np.testing.assert_array_equal(cut.mask, stripped.mask)


def test_a_brain_in_ct_keeps_its_contrast(phantom: Phantom, rng: np.random.Generator) -> None:
    """Air lies 1000 below a brain whose tissues differ by 30, and a mask's border has bone 1000 above it."""
    brain = phantom.labels > 0
    tissue = (30 * phantom.t1 + rng.normal(0, 3, SHAPE)).astype(np.float32)
    ct = np.where(brain, tissue, np.where(shell(brain), 1000, -1000)).astype(np.float32)
    bone = brain & (rng.random(SHAPE) < 0.02)
    ct[bone] = 1000
    mask, other = image(brain.astype(np.uint8), phantom), image(phantom.t2, phantom)
    cut = Scan.of(image(ct, phantom)).masked("fixed", other, mask)
    np.testing.assert_array_equal(cut.image.data > 0, brain)
    shown = brain & ~bone
    assert np.corrcoef(cut.image.data[shown], tissue[shown])[0, 1] > 0.97
    low, high = np.quantile(cut.image.data[shown], (0.05, 0.95))
    assert high - low > 0.4 * cut.image.data.max()


def test_a_brain_cut_out_of_ct_keeps_its_contrast(phantom: Phantom, rng: np.random.Generator) -> None:
    """Values that an unsigned file holds: 0 for what was cut off, soft tissue 1024 above air."""
    brain = phantom.labels > 0
    tissue = (1024 + 30 * phantom.t1 + rng.normal(0, 3, SHAPE)).astype(np.float32)
    scan = Scan.of(image(np.where(brain, tissue, 0).astype(np.float32), phantom))
    np.testing.assert_array_equal(scan.content.mask, brain)
    low, high = np.quantile(scan.image.data[brain], (0.05, 0.95)) - scan.content.background_value
    assert high - low > 0.4 * high
    assert np.corrcoef(scan.image.data[brain], tissue[brain])[0, 1] > 0.97


def test_few_values_that_differ_are_kept_in_a_mask(phantom: Phantom) -> None:
    brain = phantom.labels > 0
    flat = np.where(brain, 1000, 0).astype(np.float32)
    flat[tuple(np.argwhere(brain)[:5].T)] = 500
    one, other = image(flat, phantom), image(phantom.t2, phantom)
    cut = Scan.of(one).masked("fixed", other, image(brain.astype(np.uint8), phantom))
    np.testing.assert_array_equal(cut.image.data, flat)


def shell(brain: np.ndarray) -> np.ndarray:
    """A skull: two voxels around the brain, two voxels away."""
    near, far = (torch.from_numpy(brain).float()[None, None] for _ in range(2))
    near = torch.nn.functional.max_pool3d(near, 3, 1, 1)
    far = torch.nn.functional.max_pool3d(far, 7, 1, 3)
    return (far > near)[0, 0].numpy()


def test_a_hole_in_a_mask_is_a_lesion_and_a_speck_is_not(phantom: Phantom) -> None:
    one, other = image(phantom.t1, phantom), image(phantom.t2, phantom)
    tumour = phantom.labels == 100
    mask = ((phantom.labels > 0) & ~tumour).astype(np.uint8)
    mask[20, 12, 20] = 0  # 64 mm³
    got = Scan.of(one).masked("moving", other, image(mask, phantom))
    assert got.lesion is not None
    np.testing.assert_array_equal(got.lesion.data > 0, tumour)
    np.testing.assert_array_equal(got.image.data, phantom.t1)


def test_a_mask_of_nothing_but_one_value_is_refused(phantom: Phantom) -> None:
    one, other = (
        image((phantom.labels > 0) + (phantom.labels == 2).astype(np.float32), phantom),
        image(phantom.t2, phantom),
    )
    with pytest.raises(InputError, match="constant"):
        Scan.of(one).masked("fixed", other, image((phantom.labels == 2).astype(np.uint8), phantom))


def test_a_lesion_goes_with_the_image_through_a_map_to_start_from(phantom: Phantom) -> None:
    away = image((phantom.labels == 100).astype(np.uint8), phantom)
    moving = image(phantom.t1, phantom)
    shift = np.zeros((*SHAPE, 3), np.float32)
    shift[..., 0] = -8.0  # two voxels
    given = Transform(np.eye(4), shift, moving.grid)
    start = find_start(Scan.of(image(phantom.t2, phantom)), Scan.of(moving, away), "deform", init=given)
    assert start.moving.lesion is not None
    np.testing.assert_array_equal(start.moving.lesion.data, np.roll(away.data, 2, axis=0))
    np.testing.assert_array_equal(start.fixed_to_moving, np.eye(4))
    assert start.outer is given


# -- lesions on the working grid


def test_every_lesion_voxel_is_found_on_any_grid(phantom: Phantom) -> None:
    single = np.zeros(SHAPE, np.uint8)
    single[20, 22, 18] = 1
    one = image(single, phantom)
    coarse = Grid.centred((20, 22, 18), 8.0, one.grid.centre_mm)
    fine = Grid.centred((80, 88, 72), 2.0, one.grid.centre_mm)
    found = Lesions.on_grids(one, one, (coarse, fine))
    assert found.fixed is not None
    assert found.moving is not None
    assert found.fixed.sum() == 1
    assert found.moving.sum() == 8
    np.testing.assert_allclose(
        fine.to_world(torch.nonzero(found.moving[0, 0]).numpy()).mean(0), one.grid.to_world(np.array([20, 22, 18]))
    )


def test_nothing_counts_that_touches_a_lesion_with_a_difference() -> None:
    lesion = torch.zeros(1, 1, 16, 16, 16)
    lesion[..., 8, 8, 8] = 1
    left = valid_mask(lesion, (8, 8, 8))
    assert left[0, 0, 3:6, 3:6, 3:6].sum() == 0
    assert (left == 0).sum() == 27


def test_a_field_is_continued_harmonically() -> None:
    """An affine field comes back as it was; any other obeys the mean value property and the values around."""
    shape = (16, 18, 14)
    inside = torch.zeros(1, 1, *shape)
    inside[..., 5:9, 6:11, 4:8] = 1
    matrix = torch.tensor([[[1.1, 0.05, 0, -1], [0, 0.9, 0.1, 0.5], [0.02, 0, 1.05, 0.3]]])
    truth = affine_field(matrix, shape)
    corrupted = truth + 5 * inside
    back = Lesions(fixed=inside).fill_harmonic(corrupted)
    torch.testing.assert_close(back, truth, atol=2e-3, rtol=0)
    assert Lesions().fill_harmonic(corrupted) is corrupted
    values = np.random.default_rng(1).normal(size=(1, *shape))
    region = inside[0, 0].numpy() > 0
    out = harmonic(values, region)[0]
    around = np.mean([np.roll(out, s, a) for a in range(3) for s in (-1, 1)], axis=0)
    np.testing.assert_allclose(out[region], around[region], atol=1e-4)
    np.testing.assert_allclose(out[~region], values[0][~region], rtol=1e-6)


# -- that it helps


@dataclass(frozen=True)
class Tumour:
    """A brain without a tumour (fixed) and, deformed by a known field, in another contrast with one (moving)."""

    fixed: Tensor
    moving: Tensor
    outline: Tensor  # of the moving image
    truth: Tensor  # fixed to moving
    healthy: Tensor
    aligned: Tensor  # the outline as it should lie in the fixed image

    def volume(self, field: Tensor) -> float:
        """Of the outline carried by a field, relative to what it should be."""
        return float(warp(self.outline, resize(field, SHAPE)).sum() / self.aligned.sum())

    def error(self, field: Tensor, where: Tensor) -> float:
        return float(((resize(field, SHAPE) - self.truth).norm(dim=1, keepdim=True) * where).sum() / where.sum())


@pytest.fixture(scope="module")
def tumour() -> Tumour:
    """Where the tumour is the other image has a ball half as wide: a false match, in which the tumour would end."""
    generator = torch.Generator().manual_seed(5)
    brain = torch.from_numpy(make_phantom().labels > 0)[None, None].float()
    structure = (
        F.interpolate(
            torch.rand(1, 1, 10, 11, 9, generator=generator), size=SHAPE, mode="trilinear", align_corners=False
        )
        * 0.8
        + 0.2
    )
    middle = np.argwhere(make_phantom().labels == 100).mean(0)
    reach = torch.from_numpy(np.linalg.norm(np.indices(SHAPE) - middle[:, None, None, None], axis=0))[None, None]
    inner, outer = (reach < 3).float(), (reach < 6).float()
    config = DeformationConfig(3.0, (1.0, 1.5), (6.0, 8.0), 1.0, (2.0, 2.0, 3.0), 0.03, 0.01)
    known = sample_deformation(SHAPE, config, generator, brain)
    moving = warp(((1.2 - structure) * (1 - outer) + 0.05 * outer) * brain, known.inverse)
    outline = (warp(outer, known.inverse) > 0.5).float()
    fixed = (structure * (1 - inner) + inner) * brain
    return Tumour(fixed, moving, outline, known.forward, brain * (1 - outer), outer)


def test_a_lesion_keeps_its_size(tumour: Tumour) -> None:
    """Without its mask the tumour is pressed into the false match; with it, it changes as its surroundings do."""
    start, brain = torch.zeros(1, 3, *(n // 2 for n in SHAPE)), (tumour.fixed > 0).float()
    coarse = RefineSettings(levels=((4, 0.4), (2, 0.6)))
    plain = refine(tumour.fixed, tumour.moving, start, 60, mask=brain, settings=coarse)
    masked = refine(
        tumour.fixed, tumour.moving, start, 60, mask=brain, lesions=Lesions(moving=tumour.outline), settings=coarse
    )
    assert tumour.volume(plain) < 0.85
    assert abs(tumour.volume(masked) - 1) < 0.5 * abs(tumour.volume(plain) - 1)
    assert tumour.error(masked, tumour.healthy) < tumour.error(plain, tumour.healthy)
    # the same region, named in the image that has no tumour
    named = refine(
        tumour.fixed, tumour.moving, start, 60, mask=brain, lesions=Lesions(fixed=tumour.aligned), settings=coarse
    )
    assert abs(tumour.volume(named) - 1) < 0.5 * abs(tumour.volume(plain) - 1)
    assert tumour.error(named, tumour.healthy) < tumour.error(plain, tumour.healthy)


def test_what_a_lesion_shows_is_not_compared_by_the_affine_stage(phantom: Phantom) -> None:
    away = image((phantom.labels == 100).astype(np.uint8), phantom)
    spots = [np.where(away.data > 0, value, phantom.t1) for value in (0.1, 0.8)]

    def score(one: np.ndarray, other: np.ndarray, lesions: tuple[Image | None, Image | None]) -> float:
        scans = (Scan.of(image(data, phantom), lesion) for data, lesion in zip((one, other), lesions, strict=True))
        return score_of(np.eye(4), *subsampled_pair(*scans))

    first, second = (score(spot, phantom.t2, (away, None)) for spot in spots)
    assert first == pytest.approx(second, abs=1e-9)
    first, second = (score(phantom.t2, spot, (None, away)) for spot in spots)
    unmasked = [score(phantom.t2, spot, (None, None)) for spot in spots]
    assert abs(first - second) < 0.25 * abs(unmasked[0] - unmasked[1])


def test_what_a_lesion_shows_is_not_in_the_figures(phantom: Phantom) -> None:
    away = image((phantom.labels == 100).astype(np.uint8), phantom)
    grid = Grid(SHAPE, phantom.affine)
    other = conform(image(phantom.t1, phantom), grid=grid)

    def figures(value: float, fixed: Image | None, moving: Image | None) -> list[float | None]:
        one = conform(image(np.where(away.data > 0, value, phantom.t2).astype(np.float32), phantom), grid=grid)
        lesions = Lesions.on_grids(fixed, moving, (grid, grid))
        found = assess(one, other, torch.zeros(1, 3, 20, 22, 18), lesions=lesions)
        # overlaps are those of the whole content
        return [found.similarity_after, found.edge_agreement_after, found.foreground_dice]

    assert figures(0.3, None, None)[:2] != pytest.approx(figures(0.9, None, None)[:2], abs=1e-3)
    for lesions in ((away, None), (None, away)):
        assert figures(0.3, *lesions) == pytest.approx(figures(0.9, *lesions), abs=1e-6)
    assert figures(0.3, away, None)[2] == figures(0.3, None, None)[2]


# -- the whole way


def test_with_brain_masks_heads_are_registered_as_brains(phantom: Phantom, model: Model) -> None:
    brain = phantom.labels > 0
    there = np.roll(brain, 2, axis=0)
    bright = np.where(brain, 0.2 + phantom.t2, 0).astype(np.float32)
    other = np.where(there, 0.2 + np.roll(phantom.t1, 2, axis=0), 0).astype(np.float32)
    # the brain has slid in the skull of the moving image
    skulls = shell(brain), shell(np.roll(brain, -3, axis=1)) & ~there
    heads = image(bright + 2 * skulls[0], phantom), image(other + 2 * skulls[1], phantom)
    masks = image(brain.astype(np.uint8), phantom), image(there.astype(np.uint8), phantom)

    def displaced(one: Image, two: Image, **more: Any) -> np.ndarray:
        found = deformgan.register(one, two, model=model, refine_steps=12, **more)
        assert found.moved.data.max() > 1.5 or not more, "the head itself is moved, skull and all"
        return found.transform.displacement(one.grid)[brain]

    stripped = displaced(image(bright, phantom), image(other, phantom))
    masked = displaced(*heads, fixed_mask=masks[0], moving_mask=masks[1])
    plain = displaced(*heads)
    assert np.linalg.norm(masked - stripped, axis=1).mean() < 0.2
    assert np.linalg.norm(plain - stripped, axis=1).mean() > 2


def test_the_record_names_the_masks(pair_files: PairFiles, phantom: Phantom, model: Model, tmp_path: Path) -> None:
    tumour = write_nifti(tmp_path / "tumour.nii.gz", (phantom.labels == 100).astype(np.uint8), phantom.affine)
    brain = write_nifti(tmp_path / "brain.nii.gz", (phantom.labels > 0).astype(np.uint8), phantom.affine)
    found = deformgan.register(
        pair_files.fixed, pair_files.moving, fixed_mask=brain, fixed_lesion=tumour, model=model, refine_steps=0
    )
    inputs = found.provenance["inputs"]
    assert set(inputs) == {"fixed", "moving", "fixed_mask", "fixed_lesion"}
    assert inputs["fixed_lesion"] == {"path": str(tumour), "sha256": sha256(tumour)}


# -- wrong ones


def moved_header(p: Phantom) -> np.ndarray:
    affine = p.affine.copy()
    affine[:3, 3] += 3.0
    return affine


TUMOUR, BRAIN = "--moving-lesion", "--fixed-mask"
WRONG = {
    "missing": (BRAIN, lambda p: None, "does not exist"),
    "empty": (BRAIN, lambda p: (np.zeros(SHAPE, np.uint8), p.affine), "is empty"),
    "empty lesion": (TUMOUR, lambda p: (np.zeros(SHAPE, np.uint8), p.affine), "is empty"),
    "nan": (BRAIN, lambda p: (np.where(p.labels > 0, np.nan, 0).astype(np.float32), p.affine), "NaN"),
    "small fractions": (BRAIN, lambda p: (p.t2 / 3, p.affine), "is empty"),
    "another shape": (BRAIN, lambda p: ((p.labels > 0)[:-1].astype(np.uint8), p.affine), "its shape is"),
    "elsewhere": (BRAIN, lambda p: ((p.labels > 0).astype(np.uint8), moved_header(p)), "5.2 mm apart"),
    "4-D": (BRAIN, lambda p: (np.stack([p.labels] * 2, -1), p.affine), "4-D"),
    "off the content": (BRAIN, lambda p: ((p.labels == 0).astype(np.uint8), p.affine), "does not meet"),
    "lesion off the content": (TUMOUR, lambda p: (corner(), p.affine), "does not meet"),
    "a lesion as mask": (BRAIN, lambda p: ((p.labels == 100).astype(np.uint8), p.affine), "give it as --fixed-lesion"),
    "a mask as lesion": (TUMOUR, lambda p: ((p.labels != 100).astype(np.uint8), p.affine), "give it as --moving-mask"),
}


def corner() -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    data[:2, :2, :2] = 1
    return data


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mask_is_refused(
    case: str, pair_files: PairFiles, phantom: Phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, make, cause = WRONG[case]
    path = tmp_path / "mask.nii.gz"
    if (made := make(phantom)) is not None:
        write_nifti(path, *made)
    check_refused(pair_files, tmp_path, capsys, [option, str(path)], cause)


def test_a_mask_of_the_other_image_is_refused(
    pair_files: PairFiles, phantom: Phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the images have grids of their own."""
    write_nifti(pair_files.moving, np.roll(phantom.t1, 2, axis=0)[:-1], phantom.affine)
    path = write_nifti(tmp_path / "mask.nii.gz", (phantom.labels > 0).astype(np.uint8), phantom.affine)
    check_refused(pair_files, tmp_path, capsys, ["--moving-mask", str(path)], "give it as --fixed-mask")


def check_refused(
    pair: PairFiles, folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], cause: str
) -> None:
    out = folder / "out"
    where = ["-f", str(pair.fixed), "-m", str(pair.moving), "-o", str(out)]
    assert main(["register", *where, "--threads", "1", *words]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"deformgan: error: {words[0]}")
    assert said.err.count("\n") == 1
    assert cause in said.err
    assert " — " in said.err
    assert not out.exists()
