"""Contrasts: the order of tissues in each modality, reproducibility, unknown ids, stripping of a whole head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deformgan.workshop.simulation.contrasts import MODALITIES, is_head, normalise, strip_labels, synthesise

WHITE, CORTEX, FLUID, CORE, OEDEMA, CHOROID = 2, 3, 4, 100, 101, 31


def _blocks(*ids: int, edge: int = 12) -> Tensor:
    """Slabs of pure tissue side by side along the first axis."""
    return torch.tensor(ids).repeat_interleave(edge)[:, None, None].expand(-1, 16, 16).contiguous()


def _means(labels: Tensor, modality: str, seed: int) -> dict[int, float]:
    generator = torch.Generator().manual_seed(seed)
    image = synthesise(labels, modality, generator, texture=0.0, bias=0.0, partial_volume=0.0)[0, 0]
    return {int(i): float(image[labels == i].mean()) for i in labels.unique()}


@pytest.mark.parametrize("seed", range(6))
def test_tissues_are_ordered_as_in_the_clinic(seed: int) -> None:
    labels = _blocks(WHITE, CORTEX, FLUID, CORE, OEDEMA)
    t1, t2, flair, t1gd = (_means(labels, m, seed) for m in ("t1", "t2", "flair", "t1gd"))
    assert t1[WHITE] > t1[CORTEX] > t1[CORE] > t1[FLUID]
    assert t2[FLUID] > t2[CORE] > t2[CORTEX] > t2[WHITE]
    assert flair[OEDEMA] > flair[CORTEX] > flair[WHITE] > flair[FLUID]
    assert t1gd[CORE] > t1gd[CORTEX], "gadolinium must enhance the core"


def test_vessels_and_choroid_take_up_contrast_agent() -> None:
    labels = _blocks(WHITE, 30, CHOROID)
    plain, enhanced = _means(labels, "t1", 1), _means(labels, "t1gd", 1)
    assert plain[30] < plain[WHITE]
    assert enhanced[30] > enhanced[WHITE]
    assert enhanced[CHOROID] - plain[CHOROID] > 0.2


@pytest.mark.parametrize("modality", MODALITIES)
def test_range_background_and_reproducibility(modality: str) -> None:
    labels = _blocks(0, WHITE, CORTEX, FLUID, 0)
    images = [synthesise(labels, modality, torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert images[0].shape == (1, 1, *labels.shape)
    assert images[0].dtype == torch.float32
    assert float(images[0].min()) == 0
    assert float(images[0].max()) == 1
    assert bool((images[0][0, 0][labels == 0] == 0).all())
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_random_contrasts_differ_in_the_order_of_tissues() -> None:
    labels = _blocks(WHITE, CORTEX, FLUID)
    orders = {tuple(np.argsort(list(_means(labels, "random", seed).values()))) for seed in range(12)}
    assert len(orders) >= 4


def test_halves_of_a_brain_look_alike_and_cortex_is_not_white_matter() -> None:
    means = _means(_blocks(2, 41, 3, 42), "random", 3)
    assert means[2] == pytest.approx(means[41])
    assert means[3] == pytest.approx(means[42])
    assert means[2] != pytest.approx(means[3], abs=1e-3)


def test_texture_bias_and_partial_volume_do_what_they_say() -> None:
    labels = _blocks(WHITE, FLUID, edge=24)
    flat = {"texture": 0.0, "bias": 0.0, "partial_volume": 0.0}

    def white(**options: float) -> Tensor:
        return synthesise(labels, "t1", torch.Generator().manual_seed(0), **flat | options)[0, 0, 4:20]

    assert float(white().std()) < 1e-6
    # two scales of the same strength; the brightest voxels are clipped at the 99.8th percentile
    textured = white(texture=0.03)
    assert 0.02 < float(textured.std() / textured.mean()) < 0.06
    biased = white(bias=0.2)
    assert float(biased.std() / biased.mean()) > 0.02
    assert float(biased.diff(dim=0).abs().max()) < 0.05, "a bias field is smooth"


def test_partial_volume_mixes_at_borders_only() -> None:
    labels = _blocks(WHITE, FLUID)
    image = synthesise(labels, "t1", torch.Generator().manual_seed(0), texture=0, bias=0, partial_volume=0.45)[0, 0]
    profile = image[:, 8, 8]
    assert float(profile[3]) == pytest.approx(float(profile[9]))
    assert float(profile[20]) < float(profile[12]) < float(profile[11]) < float(profile[9])


def test_unknown_ids_get_a_tissue() -> None:
    means = _means(_blocks(WHITE, 60000, 511), "t2", 0)
    assert all(np.isfinite(list(means.values())))
    assert means[60000] > 0.05


def test_wrong_arguments_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="modality is one of t1"):
        synthesise(_blocks(2), "pet", generator)
    with pytest.raises(ValueError, match=r"labels are \(D, H, W\)"):
        synthesise(_blocks(2)[None], "t1", generator)


def test_normalise_of_an_empty_mask_is_zero() -> None:
    assert not normalise(torch.ones(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)).any()


def _head() -> Tensor:
    """A ball of white matter with a cleft of fluid, in fluid, bone (511) and skin (258); radii 12, 15, 18, 20."""
    z, y, x = np.ogrid[-24:24, -24:24, -24:24]
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 12, radius < 15, radius < 18, radius < 20], [2, 24, 511, 258], 0)
    cleft = labels[24:26, 24:, :]
    cleft[cleft == 2] = 24
    return torch.from_numpy(labels.astype(np.int64))


def test_strip_keeps_brain_and_a_rim_of_fluid() -> None:
    head = _head()
    assert is_head(head)
    stripped, mask = strip_labels(head)
    assert not is_head(stripped)
    assert set(stripped.unique().tolist()) == {0, 2, 24}
    assert bool((stripped[head == 2] == 2).all()), "brain was lost"
    assert bool(mask[24, 34, 24]), "a sulcus was not closed"
    assert torch.equal(mask, stripped > 0)
    ball = 4 / 3 * np.pi * 12**3
    assert 1.0 < float(mask.sum()) / ball < 1.5


def test_strip_keeps_tumours_and_takes_the_voxel_size_into_account() -> None:
    head = _head()
    head[20:24, 18:22, 18:22] = 100
    assert int((strip_labels(head)[0] == 100).sum()) == 64
    fine, coarse = (int(strip_labels(head, spacing_mm=s)[1].sum()) for s in (0.5, 2.0))
    assert fine > coarse, "a rim of about 1 mm is more voxels where voxels are small"


def test_strip_refuses_a_map_without_brain() -> None:
    with pytest.raises(ValueError, match="brain"):
        strip_labels(torch.full((8, 8, 8), 511))
