"""The brain in a head, found by a stand-in for S that knows it by its brightness."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deformgan.io.image import Image
from deformgan.preprocess.brain_extraction import brain_mask, find_anatomy
from deformgan.spatial.grid import Grid

CENTRE = np.array([6.0, -10.0, 20.0])


@dataclass
class ByBrightness:
    """Takes what is about half as bright as the brightest for brain."""

    structures: tuple[str, ...] = ("background", "head", "brain")
    shape: tuple[int, int, int] = (80, 96, 80)
    spacing: float = 2.0
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As S does."""
        self.seen.append(tuple(image.shape[2:]))
        brain = ((image > 0.3) & (image < 0.7)).float()
        halves = torch.nn.functional.avg_pool3d(torch.cat([1 - brain, 0 * brain, brain], 1), 2)
        return halves, brain


def head(grid: Grid, neck: float = 0.0, scalp: bool = True, scale: float = 1.0) -> tuple[Image, np.ndarray]:
    """An ellipsoid of a brain within a bright shell, and the brain itself; ``neck`` reaches down so many mm."""
    at = grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)) - CENTRE
    brain = ((at / (scale * np.array([62, 78, 60]))) ** 2).sum(-1) <= 1
    shell = ((at / (scale * np.array([76, 92, 74]))) ** 2).sum(-1) <= 1
    shell |= (np.linalg.norm(at[..., :2], axis=-1) < 50) & (at[..., 2] < 0) & (at[..., 2] > -neck)
    data = np.where(brain, 500.0, np.where(shell & scalp, 1000.0, 0.0)).astype(np.float32)
    return Image(data, grid, "head"), brain


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def oblique() -> Grid:
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 1.5, 3.0])
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array([150, 150, 80]) - 1) / 2)
    return Grid((150, 150, 80), affine)


@pytest.mark.parametrize("grid", [Grid.centred((110, 120, 110), 2.0, CENTRE), oblique()], ids=["straight", "oblique"])
def test_the_mask_lies_on_the_image(grid: Grid) -> None:
    image, brain = head(grid)
    anatomy = find_anatomy(image, ByBrightness())
    mask = brain_mask(anatomy, image)
    assert mask.grid == image.grid
    assert mask.data.dtype == np.uint8
    assert dice(mask.data > 0, brain) > 0.97
    assert anatomy.is_head
    assert anatomy.brain_litres == pytest.approx(4 / 3 * np.pi * 62 * 78 * 60 / 1e6, rel=0.03)


def test_a_long_neck_is_looked_past() -> None:
    image, brain = head(Grid.centred((100, 110, 150), 2.0, CENTRE - (0, 0, 50)), neck=180)
    model = ByBrightness()
    mask = brain_mask(find_anatomy(image, model), image)
    assert model.seen[0][2] > 96
    assert model.seen[1] == (80, 96, 80)
    assert dice(mask.data > 0, brain) > 0.97


def test_a_brain_that_a_look_cuts_is_looked_at_farther_around() -> None:
    """And where that was not far enough, what the look ends at is not drawn out to the end of the image."""
    image, brain = head(Grid.centred((140, 150, 190), 2.0, CENTRE - (0, 0, 50)), neck=200, scale=1.1)
    model = ByBrightness(shape=(80, 80, 80))
    mask = brain_mask(find_anatomy(image, model), image)
    assert model.seen[1:] == [(80, 80, 80), (80, 96, 80)]
    assert dice(mask.data > 0, brain) > 0.97
    small = ByBrightness(shape=(64, 64, 64))
    mask = brain_mask(find_anatomy(image, small), image)
    assert small.seen[1:] == [(64, 64, 64), (80, 80, 80)]
    assert (mask.data.any((0, 2))).sum() <= 80 < brain.any((0, 2)).sum()


def test_one_look_is_enough_for_a_brain_alone() -> None:
    model = ByBrightness()
    image, _ = head(Grid.centred((110, 120, 110), 2.0, CENTRE), scalp=False)
    image.data[55, 60, 55] = 1000  # so that the brain is half as bright as the brightest
    anatomy = find_anatomy(image, model)
    assert len(model.seen) == 1
    assert not anatomy.is_head


def test_specks_are_left_out_and_holes_filled() -> None:
    image, brain = head(Grid.centred((110, 120, 110), 2.0, CENTRE))
    image.data[5:9, 5:9, 5:9] = 500
    image.data[53:58, 58:63, 53:58] = 5
    mask = brain_mask(find_anatomy(image, ByBrightness()), image).data > 0
    assert not mask[5:9, 5:9, 5:9].any()
    assert mask[53:58, 58:63, 53:58].all()
    assert dice(mask, brain) > 0.97


def test_a_brain_of_no_human_size_makes_no_head() -> None:
    image, _ = head(Grid.centred((110, 120, 160), 1.0, CENTRE), neck=70, scale=0.5)
    anatomy = find_anatomy(image, ByBrightness())
    assert anatomy.outside_share > 0.1
    assert not anatomy.is_human_sized
    assert not anatomy.is_head


@dataclass
class KnowsUp(ByBrightness):
    """As its parent, but certain only of heads whose bright spot is at the front of the brain and not below it."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As S does: shares near a half where the head is turned."""
        structures, brain = super().predict(image)
        spot = torch.nonzero(image[0, 0] > 0.95).double().mean(0)
        middle = (torch.tensor(image.shape[2:]) - 1) / 2
        upright = bool(spot[1] > middle[1] and spot[2] > middle[2])
        return (structures if upright else torch.lerp(structures, structures.flip(1), 0.45)), brain


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)])
def test_a_head_that_the_header_has_turned_is_found_as_it_should_be(signs: tuple[int, int, int]) -> None:
    grid = Grid.centred((110, 120, 110), 2.0, CENTRE)
    image, brain = head(grid)
    image.data[(image.data == 1000)] = 900
    image.data[52:58, 100:104, 78:82] = 1000  # in front of the brain, and above its middle
    turn = np.eye(4)
    turn[:3, :3] = np.diag(signs)
    turn[:3, 3] = CENTRE - turn[:3, :3] @ CENTRE
    turned = Image(image.data, grid.moved_by(turn), "turned")
    model = KnowsUp()
    anatomy = find_anatomy(turned, model)
    assert len(model.seen) == (1 if signs == (1, 1, 1) else 4)
    np.testing.assert_allclose(anatomy.grid.affine[:3, :3] / 2, np.diag(signs), atol=1e-12)
    assert dice(brain_mask(anatomy, turned).data > 0, brain) > 0.97
    assert anatomy.certainty > 0.95
    assert anatomy.is_head


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (-1, -1)])
def test_a_head_that_lies_on_its_side_is_found_as_it_should_be(
    axes: tuple[int, int, int], signs: tuple[int, int]
) -> None:
    grid = Grid.centred((110, 120, 110), 2.0, CENTRE)
    image, brain = head(grid)
    image.data[(image.data == 1000)] = 900
    image.data[52:58, 100:104, 78:82] = 1000  # in front of the brain, and above its middle
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3)[:, axes] * (*signs, 1)
    turn[:3, 2] *= np.linalg.det(turn[:3, :3])
    turn[:3, 3] = CENTRE - turn[:3, :3] @ CENTRE
    turned = Image(image.data, grid.moved_by(turn), "on its side")
    anatomy = find_anatomy(turned, KnowsUp())
    # the spot is on the middle plane, so left and right may be either
    np.testing.assert_allclose(anatomy.grid.affine[:3, 1:3] / 2, turn[:3, 1:3], atol=1e-12)
    assert dice(brain_mask(anatomy, turned).data > 0, brain) > 0.97
    assert anatomy.is_head


def test_what_is_known_in_no_orientation_is_no_head() -> None:
    class Unsure(ByBrightness):
        def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
            structures, brain = super().predict(image)
            return torch.lerp(structures, structures.flip(1), 0.45), brain

    model = Unsure()
    anatomy = find_anatomy(head(Grid.centred((110, 120, 110), 2.0, CENTRE))[0], model)
    # half-turns, every orientation coarsely, then closely the best two of these, in one look each or two
    assert len({tuple(sorted(shape)) for shape in model.seen[4:28]}) == 1
    assert model.seen[4] < model.seen[0]
    assert 28 + 2 <= len(model.seen) <= 28 + 4
    assert anatomy.certainty == pytest.approx(0.55, abs=0.02)
    assert anatomy.is_human_sized
    assert not anatomy.is_head


def test_the_centre_of_a_structure_lies_where_it_is() -> None:
    grid = Grid.centred((70, 90, 75), 2.5, CENTRE + np.array([3.0, -4.0, 5.0]))
    seen = find_anatomy(head(grid)[0], ByBrightness())
    np.testing.assert_allclose(seen.centres_mm, [CENTRE], atol=0.5)
    few = torch.zeros_like(seen.structures)
    few[:, 2, 5, 5, 5:12] = 1
    assert np.isnan(replace(seen, structures=few).centres_mm).all(), "what fills no eight blocks"
