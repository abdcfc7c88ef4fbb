"""What every network of the registry offers, whatever it is made of: a new one is held to it by its line there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deformgan.models.load import load_model, save_model
from deformgan.networks import KINDS, build, network_class
from deformgan.networks.base import DiscriminatorNetwork, GeneratorNetwork, TransformationNetwork, reduced
from deformgan.spatial.field import resize
from deformgan.workshop.training.predict import Staged, stage_fields

BASES = {"T": TransformationNetwork, "G": GeneratorNetwork, "D": DiscriminatorNetwork}
# small ones, of every kind that has more than a few weights
SMALL: dict[str, dict[str, Any]] = {
    "pyramid": {"widths": [8, 16, 16], "stage_width": 8, "stage_depth": 8, "iterations": 2},
    "unet": {"widths": [4, 8]},
    "generator": {"widths": [4, 8]},
    "local-generator": {"width": 4, "depth": 2},
    "discriminator": {"widths": [4, 8]},
}
SIZE = 32


def kinds(role: str) -> list[str]:
    return [kind for kind, place in KINDS.items() if place[0] == role]


def small(kind: str) -> Any:
    torch.manual_seed(0)
    network = build({"kind": kind, **SMALL.get(kind, {})}).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # heads start at nothing: every output would be alike
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return network


def pair(size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(1, 1, size, size, size, generator=generator) for _ in range(2))
    return a, b


@pytest.mark.parametrize("kind", [kind for kind, place in KINDS.items() if place[0] in BASES])
def test_a_kind_has_the_base_of_its_role(kind: str) -> None:
    assert issubclass(network_class(kind), BASES[KINDS[kind][0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_built_for_its_role_alone(kind: str) -> None:
    role = KINDS[kind][0]
    assert network_class(kind, role) is network_class(kind)
    for other in {"T", "G", "D", "S"} - {role}:
        with pytest.raises(ValueError, match=f"the kind of {other} is one of"):
            build({"kind": kind}, other)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("kind", kinds("T"))
def test_forward_is_the_last_stage(kind: str) -> None:
    network, images = small(kind), pair()
    field = network(*images)
    last = network.stages(*(reduced(image, network.input_reduction) for image in images))[-1]
    assert field.dtype == torch.float32
    assert field.shape[:2] == (1, 3)
    assert 0 < float(field.abs().amax()) < SIZE
    assert SIZE % field.shape[2] == 0
    torch.testing.assert_close(field, resize(last, tuple(field.shape[2:])))


@torch.inference_mode()
@pytest.mark.parametrize("kind", kinds("T"))
def test_training_sees_the_same_through_its_wrapper(kind: str) -> None:
    network, images = small(kind), pair()
    for plain, wrapped in zip(stage_fields(network, *images), Staged(network)(*images), strict=True):
        torch.testing.assert_close(plain, wrapped, rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", kinds("T"))
def test_the_output_grows_with_the_grid_unless_the_network_sees_one_resolution(kind: str) -> None:
    network = small(kind)
    rescaled = copy.deepcopy(network)
    rescaled.rescale_output(2.0)
    factor = 1.0 if network.input_reduction > 1 else 2.0
    torch.testing.assert_close(rescaled(*pair()), factor * network(*pair()), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize("kind", kinds("T"))
def test_it_is_saved_loaded_and_run(kind: str, scale: float, tmp_path: Path) -> None:
    network, config = small(kind), {"kind": kind, **SMALL[kind]}
    grid = {"shape": [SIZE] * 3, "spacing": 1.5}
    save_model(tmp_path, network, {"network": config, "grid": grid, "scale": scale})
    model = load_model(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["network"] == config
    seen = [reduced(image, model.reduction) for image in pair()]
    torch.testing.assert_close(model.predict(*pair(), precision="fp32"), network(*seen), rtol=1e-3, atol=1e-4)
    # at the resolution of training in all: by whoever runs it, or by itself
    assert model.reduction * network.input_reduction == (2 if scale == 0.5 else network.input_reduction)


@torch.inference_mode()
@pytest.mark.parametrize("kind", kinds("G"))
def test_a_generator_keeps_shape_and_range(kind: str) -> None:
    image = 2 * pair(16)[0] - 1
    made = small(kind)(image)
    assert made.shape == image.shape
    assert float(made.abs().amax()) <= 1


@torch.inference_mode()
@pytest.mark.parametrize("kind", kinds("D"))
def test_a_discriminator_gives_one_logit_an_image(kind: str) -> None:
    images = torch.cat(pair())
    assert small(kind)(images, images).shape == (2, 1)
