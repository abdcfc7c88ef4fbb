"""``--brain auto``: a head is registered as a brain, and whatever is no head is left as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.options import Options
from deformgan.errors import UsageError
from deformgan.io.image import Image
from deformgan.models import brain as module
from deformgan.models.brain import FoundBrain, brains_of
from deformgan.pipeline import register
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid

GRID = Grid.centred((52, 60, 52), 4.0, np.array([3.0, -5.0, 9.0]))


@dataclass
class ByBrightness:
    """A stand-in for S that takes what is about half as bright as the brightest for brain."""

    structures: tuple[str, ...] = ("background", "head", "brain")
    shape: tuple[int, int, int] = (80, 96, 80)
    spacing: float = 2.0
    sha256: str = "0" * 64

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As S does."""
        brain = ((image > 0.2) & (image < 0.8)).float()
        return F.avg_pool3d(torch.cat([1 - brain, 0 * brain, brain], 1), 2), brain


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stand-in as if its weights were shipped; the names it was loaded by."""
    loaded: list[str] = []

    def load(name: str, _: object) -> ByBrightness:
        loaded.append(name)
        return ByBrightness()

    monkeypatch.setattr(module, "shipped_models", lambda role: ["anatomy"])
    monkeypatch.setattr(module, "load_anatomy_model", load)
    return loaded


def head(shift: float = 0.0, scalp: float = 1000.0, contrast: float = 120.0) -> tuple[Image, np.ndarray]:
    """A textured ellipsoid of a brain in a bright shell, moved along y by ``shift`` mm, and the brain itself."""
    at = GRID.to_world(np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), -1)) - GRID.centre_mm
    at = at - (0, shift, 0)
    brain = ((at / np.array([62, 78, 60])) ** 2).sum(-1) <= 1
    shell = (((at / np.array([78, 94, 78])) ** 2).sum(-1) <= 1) & ~brain
    texture = contrast * np.sin(at[..., 0] / 9) * np.cos(at[..., 1] / 11) * np.cos(at[..., 2] / 10)
    data = np.where(brain, 500 + texture, np.where(shell, scalp, 0.0)).astype(np.float32)
    return Image(data, GRID, "head"), brain


def looked_at(
    image: Image, other: Image | None = None, **changes: Any
) -> tuple[dict[str, Scan], dict[str, FoundBrain]]:
    """An image as the moving one beside another head, or another image."""
    beside = head(shift=4.0)[0] if other is None else other
    pair = {"fixed": Scan.of(beside), "moving": Scan.of(image)}
    scans, found = brains_of(pair, replace(Options(device="cpu"), **changes))
    assert all(scans[role].original is scan.original for role, scan in pair.items())
    assert all(scans[role] is pair[role] for role in pair if role not in found)
    return scans, found


@pytest.mark.usefixtures("shipped")
def test_padding_around_a_heads_own_air_hides_no_brain() -> None:
    image, brain = head()
    noisy = image.data + np.random.default_rng(0).uniform(20, 40, image.data.shape).astype(np.float32)
    padded = noisy.copy()
    for axis in range(3):
        np.moveaxis(padded, axis, 0)[[0, 1, 2, -3, -2, -1]] = 0
    scans, found = looked_at(Image(padded, image.grid, "resliced"), head(shift=4.0)[0])
    assert set(found) == {"fixed", "moving"}
    assert scans["moving"].original.data is padded  # as it was read
    kept = scans["moving"].content.mask
    assert np.count_nonzero(kept & brain) > 0.9 * np.count_nonzero(kept | brain)


def test_of_a_region_within_a_brain_nothing_is_taken_out(shipped: list[str]) -> None:
    """What S sees of it is cut off all around, and as likely its darker tissue as the brain."""
    region = (slice(14, 38), slice(16, 44), slice(14, 38))
    parts = []
    for image in (head()[0], head(shift=4.0)[0]):
        place = GRID.affine.copy()
        place[:3, 3] = GRID.to_world(np.array([side.start for side in region]))
        parts.append(Image(image.data[region], Grid(image.data[region].shape, place)))
    assert looked_at(*parts)[1] == {}
    assert shipped


@pytest.mark.usefixtures("shipped")
def test_the_brain_of_a_head_is_found() -> None:
    image, brain = head()
    scans, found = looked_at(image)
    shown = scans["moving"].image.data > 0
    assert 2 * np.count_nonzero(brain & shown) / (np.count_nonzero(brain) + np.count_nonzero(shown)) > 0.95
    assert found.keys() == {"fixed", "moving"}
    one = found["moving"]
    assert one.litres == pytest.approx(np.count_nonzero(brain) * 64e-6, rel=0.05)
    assert (one.certainty, one.sha256) == (pytest.approx(1.0, abs=0.1), "0" * 64)


def test_stripped_brains_are_not_even_looked_at(shipped: list[str]) -> None:
    assert looked_at(head(scalp=0.0)[0], head(scalp=0.0, shift=4.0)[0])[1] == {}
    assert shipped == []


def test_the_whole_is_taken_when_it_is_asked_for(shipped: list[str]) -> None:
    assert looked_at(head()[0], brain="whole")[1] == {}
    assert shipped == []


def test_without_weights_images_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shipped_models", lambda role: [])
    assert looked_at(head()[0])[1] == {}


def overlap(kept: np.ndarray, brain: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * np.count_nonzero(kept & brain) / (np.count_nonzero(kept) + np.count_nonzero(brain))


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_brain_that_is_cut_off_is_found_as_far_as_it_is_in_view(axis: int, padded: bool) -> None:
    whole, brain = head()
    middle = whole.data.shape[axis] // 2
    box = tuple(slice(middle - 4, None) if a == axis else slice(None) for a in range(3))
    data = whole.data.copy()
    data[tuple(slice(0, middle - 4) if a == axis else slice(None) for a in range(3))] = 0
    slab, left = Image(data, GRID, "slab"), brain & (data > 0)
    if not padded:
        cropped = np.ascontiguousarray(whole.data[box])
        first = [piece.start or 0 for piece in box]
        affine = GRID.affine.copy()
        affine[:3, 3] = GRID.to_world(np.array(first))
        slab, left = Image(cropped, Grid(cropped.shape, affine), "slab"), brain[box]  # type: ignore[arg-type]
    scans, found = looked_at(slab, whole)
    assert found.keys() == {"fixed", "moving"}
    assert overlap(scans["moving"].content.mask, left) > 0.95
    assert scans["moving"].content.field_of_view.is_limited
    assert not scans["fixed"].content.field_of_view.is_limited


@pytest.mark.usefixtures("shipped")
def test_a_scalp_as_dark_as_the_air_hides_no_brain() -> None:
    image, brain = head(scalp=60.0)
    noisy = np.random.default_rng(0).uniform(20, 40, image.data.shape).astype(np.float32)
    scans, found = looked_at(Image(np.maximum(image.data, noisy), GRID, "fat suppressed"))
    assert found.keys() == {"fixed", "moving"}
    assert overlap(scans["moving"].content.mask, brain) > 0.95


@pytest.mark.usefixtures("shipped")
def test_a_scalp_that_outshines_the_brain_hides_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Darker(ByBrightness):
        def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
            brain = ((image > 0.05) & (image < 0.8)).float()
            return F.avg_pool3d(torch.cat([1 - brain, 0 * brain, brain], 1), 2), brain

    monkeypatch.setattr(module, "load_anatomy_model", lambda *_: Darker())
    image, brain = head(scalp=5000.0)
    noisy = np.random.default_rng(0).uniform(20, 40, image.data.shape).astype(np.float32)
    bright = Image(np.maximum(image.data, noisy), GRID, "near a coil")
    assert not (Scan.of(bright).content.mask & brain).any()  # the threshold lies between brain and scalp
    scans, found = looked_at(bright)
    assert "moving" in found
    assert overlap(scans["moving"].content.mask, brain) > 0.95


def test_the_brain_of_a_ct_is_looked_at_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """First as one grey between bone and air, then alone, which is what S is believed of."""
    spreads: list[float] = []

    class Spreads(ByBrightness):
        def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
            middle = image[(0, 0, *(slice(2 * n // 5, 3 * n // 5) for n in image.shape[2:]))]
            spreads.append(float(middle.std()))
            return super().predict(image)

    monkeypatch.setattr(module, "shipped_models", lambda role: ["anatomy"])
    monkeypatch.setattr(module, "load_anatomy_model", lambda name, _: Spreads())
    image, brain = head(contrast=30.0)
    hounsfield = np.where(image.data == 0, -1000, np.where(brain, image.data - 480, 1000)).astype(np.float32)
    ct = Image(hounsfield, image.grid, "ct")
    scans, found = looked_at(ct)
    assert "moving" in found
    kept = scans["moving"]
    assert overlap(kept.content.mask, brain) > 0.95
    inside = kept.content.mask & brain
    assert np.corrcoef(kept.image.data[inside], hounsfield[inside])[0, 1] > 0.98
    assert spreads[-1] > 5 * min(spreads)


@pytest.mark.usefixtures("shipped")
def test_a_head_beside_what_is_no_head_is_taken_as_it_is() -> None:
    ball = head(contrast=0.0)[0]
    ball.data[ball.data == 500] = 1000  # nothing in it is as bright as a brain
    ball.data[0, 0, 0] = 1
    assert looked_at(head()[0], ball)[1] == {}


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown brain"):
        Options(brain="skull")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_registration_of_heads_is_one_of_brains(shipped: list[str]) -> None:
    (fixed, _), (moving, _) = head(), head(shift=8.0)
    options = {"refine_steps": 0, "transform": "rigid"}
    result = register(fixed, moving, **options)  # type: ignore[arg-type]
    assert len(shipped) == 2
    assert result.provenance["settings"]["brain"] == "auto"
    assert sum("shows a head" in note for note in result.provenance["notes"]) == 2
    assert result.provenance["settings"]["brains"].keys() == {"fixed", "moving"}
    whole = register(fixed, moving, brain="whole", **options)  # type: ignore[arg-type]
    assert not any("shows a head" in note for note in whole.provenance["notes"])
    assert "brains" not in whole.provenance["settings"]
    masked = register(fixed, moving, fixed_mask=Image(np.ones(GRID.shape, np.uint8), GRID, "all"), **options)  # type: ignore[arg-type]
    assert sum("shows a head" in note for note in masked.provenance["notes"]) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("shipped")
def test_the_report_tells_what_was_found_and_by_which_weights(tmp_path: Path) -> None:
    (fixed, _), (moving, _) = head(), head(shift=8.0)
    register(fixed, moving, refine_steps=0, transform="rigid").report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The brain in the fixed and in the moving image was found by a network" in page
    assert "(SHA-256 000000000000)" in page
