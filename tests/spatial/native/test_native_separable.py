"""Matrices along each axis in compiled code against products of the whole matrices in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deformgan.spatial import native
from deformgan.spatial.native import library, separable
from deformgan.spatial.native.use import without_kernels
from deformgan.spatial.resample import axis_matrix
from deformgan.spatial.resample import separable as along_axes

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that is small."""
    monkeypatch.setattr(separable, "native_threads", lambda size: request.param)
    return request.param


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@each_level
@pytest.mark.parametrize("sigma", [0.0, 0.8, 9.0])  # the last with more taps than are summed at once
@pytest.mark.parametrize(
    ("shape", "wanted"), [((2, 5, 3), (4, 1, 7)), ((50, 70, 45), (20, 33, 90)), ((1, 1, 1), (2, 2, 2))]
)
def test_what_lies_beyond_the_weights_adds_nothing(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], sigma: float, level: int
) -> None:
    volume = random(2, *shape)
    matrices = [axis_matrix(a, b, 0.9 * b / a, -0.3, sigma=sigma) for a, b in zip(wanted, shape, strict=True)]
    found = separable.separable(volume, matrices, level)
    expected = torch.einsum("cwhd,xw,yh,zd->cxyz", volume.double(), *(m.double() for m in matrices))
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_both_ways_agree_also_from_memory_in_another_order() -> None:
    volume = random(1, 20, 30, 25).permute(0, 3, 1, 2)
    along = [axis_matrix(n, s, 1.3, 0.2, sigma=1.1) for n, s in zip((11, 9, 13), (30, 20, 25), strict=True)]
    found = along_axes(volume, along)
    with without_kernels():
        torch.testing.assert_close(found, along_axes(volume, along), atol=1e-6, rtol=1e-5)


def test_empty_rows_give_nothing_and_wrong_sizes_are_refused() -> None:
    volume = random(1, 3, 4, 5)
    matrices = [torch.zeros(2, n) for n in (3, 4, 5)]
    matrices[0][1, 2] = 1
    assert not separable.separable(volume, matrices).any()
    for wrong in (matrices[::-1], [torch.zeros(0, 3), *matrices[1:]]):
        with pytest.raises(ValueError, match="cannot apply"):
            separable.separable(volume, wrong)
