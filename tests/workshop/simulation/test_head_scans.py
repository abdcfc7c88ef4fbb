"""Scans to teach S with: the truth that goes with them, and that chance is all in the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deformgan.workshop.simulation.contrasts import depth
from deformgan.workshop.simulation.head_scans import LabelMap, Scan, ScanConfig, _matrix, draw_scan, shares
from deformgan.workshop.simulation.structures import STRUCTURES

STILL = ScanConfig(
    (32, 40, 24), 1.0, rotation=0, log_scale=0, shear=0, shift=0, elastic=(), elastic_every=(), stripped=0, cropped=0
)
LEFT, RIGHT = (STRUCTURES.index(f"{side} white matter") for side in ("left", "right"))
FRONT = STRUCTURES.index("brainstem")


@pytest.fixture
def head() -> LabelMap:
    """Scalp around a brain of two halves, the left one smaller, with a block of "brainstem" in front, at 1 mm."""
    ids = np.zeros((32, 40, 24), np.int32)
    ids[2:30, 2:38, 2:22] = 511
    ids[10:16, 8:32, 6:18], ids[16:26, 8:32, 6:18] = 2, 41
    ids[12:20, 28:32, 6:14] = 16
    listed, index = np.unique(ids, return_inverse=True)
    inside = (ids > 0) & (ids < 500)
    distance = (depth(~inside) - depth(inside)).clip(-12, 12).astype(np.int8)
    parts = (index.reshape(ids.shape).astype(np.uint8), listed, distance, np.array([15.5, 19.5, 11.5], np.float32))
    return LabelMap(*(torch.from_numpy(part) for part in parts))


def scan(head: LabelMap, seed: int = 0, config: ScanConfig = STILL, **fixed: object) -> Scan:
    return draw_scan(head, torch.Generator().manual_seed(seed), config, **fixed)  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same_scan(head: LabelMap) -> None:
    one, again, other = (scan(head, seed, ScanConfig((32, 32, 32))) for seed in (3, 3, 4))
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.structures, again.structures)
    assert not torch.equal(one.image, other.image)


def test_without_deformation_the_truth_is_the_label_map(head: LabelMap) -> None:
    mirrored = 0
    for seed in range(12):
        found = scan(head, seed)
        brain = head.distance < 0
        share = found.structures[0, LEFT].sum() / found.structures[0, [LEFT, RIGHT]].sum()
        if share > 0.5:  # the smaller half of this head is its left one
            mirrored += 1
            brain = brain.flip(0)
        assert torch.equal(found.mask[0, 0] > 0, brain)
    assert 0 < mirrored < 12


def test_a_voxel_of_a_head_made_finer_holds_several_tissues(head: LabelMap) -> None:
    """On the label map's own voxels, averaged over 2³: the brain's share, and the structures' over 4³."""
    config = replace(STILL, shape=(16, 20, 12), spacing=2.0, finer=2)
    brain = (head.distance < 0).float()
    brains = [F.avg_pool3d(one[None, None], 2) for one in (brain, brain.flip(0))]
    mixed = 0
    for seed in range(6):
        found = scan(head, seed, config)
        assert found.image.shape == found.mask.shape == (1, 1, 16, 20, 12)
        assert any(torch.equal(found.mask, one) for one in brains)
        mixed += int(((found.mask > 0) & (found.mask < 1)).sum())
        of_four = F.avg_pool3d(found.mask, 2)
        torch.testing.assert_close(found.structures[:, 2:].sum(1, keepdim=True), of_four, atol=1e-6, rtol=0)
    assert mixed == 0, "this head's borders lie between voxels"
    odd = replace(head, centre=head.centre + torch.tensor([1.0, 0.0, 0.0]))
    assert ((scan(odd, 0, config).mask % 1) > 0).any(), "and moved by one of the map's voxels they do not"


def test_left_is_left_in_every_scan(head: LabelMap) -> None:
    at = torch.arange(16.0)
    for seed in range(6):
        found = scan(head, seed).structures[0]
        left, right = ((found[k].sum((1, 2)) * at).sum() / found[k].sum() for k in (LEFT, RIGHT))
        assert left < right


def test_the_axes_run_to_the_right_to_anterior_and_to_superior(head: LabelMap) -> None:
    front = scan(head).structures[0, FRONT]
    assert float((front.sum((0, 2)) * torch.arange(20.0)).sum() / front.sum()) == pytest.approx(14.5)
    assert float((front.sum((0, 1)) * torch.arange(12.0)).sum() / front.sum()) == pytest.approx(4.5)


def test_shares_of_blocks_add_up_and_are_means_of_one_hot(head: LabelMap) -> None:
    structure = torch.randint(5, (6, 4, 8), generator=torch.Generator().manual_seed(1))
    expected = F.avg_pool3d(F.one_hot(structure, 5).movedim(-1, 0)[None].float(), 2)
    torch.testing.assert_close(shares(structure, 5), expected)
    torch.testing.assert_close(scan(head, config=ScanConfig((32, 32, 32))).structures.sum(1), torch.ones(1, 16, 16, 16))


def test_stripped_scans_show_nothing_far_from_the_brain(head: LabelMap) -> None:
    for seed in range(4):
        found = scan(head, seed, stripped=True)
        shown = found.image[0, 0] > 0
        far = head.distance > 7
        far &= far.flip(0)
        assert bool(shown.any())
        assert not bool((shown & far).any())
        assert not bool((found.mask[0, 0].bool() & ~shown).float().mean() > 0.01)
        whole = scan(head, seed, stripped=False)
        assert float((whole.image[0, 0][far] > 0).float().mean()) > 0.5


def test_outside_the_field_of_view_there_is_nothing(head: LabelMap) -> None:
    config = ScanConfig(**{**STILL.__dict__, "cropped": 4.0})  # every side is cut, by up to two fifths
    found = scan(head, 2, config)
    assert float(found.structures[0, 0].mean()) > float(scan(head, 2).structures[0, 0].mean())
    coarse = F.max_pool3d(found.image, 2)
    assert bool((found.structures[0, 0][coarse[0, 0] > 0] < 1).any())
    assert not bool(found.mask[found.image == 0].any())


def test_matrices_keep_the_handedness(generator: torch.Generator) -> None:
    determinants = [float(torch.linalg.det(_matrix(generator, ScanConfig()))) for _ in range(50)]
    assert min(determinants) > 0.3
    assert max(determinants) < 3
    assert np.std(determinants) > 0.1
