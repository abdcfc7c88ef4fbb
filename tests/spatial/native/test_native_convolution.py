"""Convolutions, mixing and enlarging in compiled code against PyTorch in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deformgan.networks.blocks import Convolution, Layers
from deformgan.spatial import native
from deformgan.spatial.native import convolution, library
from deformgan.spatial.native.use import without_kernels

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that is small."""
    monkeypatch.setattr(convolution, "native_threads", lambda size: request.param)
    return request.param


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@each_level
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (3, 4, 7), (9, 6, 8)], ids=str)
@pytest.mark.parametrize("channels", [(8, 16), (32, 3), (20, 33), (1, 5)], ids=str)
def test_a_convolution_with_what_follows(level: int, shape: tuple[int, ...], channels: tuple[int, int]) -> None:
    inputs, outputs = channels
    image, weight = drawn(2, inputs, *shape), drawn(outputs, inputs, 3, 3, 3) / (27 * inputs) ** 0.5
    bias, added = drawn(outputs), drawn(2, outputs, *shape)
    plain = F.conv3d(image.double(), weight.double(), bias.double(), padding=1)
    packed = convolution.pack(weight, level)
    for planar in (False, True):
        found = convolution.convolve(image, packed, bias, planar=planar, level=level)
        torch.testing.assert_close(found.double(), plain, atol=1e-5, rtol=1e-5)
        assert found.is_contiguous(memory_format=torch.contiguous_format if planar else torch.channels_last_3d)
        found = convolution.convolve(image, packed, bias, slope=0.1, added=added, planar=planar, level=level)
        torch.testing.assert_close(found.double(), F.leaky_relu(plain, 0.1) + added, atol=1e-5, rtol=1e-5)


@each_level
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 6, 7), (4, 8, 16)], ids=str)
@pytest.mark.parametrize("channels", [(1, 3), (37, 32)], ids=str)
def test_channels_are_mixed(level: int, shape: tuple[int, ...], channels: tuple[int, int]) -> None:
    image, weight, bias = drawn(1, channels[0], *shape), drawn(channels[1], channels[0], 1, 1, 1), drawn(channels[1])
    expected = F.leaky_relu(F.conv3d(image.double(), weight.double(), bias.double()), 0.2)
    found = convolution.mix(image, weight, bias, 0.2, level)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@each_level
@pytest.mark.parametrize("coarse", [(1, 1, 1), (2, 4, 3), (7, 5, 6)], ids=str)
def test_coarse_features_are_added(level: int, coarse: tuple[int, ...]) -> None:
    fine, below = drawn(1, 5, 7, 8, 6), drawn(1, 5, *coarse)
    expected = fine + F.interpolate(below, size=(7, 8, 6), mode="trilinear", align_corners=False)
    torch.testing.assert_close(convolution.add_enlarged(fine, below, level), expected, atol=1e-5, rtol=1e-5)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    image, weight, bias = drawn(1, 16, 9, 10, 11), drawn(16, 16, 3, 3, 3), drawn(16)
    packed, found = convolution.pack(weight), []
    for threads in (1, 2, 7):
        monkeypatch.setattr(convolution, "native_threads", lambda size, n=threads: n)
        found.append(convolution.convolve(image, packed, bias))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_does_not_fit_is_refused() -> None:
    packed = convolution.pack(drawn(4, 8, 3, 3, 3))
    with pytest.raises(ValueError, match="not for"):
        convolution.convolve(drawn(1, 40, 4, 4, 4), packed, drawn(4))
    with pytest.raises(ValueError, match="what is added"):
        convolution.convolve(drawn(1, 8, 4, 4, 4), packed, drawn(4), added=drawn(1, 4, 4, 4, 5))
    with pytest.raises(ValueError, match="weights are"):
        convolution.pack(drawn(4, 8, 1, 1, 1))
    with pytest.raises(ValueError, match="cannot mix"):
        convolution.mix(drawn(1, 8, 4, 4, 4), drawn(4, 9, 1, 1, 1), drawn(4))
    with pytest.raises(ValueError, match="cannot add"):
        convolution.add_enlarged(drawn(1, 8, 4, 4, 4), drawn(1, 7, 2, 2, 2))


@torch.no_grad()
def test_a_layer_follows_its_weights() -> None:
    layers = Layers(Convolution(8, 16, 3, 1, 1), torch.nn.LeakyReLU(0.1), Convolution(16, 8, 3, 2, 1))
    image = drawn(2, 8, 6, 8, 10)
    for change in (lambda w: w.mul_(2), lambda w: w.add_(1), lambda w: setattr(w, "data", w.data * 3)):
        found = layers(image)
        with without_kernels():
            torch.testing.assert_close(found, layers(image), atol=1e-3, rtol=1e-4)
        change(layers[0].weight)
    layers[0].weight = torch.nn.Parameter(drawn(16, 8, 3, 3, 3))
    found = layers(image)
    with without_kernels():
        torch.testing.assert_close(found, layers(image), atol=1e-4, rtol=1e-4)


def test_derivatives_do_not_go_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, image = Convolution(8, 8, 3, 1, 1), drawn(1, 8, 4, 4, 4)
    monkeypatch.setattr(convolution, "convolve", lambda *a, **k: pytest.fail("a derivative is wanted"))
    layer(image).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(image).dtype == torch.bfloat16
