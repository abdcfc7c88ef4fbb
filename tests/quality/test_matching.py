"""Edge matching, measures of a field, and the models that turn them into a verdict and an expected error."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from conftest import Phantom

from deformgan.losses import ngf_similarity
from deformgan.preprocess.conform import Conformed
from deformgan.quality import matching, measures
from deformgan.quality.assess import Evidence, _edge_agreement, error_map, examine, judge, local_features
from deformgan.quality.calibration import Calibration, Failure, Linear, shipped
from deformgan.quality.matching import EPSILON, STRIDES, WINDOW, match
from deformgan.quality.result import Quality
from deformgan.quality.verdict import COMPLAINTS, judged
from deformgan.refine import Perturbed
from deformgan.spatial.field import affine_field
from deformgan.spatial.grid import Grid
from deformgan.spatial.native import block_matching as block_matching_module
from deformgan.spatial.native.block_matching import block_matching
from deformgan.spatial.native.library import is_available, levels
from deformgan.spatial.native.use import without_kernels


def smooth_noise(generator: torch.Generator, size: int = 28) -> torch.Tensor:
    coarse = torch.rand(1, 1, size // 4, size // 4, size // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear")


def everywhere(image: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(image)


def test_inverted_contrast_agrees_and_a_shift_is_found(generator: torch.Generator) -> None:
    image = smooth_noise(generator)
    inner = (slice(9, -9),) * 3
    same = match(image, 1 - image, everywhere(image), 3.0)
    assert same.agreement[inner].min() > 0.8
    assert same.gain[inner].max() == pytest.approx(0, abs=1e-6)
    assert same.pinning[inner].min() > 0.05
    off = match(image, 1 - image.roll(2, 2), everywhere(image), 3.0)
    assert off.gain[inner].min() > 0.2
    assert off.shift_mm[inner].mean() > 5.9 > 2 * same.shift_mm[inner].mean()


def test_agreement_is_the_squared_normalised_gradient_product(generator: torch.Generator) -> None:
    """One block that sees the whole volume: the sum of the products over the sum for the image with itself."""
    a, b = (torch.rand(1, 1, WINDOW, WINDOW, WINDOW, generator=generator) for _ in range(2))
    middle = WINDOW // 2
    ours = match(a, b, everywhere(a), 3.0, strides=()).agreement[middle, middle, middle]
    norms = torch.stack(torch.gradient(a[0, 0])).square().sum(0)[1:-1, 1:-1, 1:-1]
    weight = (norms / (norms + EPSILON**2)).sum() / WINDOW**3
    assert float(ours) == pytest.approx(float(ngf_similarity(a, b, EPSILON, squared=True) / weight), rel=1e-4)


def test_only_shifts_of_one_voxel_say_what_holds_the_field(generator: torch.Generator) -> None:
    image = smooth_noise(generator)
    near, far = (match(image, image, everywhere(image), 3.0, strides=(stride,)) for stride in (1, 2))
    assert torch.equal(far.pinning, far.agreement)
    assert bool((near.pinning < near.agreement).all())


def test_where_there_are_no_edges_nothing_holds_the_field() -> None:
    flat = torch.full((1, 1, 20, 20, 20), 0.5)
    found = match(flat, flat, everywhere(flat), 3.0)
    assert found.pinning.abs().max() == 0
    assert found.agreement.abs().max() == 0
    # every shift is as likely, none among them
    lengths = [stride * 3.0 * math.hypot(*step) for stride in STRIDES for step in product((-1, 0, 1), repeat=3)]
    mean = sum(lengths) / (len(lengths) - len(STRIDES) + 1)
    torch.testing.assert_close(found.shift_mm, torch.full((20, 20, 20), mean))


@pytest.mark.skipif(not is_available(), reason="the kernels are not built")
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("shape", [(20, 18, 33), (5, 3, 4), (9, 70, 8)])
def test_compiled_matching_is_as_with_pytorch(
    shape: tuple[int, ...], level: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (torch.rand(1, 1, *shape, generator=generator) for _ in range(2))
    mask = (torch.rand(1, 1, *shape, generator=generator) > 0.3).float()
    monkeypatch.setattr(matching, "block_matching", partial(block_matching, level=level))
    for strides in (STRIDES, (), (4, 1), (2,)):
        found = match(a, b, mask, 3.0, strides)
        with without_kernels():
            expected = match(a, b, mask, 3.0, strides)
        for name in ("agreement", "gain", "pinning"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.shift_mm, expected.shift_mm, atol=1e-4, rtol=0)


@pytest.mark.skipif(not is_available(), reason="the kernels are not built")
def test_threads_change_no_bit_of_a_matching(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (torch.rand(1, 1, 40, 33, 30, generator=generator) for _ in range(2))
    one, other = [], []
    for found, threads in ((one, 1), (other, 3)):
        monkeypatch.setattr(block_matching_module, "native_threads", lambda size, n=threads: n)
        found.append(match(a, b, everywhere(a), 3.0))
    for name in ("agreement", "gain", "pinning", "shift_mm"):
        assert torch.equal(getattr(one[0], name), getattr(other[0], name))


@pytest.mark.skipif(not is_available(), reason="the kernels are not built")
def test_blocks_of_other_shapes_are_refused() -> None:
    ours = torch.zeros(1, 3, 4, 4, 4)
    with pytest.raises(ValueError, match="cannot match"):
        block_matching(ours, ours, torch.zeros(4, 4, 5), [], [], close=0, radius=1, sharpness=1.0)


def test_a_field_and_its_inverse_are_consistent() -> None:
    matrix = torch.tensor([[[1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0]]])
    forward, backward = affine_field(matrix, (12, 12, 12)), -affine_field(matrix, (12, 12, 12))
    spacing = torch.tensor([3.0, 1.0, 1.0]).view(1, 3, 1, 1, 1)
    assert measures.inconsistency(forward, backward, spacing).abs().max() < 1e-5
    assert measures.inconsistency(forward, forward, spacing).mean() == pytest.approx(12, rel=1e-5)


def test_overlap_and_surfaces_of_shifted_cubes() -> None:
    a = torch.zeros(20, 20, 20, dtype=torch.bool)
    a[5:15, 5:15, 5:15] = True
    b = a.roll(2, 0)
    assert measures.dice(a, b) == pytest.approx(0.8)
    assert measures.surface_distance_mm(a, a, (2.0, 2.0, 2.0)) == 0
    assert 0 < measures.surface_distance_mm(a, b, (2.0, 2.0, 2.0)) < 4
    assert measures.surface_distance_mm(a, torch.zeros_like(a), (1.0, 1.0, 1.0)) == math.inf
    whole = torch.ones(10, 10, 10, dtype=torch.bool)
    shift = torch.zeros(1, 3, 10, 10, 10)
    shift[:, 0] = 4
    assert measures.coverage(shift, whole, whole) == pytest.approx(0.6)
    assert measures.coverage(shift, ~whole, whole) == 0, "nothing inside covers nothing"


def test_roughness_is_that_of_a_parabola() -> None:
    x = torch.arange(15.0).view(15, 1, 1).expand(15, 15, 15)
    field = torch.zeros(1, 3, 15, 15, 15)
    mask = torch.ones(15, 15, 15, dtype=torch.bool)
    field[0, 0] = 3 * x
    assert measures.roughness(field, mask) == pytest.approx(0, abs=1e-3)
    field[0, 0] = 0.5 * x**2  # second derivative 1 in one of three components
    assert measures.roughness(field, mask) == pytest.approx(math.sqrt(1 / 3), rel=1e-3)


def test_a_linear_model_by_hand() -> None:
    model = Linear(("a", "b"), (1.0, 0.0), (2.0, 1.0), (0.5, -1.0), 0.25)
    assert model.parts({"a": 3.0, "b": 2.0}) == {"a": 0.5, "b": -2.0}
    assert model.parts({"a": 1e9, "b": None}) == {"a": 2.0, "b": 0.0}
    maps = model.maps({"a": torch.tensor([3.0, math.nan]), "b": torch.tensor([2.0, 0.0])})
    assert maps.tolist() == pytest.approx([0.25 + 0.5 - 2.0, 0.25])


def test_the_shipped_calibration_is_sound() -> None:
    calibration = shipped()
    for failure in (calibration.same, calibration.other):
        assert 0 < failure.look <= failure.fail < 1
        assert set(failure.model.names) <= set(COMPLAINTS)
        assert set(failure.most) <= set(failure.model.names)
    at, error = np.array(calibration.knots).T
    assert (np.diff(at) > 0).all()
    assert (np.diff(error) >= 0).all()
    assert error[0] > 0
    assert 0 < calibration.share68 < calibration.share95


def test_the_expected_error_follows_the_knots() -> None:
    model = Linear(("x",), (0.0,), (1.0,), (1.0,), 0.0)
    failure = Failure(model, 0.2, 0.8)
    calibration = Calibration(failure, failure, model, ((0.0, 1.0), (2.0, 3.0)), 1.0, 2.0)
    found = calibration.expected_error_mm({"x": torch.tensor([-3.0, 0.0, 1.0, 3.0])})
    assert found.tolist() == pytest.approx([1, 1, 2, 3])
    assert failure.probability({"x": 0.0}) == pytest.approx(0.5)


def test_the_three_verdicts() -> None:
    numbers = (0.0, 1.0, 1.0, 0.0, 0.0, 0.1, 0.2)
    assert Quality(*numbers, ()).verdict == "pass"
    look = Quality(*numbers, (), doubts=("edges",))
    assert (look.verdict, look.passed) == ("look", True)
    assert look.with_inverse(9.0).verdict == "fail"
    assert look.as_dict()["doubts"] == ["edges"]


def evidence_of(phantom: Phantom, spacing: float, shift: float = 0.0) -> Evidence:
    pair = []
    for data in (phantom.t2, phantom.t1):
        tensor = torch.from_numpy(data)[None, None]
        pair.append(Conformed(tensor, Grid.centred(data.shape, spacing, np.zeros(3)), (tensor > 0).float()))
    field = torch.zeros(1, 3, *phantom.t2.shape)
    field[:, 0] = shift
    still = torch.zeros_like(field)
    found = examine(*pair, field, -field, perturbed=Perturbed((still, still), still, pair[0].mask))
    assert found is not None
    return found


def judged_by(bias: float, most: dict[str, float] | None = None) -> Calibration:
    model = Linear(("pinning",), (0.0,), (1.0,), (0.0,), bias)
    failure = Failure(model, 0.3, 0.8, most or {})
    return Calibration(failure, failure, model, ((0.0, 1.0), (1.0, 1.0)), 1.0, 2.0)


@pytest.mark.parametrize(("bias", "word"), [(-3.0, "pass"), (0.0, "look"), (3.0, "fail")])
def test_the_probability_decides_where_no_rule_does(phantom: Phantom, bias: float, word: str) -> None:
    quality = judge(evidence_of(phantom, 4.0), judged_by(bias))
    assert quality.verdict == word
    assert quality.failure_probability == pytest.approx(1 / (1 + math.exp(-bias)))
    said = quality.reasons if word == "fail" else quality.doubts
    assert [COMPLAINTS["pinning"] in text for text in said] == [True] * (word != "pass")


@pytest.mark.parametrize(("bias", "word"), [(-3.0, "look"), (3.0, "fail")])
def test_what_no_right_result_has_is_looked_at(phantom: Phantom, bias: float, word: str) -> None:
    given = evidence_of(phantom, 4.0)
    quality = judge(given, judged_by(bias, {"agreement": -1.0, "gain": 1e9}))
    assert quality.verdict == word
    told = [doubt for doubt in quality.doubts if "any right result known" in doubt]
    assert told == [f"{COMPLAINTS['agreement']}, more than in any right result known"] * (word == "look")


def test_images_unlike_those_of_the_calibration_never_pass(phantom: Phantom) -> None:
    small = judge(evidence_of(phantom, 1.0), judged_by(3.0))
    assert (small.verdict, small.failure_probability) == ("look", None)


def test_the_evidence_of_a_shift_has_its_known_values(phantom: Phantom) -> None:
    found = evidence_of(phantom, 4.0, shift=2.0)
    quality = judge(found, judged_by(-3.0))
    assert quality.displacement_p95_mm == pytest.approx(8)
    assert quality.roughness_voxels == pytest.approx(0, abs=1e-5)
    assert quality.inconsistency_mean_mm == pytest.approx(0, abs=1e-4)
    assert quality.foreground_dice is not None
    assert 0.8 < quality.foreground_dice < 1
    assert quality.edge_agreement_before is not None
    assert quality.edge_agreement_after is not None
    assert quality.edge_agreement_after < quality.edge_agreement_before
    log_spread = local_features(found)["log_spread"]
    assert log_spread is not None
    assert log_spread[found.inside].exp().mean() == pytest.approx(8, rel=1e-5)
    still = local_features(evidence_of(phantom, 4.0))["log_spread"]
    assert (still == math.log(0.01)).all(), "a hundredth of a millimetre is none"


def test_a_limit_belongs_to_the_worse_verdict(phantom: Phantom) -> None:
    calibration, quality = judged_by(0.0), judge(evidence_of(phantom, 4.0), judged_by(-3.0))
    for probability, word in ((0.2999, "pass"), (0.3, "look"), (0.7999, "look"), (0.8, "fail")):
        limit = replace(quality, failure_probability=probability)
        assert judged(limit, {"pinning": 0.0}, calibration.same, is_calibrated=True).verdict == word


@pytest.mark.parametrize(
    ("probability", "apart_mm", "word"),
    [
        (0.9, None, "fail"), (0.9, 6.5, "look"), (0.9, 6.6, "fail"), (0.9, 40.0, "fail"),
        (0.5, None, "look"), (0.5, 2.0, "look"), (0.5, 10.0, "look"), (0.5, 10.1, "fail"),
    ],
)  # fmt: skip
def test_structures_that_meet_or_do_not_know_better_than_edges(
    phantom: Phantom, probability: float, apart_mm: float | None, word: str
) -> None:
    quality = replace(judge(evidence_of(phantom, 4.0), judged_by(-3.0)), failure_probability=probability)
    found = judged(quality, {"pinning": 0.0}, judged_by(0.0).same, is_calibrated=True, apart_mm=lambda: apart_mm)
    assert (found.verdict, found.structures_apart_mm) == (word, apart_mm)
    told = "; ".join(found.reasons + found.doubts)
    assert ("structures" in told) == (apart_mm is not None)


def test_structures_are_not_asked_where_nothing_or_something_surer_speaks_against_a_result(phantom: Phantom) -> None:
    def asked() -> float:
        raise AssertionError

    quality, failure = judge(evidence_of(phantom, 4.0), judged_by(-3.0)), judged_by(0.0).same
    good = replace(quality, failure_probability=0.1)
    folded = replace(quality, failure_probability=0.9, folding_percent=5.0)
    for one, word in ((good, "pass"), (folded, "fail")):
        assert judged(one, {"pinning": 0.0}, failure, is_calibrated=True, apart_mm=asked).verdict == word


def test_edges_that_the_moved_image_lost_count_against_it(phantom: Phantom, generator: torch.Generator) -> None:
    """Slabs of half the texture are gone: half of the fixed image's edges find none, though all that are left agree."""
    found = evidence_of(phantom, 4.0)
    texture = torch.rand(found.fixed.tensor.shape, generator=generator)
    lost = texture * (torch.arange(texture.shape[2]) % 12 < 6).view(1, 1, -1, 1, 1)
    textured = replace(found, fixed=replace(found.fixed, tensor=texture))
    assert _edge_agreement(textured, texture) > 0.95
    assert 0.4 < _edge_agreement(textured, lost) < 0.7


def test_a_shift_is_expected_to_be_wrong(phantom: Phantom) -> None:
    right, wrong = evidence_of(phantom, 4.0), evidence_of(phantom, 4.0, shift=2.0)
    onto = right.fixed.grid
    inside = phantom.labels > 0
    at_best, off = (error_map(found, onto).data[inside].mean() for found in (right, wrong))
    assert 0 < at_best < 0.5 * off
    assert error_map(right, onto).data[0, 0, 0] == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 4.0)])
def test_distances_and_surfaces_are_those_of_scipy(spacing: tuple[float, float, float]) -> None:
    generator = np.random.default_rng(6)
    a, b = (ndi.gaussian_filter(generator.random((18, 22, 15)), 2.0) for _ in range(2))
    a, b = a > np.median(a), b > np.quantile(b, 0.6)
    way = measures.distance_mm(torch.from_numpy(a), spacing)
    np.testing.assert_allclose(way, ndi.distance_transform_edt(~a, sampling=spacing), rtol=1e-5)
    surfaces = [mask & ~ndi.binary_erosion(mask) for mask in (a, b)]
    ways = [ndi.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    expected = (ways[1][surfaces[0]].sum() + ways[0][surfaces[1]].sum()) / sum(one.sum() for one in surfaces)
    found = measures.surface_distance_mm(torch.from_numpy(a), torch.from_numpy(b), spacing)
    assert found == pytest.approx(expected, rel=1e-5)
