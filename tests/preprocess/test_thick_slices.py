"""Beside an image in thick slices the other one is blurred across them, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from deformgan.io.image import Image
from deformgan.preprocess.conform import Pair, conform
from deformgan.preprocess.lesions import NO_LESIONS
from deformgan.preprocess.thick_slices import blurred, thickness
from deformgan.spatial.grid import Grid

FINE, THICK = (1.0, 1.0, 1.0), (1.0, 1.0, 4.0)


def grid(spacing: tuple[float, float, float], degrees: float = 0.0) -> Grid:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    return Grid((20, 20, 10), turn @ np.diag([*spacing, 1.0]))


@pytest.mark.parametrize(
    ("spacing", "degrees", "expected"),
    [
        ((1, 1, 6), 0, (1, 1, 4)),  # voxels of 1.5 mm
        ((1, 1, 6), 90, (1, 4, 1)),
        ((1, 1, 6), 15, (1, 1, 4)),
        ((1, 1, 6), 30, (1, 1, 1)),  # at such an angle there is no axis to blur along
        ((3, 1, 1), 0, (2, 1, 1)),
        ((1, 1, 1), 0, (1, 1, 1)),
    ],
)
def test_thickness_is_counted_in_working_voxels(spacing: tuple, degrees: float, expected: tuple) -> None:
    found = thickness(grid(spacing, degrees), Grid((8, 8, 8), np.diag([1.5, 1.5, 1.5, 1.0])))
    assert found == pytest.approx(expected)


def test_only_across_what_is_thicker_in_the_other(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.uniform(size=(1, 1, 12, 14, 40))).float()
    for own, other in ((FINE, FINE), (THICK, THICK), (THICK, FINE), (FINE, (1.0, 1.0, 1.9)), ((1.0, 1.0, 2.1), THICK)):
        assert blurred(image, own, other) is image
    for axis in range(3):
        other = tuple(4.0 if k == axis else 1.0 for k in range(3))
        out = blurred(image, FINE, other)
        assert out.is_contiguous()
        steps = [float(out.diff(dim=k + 2).square().mean() / image.diff(dim=k + 2).square().mean()) for k in range(3)]
        assert steps[axis] < 0.25
        lines = torch.zeros_like(image)
        lines[..., 5, 7, 20] = 1
        spread = torch.nonzero(blurred(lines, FINE, other)[0, 0])
        assert all(len(spread[:, k].unique()) == 1 for k in range(3) if k != axis)
    torch.testing.assert_close(blurred(torch.ones_like(image), FINE, (4.0, 4.0, 4.0)), torch.ones_like(image))


def test_an_image_is_then_more_like_its_own_slices(rng: np.random.Generator) -> None:
    image = F.avg_pool3d(torch.from_numpy(rng.uniform(size=(1, 1, 42, 42, 42))).float(), 3, 1)
    slices = image.view(1, 1, 40, 40, 10, 4).mean(-1)
    seen = F.interpolate(slices, size=(40, 40, 40), mode="trilinear", align_corners=False)

    def away(one: torch.Tensor) -> float:
        return float((one - seen)[..., 4:-4].square().mean())

    assert away(blurred(image, FINE, THICK)) < 0.5 * away(image)


def test_a_pair_is_compared_so(rng: np.random.Generator) -> None:
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1)
    inside = ((index - 19.5) ** 2).sum(-1) < 15**2
    data = (inside * rng.uniform(0.5, 1, inside.shape)).astype(np.float32)
    fine = conform(Image(np.asfortranarray(data), Grid(data.shape, np.eye(4)), "fine"), (40, 40, 40), 1.0)
    slices = np.asfortranarray(data.reshape(40, 40, 10, 4).mean(-1))
    affine = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 1.5], [0, 0, 0, 1.0]])
    coarse = conform(Image(slices, Grid((40, 40, 10), affine), "coarse"), grid=fine.grid)
    assert fine.thickness == FINE
    assert coarse.thickness == pytest.approx(THICK)
    for pair, changed in ((Pair(fine, coarse, NO_LESIONS), 0), (Pair(coarse, fine, NO_LESIONS), 1)):
        for number, (before, after) in enumerate(zip(pair.tensors, pair.compared_tensors, strict=True)):
            assert torch.equal(before, after) == (number != changed)
