"""Hard cases keep their truth: where a position of the fixed image lies in the moving one, whatever was done to it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import make_phantom
from scipy.ndimage import gaussian_filter, map_coordinates

FOLDER = Path(__file__).parents[2] / "benchmarks" / "hard_cases"


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("kinds", monkeypatch)


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"hard_cases_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def a_pair(kinds: ModuleType):
    """A shift of (3, -2, 4) voxels of 2 mm; images are smooth, so that they may be interpolated."""
    phantom = make_phantom()
    image = gaussian_filter(phantom.t1.astype(np.float32), 1.5)
    shift = np.array([3, -2, 4])
    moving = np.roll(image, tuple(shift), (0, 1, 2))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    index = np.argwhere(phantom.labels > 0)[::7]
    index = index[((index + shift > 0) & (index + shift < np.array(image.shape) - 1)).all(1)]
    points = index * 2.0
    field = np.broadcast_to(shift, (*image.shape, 3)).astype(np.float32)
    return kinds.Pair(image, moving, affine, affine, points, points + 2.0 * shift, image, field)


def at(image: np.ndarray, affine: np.ndarray, positions: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(affine)
    index = positions @ inverse[:3, :3].T + inverse[:3, 3]
    return map_coordinates(image.astype(np.float64), index.T, order=1)


def kinds_with_truth() -> list[str]:
    names = ["full", "slab-moving", "slab-fixed", "slab-thin", "slab-oblique", "cut", "tiny", "turned", "on-its-side"]
    names += ["not-searched", "wrong-size", "noisy", "thick", "aligned", "moved", "one-mask", "one-mask-bent"]
    return [*names, "identical", "region", "region-small", "tops"]


def test_every_kind_is_tested(kinds: ModuleType) -> None:
    assert {*kinds_with_truth(), "mirrored", "unrelated"} == {*kinds.KINDS}
    assert {*kinds.OPTIONS} <= {*kinds.KINDS}


@pytest.mark.parametrize("kind", kinds_with_truth())
def test_partners_show_the_same(kinds: ModuleType, kind: str) -> None:
    made = kinds.KINDS[kind](a_pair(kinds), np.random.default_rng(3))
    assert len(made.points) == len(made.targets) > 100
    fixed = at(made.fixed, made.fixed_affine, made.points)
    moving = at(made.moving, made.moving_affine, made.targets)
    off = np.abs(fixed - moving)
    if kind.startswith("one-mask"):  # at its border interpolation mixes what is shown with zeros
        sides = (made.fixed, made.fixed_affine, made.points), (made.moving, made.moving_affine, made.targets)
        off = off[np.min([at(image > 0, affine, where) for image, affine, where in sides], 0) > 0.999]
        assert len(off) > 0.4 * len(fixed)
    if kind in ("thick", "noisy"):  # voxels differ there, but less than those of any other place
        elsewhere = np.abs(fixed - at(made.moving, made.moving_affine, made.points)).mean()
        assert off.mean() < 0.7 * elsewhere
    else:
        assert off.max() < 0.02


@pytest.mark.parametrize("kind", ["one-mask", "one-mask-bent"])
def test_one_mask_cuts_both(kinds: ModuleType, kind: str) -> None:
    pair = a_pair(kinds)
    made = kinds.KINDS[kind](pair, np.random.default_rng(3))
    np.testing.assert_array_equal(made.fixed > 0, made.moving > 0)
    assert 0.3 * (pair.fixed > 0).sum() < (made.fixed > 0).sum() < (pair.fixed > 0).sum()
    assert np.linalg.norm(made.targets - made.points, axis=1).min() > 0.2


@pytest.mark.parametrize("kind", ["slab-moving", "slab-thin", "cut"])
def test_a_slab_shows_less(kinds: ModuleType, kind: str) -> None:
    pair = a_pair(kinds)
    made = kinds.KINDS[kind](pair, np.random.default_rng(3))
    assert made.moving.shape[2] < pair.moving.shape[2]
    assert made.moving.shape[:2] == pair.moving.shape[:2]


def test_both_images_show_a_region(kinds: ModuleType) -> None:
    made = kinds.KINDS["region-small"](a_pair(kinds), np.random.default_rng(3))
    assert max(made.fixed.shape) * 2.0 <= kinds.SMALL_REGION_MM + 2
    assert max(made.moving.shape) * 2.0 <= kinds.SMALL_REGION_MM + 2 * kinds.WIDER_MM + 2


@pytest.mark.parametrize("kind", ["mirrored", "unrelated"])
def test_nothing_can_be_right_there(kinds: ModuleType, kind: str) -> None:
    pair = a_pair(kinds)
    made = kinds.KINDS[kind](pair, np.random.default_rng(3))
    assert made.targets is None
    assert made.moving.shape == pair.moving.shape
    assert not np.allclose(made.moving, pair.moving)


def test_saved_images_are_read_as_they_were(kinds: ModuleType, tmp_path: Path) -> None:
    from deformgan.io.image import load_image

    made = kinds.KINDS["turned"](a_pair(kinds), np.random.default_rng(3))
    fixed, moving = (load_image(path) for path in kinds.save(made, tmp_path))
    np.testing.assert_allclose(fixed.data, made.fixed, atol=1e-6)
    np.testing.assert_allclose(moving.grid.affine, made.moving_affine, atol=1e-4)


def test_the_verdict_is_judged_by_what_it_says_of_right_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _load("run", monkeypatch)
    right = [{"wrong": False, "verdict": "pass", "probability": 0.1}, {"wrong": False, "verdict": "look"}]
    wrong = [
        {"wrong": True, "verdict": "fail", "probability": 0.9},
        {"wrong": True, "verdict": "pass", "probability": 0.2},
    ]
    # the failure that passes is worse told than the doubtful success, and better than the sure one
    assert run.area([*right, *wrong]) == 0.75
    assert run.is_wrong({"error_mm": 2.9, "error_p95_mm": 7.9}) is False
    assert run.is_wrong({"error_mm": 2.9, "error_p95_mm": 8.1}) is True
    assert run.is_wrong({"verdict": "pass"}) is True


def a_head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two contrasts of a ball of a brain in a shell, with air around, and the brain."""
    rng = np.random.default_rng(5)
    off = np.linalg.norm(np.moveaxis(np.indices((60, 60, 60)), 0, -1) - 29.5, axis=-1)
    brain, scalp = off < 15, (off >= 17) & (off < 22)
    images = [0.5 * brain + level * scalp + rng.uniform(0, 0.02, off.shape) for level in (0.9, 0.3)]
    return images[0], images[1], brain


def test_what_is_done_to_a_head_leaves_its_brain_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = _load("heads", monkeypatch)
    fixed, moving, brain = a_head()
    for name, change in heads.VARIANTS.items():
        if name == "again":
            continue
        one, other, same = change((fixed, moving, brain), np.random.default_rng(0))
        assert same is brain
        if name != "ct":
            np.testing.assert_allclose(one[brain] / one[brain].mean(), fixed[brain] / fixed[brain].mean(), rtol=1e-6)
        np.testing.assert_array_equal(other[brain], moving[brain])


def test_heads_are_changed_as_they_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = _load("heads", monkeypatch)
    fixed, moving, brain = a_head()
    made = {
        name: change((fixed, moving, brain), np.random.default_rng(0))[:2] for name, change in heads.VARIANTS.items()
    }
    scalp = fixed > 0.8
    for at, image in enumerate((fixed, moving)):
        assert made["dark"][at][scalp].mean() < 0.15 * image[scalp].mean()
        assert made["bright"][at][scalp].mean() > 2.8 * image[scalp].mean()
    air = (fixed < 0.1) & ~brain
    assert made["noise-around"][0][air].std() > 0.2
    assert fixed[air].std() < 0.01
    assert not made["stripped"][1][~brain].any()
    shown = made["widely"][0] > 0
    assert shown[brain].all()
    assert 0 < np.count_nonzero(shown & scalp) < np.count_nonzero(scalp)


def test_another_visit_has_a_bias_and_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = _load("heads", monkeypatch)
    fixed, _, brain = a_head()
    one, other, same = heads.again((fixed, fixed, brain), np.random.default_rng(0))
    assert same is brain
    noise = heads.AGAIN_NOISE * np.quantile(fixed[brain], 0.99)
    air = (fixed < 0.1) & ~brain
    assert np.corrcoef(one[air], other[air])[0, 1] < 0.1
    for visit in (one, other):
        ratio = visit[brain] / fixed[brain]
        assert 0.7 < ratio.mean() < 1.4
        assert visit[air].std() > 0.5 * noise
    far = np.corrcoef(one[brain] / fixed[brain], other[brain] / fixed[brain])[0, 1]
    assert far < 0.7


def test_ct_shows_a_brain_of_little_contrast_in_bone_and_air(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = _load("heads", monkeypatch)
    fixed, moving, brain = a_head()
    ct, other, _ = heads.ct((fixed, moving, brain), np.random.default_rng(0))
    np.testing.assert_array_equal(other, moving)
    np.testing.assert_allclose(
        ct[brain].mean(), heads.BRAIN_HU * (fixed / np.quantile(fixed[brain], 0.99))[brain].mean(), rtol=0.05
    )
    assert 0.8 * heads.NOISE_HU < ct[brain].std() < 1.5 * heads.NOISE_HU
    assert np.count_nonzero(ct == heads.SKULL_HU) > 1000
    assert np.mean(ct == heads.AIR_HU) > 0.3
