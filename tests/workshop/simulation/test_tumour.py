"""Tumours: where they grow, what they spare, their size, and that the rest of the brain is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from deformgan.workshop.simulation.tumour import add_tumour


def _brain() -> Tensor:
    """White matter within 17 voxels, cortex to 20, fluid to 21; a ventricle of 4 in the middle."""
    z, y, x = np.ogrid[-24:24, -24:24, -24:24]
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 4, radius < 17, radius < 20, radius < 21], [4, 2, 3, 24], 0)
    return torch.from_numpy(labels.astype(np.int16))


@pytest.mark.parametrize("seed", range(5))
def test_core_and_oedema_grow_in_tissue_and_spare_fluid(seed: int) -> None:
    brain = _brain()
    grown = add_tumour(brain, torch.Generator().manual_seed(seed), radius_mm=9.0)
    changed = grown != brain
    assert set(grown[changed].unique().tolist()) == {100, 101}
    assert set(brain[changed].unique().tolist()) <= {2, 3}
    assert grown.dtype == brain.dtype
    assert ndimage.label((grown == 100).numpy())[1] == 1, "the core falls apart"
    touching = torch.from_numpy(ndimage.binary_dilation((grown == 100).numpy())) & (grown == 101)
    assert bool(touching.any()), "oedema does not surround the core"


def _core_voxels(radius_mm: float, spacing_mm: float) -> int:
    generator = torch.Generator().manual_seed(1)
    grown = add_tumour(_brain(), generator, radius_mm, spacing_mm, centre=(24, 24, 33))
    return int((grown == 100).sum())


def test_size_follows_radius_and_voxel_size() -> None:
    assert _core_voxels(6.0, 1.0) > 1.5 * _core_voxels(4.5, 1.0)
    assert _core_voxels(6.0, 1.0) == _core_voxels(9.0, 1.5)
    ball = 4 / 3 * np.pi * 6.0**3
    assert 0.4 * ball < _core_voxels(6.0, 1.0) < 1.8 * ball


def test_it_is_irregular_random_and_reproducible() -> None:
    a, b, c = (add_tumour(_brain(), torch.Generator().manual_seed(s), radius_mm=9.0) for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    core = (a == 100).numpy()
    surface = core & ~ndimage.binary_erosion(core)
    radii = np.linalg.norm(np.argwhere(surface) - np.argwhere(core).mean(0), axis=1)
    assert radii.std() > 0.05 * radii.mean(), "a perfect ball"


def test_a_tumour_at_the_border_of_the_volume_is_cut_there() -> None:
    slab = torch.full((12, 12, 12), 2)
    grown = add_tumour(slab, torch.Generator().manual_seed(0), radius_mm=5.0, spacing_mm=1.0, centre=(0, 0, 0))
    assert int(grown[0, 0, 0]) == 100
    assert int(grown[11, 11, 11]) == 2


def test_refusals(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="no white matter"):
        add_tumour(torch.full((8, 8, 8), 3), generator)
    with pytest.raises(ValueError, match="outside the brain"):
        add_tumour(_brain(), generator, centre=(0, 0, 0))
