"""The pyramid: its parts against plain computations, and what its fields mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from derivatives import derivatives_agree
from torch import Tensor, nn

from deformgan.networks import build
from deformgan.networks.base import reduced
from deformgan.networks.correlation import local_correlation
from deformgan.networks.pyramid import Encoder, GlobalMatching, PyramidNetwork
from deformgan.spatial.field import compose, resize
from deformgan.spatial.warp import warp

pytestmark = pytest.mark.processor

WIDTHS = (8, 8, 16)


def network(seed: int = 0, bend: float = 0.05, **options: int) -> PyramidNetwork:
    """A small pyramid; with ``bend`` its last layers are large enough for fields of a voxel or so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = PyramidNetwork(WIDTHS, stage_width=8, stage_depth=8, **{"iterations": 1, **options})
        for head in (made.decoder.head, made.stage.head):
            nn.init.normal_(head.weight, std=bend)
    return made.eval()


def images(shape: tuple[int, ...] = (32, 32, 32), batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(2, batch, 1, *(n // 4 for n in shape), generator=generator)
    fixed, moving = (F.interpolate(c, size=shape, mode="trilinear", align_corners=False) for c in coarse)
    return fixed, moving


def features(channels: int, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_correlation(fixed: Tensor, moved: Tensor) -> Tensor:
    padded = F.pad(moved, [1] * 6)
    d, h, w = fixed.shape[2:]
    offsets = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    near = torch.stack([padded[:, :, i : i + d, j : j + h, k : k + w] for i, j, k in offsets], 1)
    return (fixed[:, None] * near).sum(2) / fixed.shape[1] ** 0.5


def test_local_correlation_and_its_gradient_equal_autograd() -> None:
    fixed, moved = (features(5, (4, 3, 6), seed).requires_grad_() for seed in (1, 2))
    ours, plain = local_correlation(fixed, moved), plain_correlation(fixed, moved)
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        torch.autograd.grad(ours, (fixed, moved), upstream), torch.autograd.grad(plain, (fixed, moved), upstream)
    )


def test_local_correlation_passes_gradcheck() -> None:
    fixed, moved = (features(2, (2, 3, 2), seed).requires_grad_() for seed in (1, 2))
    assert derivatives_agree(local_correlation, (fixed, moved))


def test_local_correlation_in_bf16_is_near_that_in_fp32() -> None:
    fixed, moved = (features(6, (4, 4, 4), seed, torch.float32) for seed in (1, 2))
    rounded = local_correlation(fixed.bfloat16(), moved.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), local_correlation(fixed, moved), atol=0.05, rtol=0.05)


def test_matching_finds_a_shift_wherever_it_leads() -> None:
    matching = GlobalMatching(12)
    with torch.no_grad():
        matching.project.weight.copy_(torch.eye(12).view(12, 12, 1, 1, 1))
        matching.project.bias.zero_()  # type: ignore[union-attr]
        matching.log_temperature.fill_(5.0)
    moving = features(12, (6, 6, 6), dtype=torch.float32)[:1]
    fixed = moving.roll((2, -1, 3), (2, 3, 4))  # fixed(x) = moving(x - shift)
    displacement, confidence = matching(fixed, moving)
    expected = torch.tensor([-2.0, 1.0, -3.0]).view(1, 3, 1, 1, 1)
    inner = (..., slice(2, None), slice(None, -1), slice(3, None))  # what was not wrapped around
    torch.testing.assert_close(displacement[inner], expected.expand_as(displacement[inner]), atol=0.02, rtol=0)
    assert confidence.shape == (1, 1, 6, 6, 6)
    assert 0.95 < float(confidence.min()) <= float(confidence.max()) <= 1


def test_matching_of_alike_features_knows_nothing() -> None:
    """Every position is as likely: all point to the middle, without confidence."""
    alike = torch.ones(1, 8, 3, 3, 3)
    displacement, confidence = GlobalMatching(8)(alike, alike)
    torch.testing.assert_close(displacement[0, :, 0, 0, 0], torch.ones(3))
    torch.testing.assert_close(displacement[0, :, 1, 1, 1], torch.zeros(3))
    torch.testing.assert_close(confidence, torch.full_like(confidence, 1 / 27))


def test_the_encoder_gives_features_at_a_quarter_and_an_eighth() -> None:
    quarter, eighth = Encoder(WIDTHS)(torch.rand(2, 1, 16, 24, 32))
    assert quarter.shape == (2, 8, 8, 12, 16)
    assert eighth.shape == (2, 8, 4, 6, 8)


def test_the_encoder_tells_the_sides_apart() -> None:
    """Mirrored images do not have mirrored features: the position takes part."""
    image = torch.rand(1, 1, 16, 16, 16)
    encoder = Encoder(WIDTHS)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Conv3d):  # symmetric along the first axis
                module.weight.copy_(0.5 * (module.weight + module.weight.flip(2)))
        image = 0.5 * (image + image.flip(2))
        upside = encoder.level8[1](encoder.level8[0](image.new_ones(1, 8, 8, 8, 8)))
        _, eighth = encoder(image)
    assert upside.shape == eighth.shape
    assert not torch.allclose(eighth, eighth.flip(2), atol=1e-3)


@pytest.mark.parametrize("shape", [(32, 32, 32), (36, 40, 28), (34, 32, 30)])
def test_the_field_is_at_half_resolution(shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        field = network()(*images(shape))
    assert isinstance(field, Tensor)
    assert field.shape == (1, 3, *(n // 2 for n in shape))
    assert field.dtype == torch.float32
    assert field.abs().max() > 0.01


def test_odd_sides_are_refused() -> None:
    image = torch.rand(1, 1, 33, 32, 32)
    with pytest.raises(ValueError, match="even sides"):
        network()(image, image)


def test_padding_inside_is_padding_outside() -> None:
    shape, padded = (36, 40, 28), (48, 48, 32)
    pair = images(shape)
    outside = [F.pad(i, [0, 4, 0, 8, 0, 12]) for i in pair]
    with torch.no_grad():
        inner, outer = network()(*pair), network()(*outside)
    assert outer.shape[2:] == tuple(n // 2 for n in padded)  # type: ignore[union-attr]
    torch.testing.assert_close(inner, outer[:, :, :18, :20, :14])


def test_an_untrained_pyramid_starts_near_the_identity() -> None:
    with torch.no_grad():
        field = network(bend=1e-3)(*images())
    assert field.abs().max() < 0.2  # type: ignore[union-attr]


def test_training_gets_every_stage_coarse_to_fine() -> None:
    pair = [reduced(i, 2) for i in images(batch=2)]
    with torch.no_grad():
        fields = network(iterations=2).stages(*pair)
    assert [tuple(f.shape) for f in fields] == [(2, 3, 4, 4, 4)] * 2 + [(2, 3, 8, 8, 8)] * 2


def test_inference_returns_the_last_stage_at_half_resolution() -> None:
    made, pair = network(), images()
    with torch.no_grad():
        last = made.stages(*(reduced(i, 2) for i in pair))[-1]
        torch.testing.assert_close(made(*pair), resize(last, (16, 16, 16)))


def test_a_second_pass_corrects_the_first() -> None:
    fixed, moving = images()
    with torch.no_grad():
        once, twice = network()(fixed, moving), network(passes=2)(fixed, moving)
        half = [reduced(fixed, 2), warp(reduced(moving, 2), once)]
        again = resize(network().stages(*half)[-1], (16, 16, 16))
        torch.testing.assert_close(twice, compose(once, again))
    assert not torch.allclose(once, twice)


def test_every_parameter_learns() -> None:
    made = network().train()
    fields = made.stages(*(reduced(i, 2) for i in images()))
    sum(f.square().mean() for f in fields).backward()  # type: ignore[union-attr]
    silent = [n for n, p in made.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not silent


def test_bf16_is_near_fp32() -> None:
    made, pair = network(), images()
    with torch.no_grad():
        full = made(*pair)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = made(*pair)
    assert rounded.dtype == torch.float32  # type: ignore[union-attr]
    assert (rounded - full).abs().max() < 0.05 * full.abs().max() + 0.02  # type: ignore[operator]


def test_shipped_weights_depend_on_names_and_sizes() -> None:
    """Whoever changes these needs new weights."""
    default = build({"kind": "pyramid"})
    assert sum(p.numel() for p in default.parameters()) == 2_683_635
    assert set(dict(default.named_children())) == {"encoder", "matching", "decoder", "stage"}
    assert "encoder.level16.2.weight" in default.state_dict()
    assert "stage.merge.0.weight" in default.state_dict()


@pytest.mark.parametrize("kind", ["pyramid", "unet", "generator", "discriminator"])
def test_networks_are_built_by_kind(kind: str) -> None:
    sizes = {"discriminator": [8, 8], "pyramid": list(WIDTHS)}
    config = {"kind": kind, "widths": sizes.get(kind, [4, 8])}
    assert isinstance(build(config), nn.Module)
    assert config["kind"] == kind  # left as it was


@pytest.mark.parametrize("config", [{}, {"kind": "transformer"}])
def test_unknown_kinds_are_refused(config: dict) -> None:
    with pytest.raises(ValueError, match="is one of pyramid"):
        build(config)
