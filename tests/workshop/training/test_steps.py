"""The three steps: who changes, who does not, and what exactly is minimised."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.errors import UsageError
from deformgan.losses import (
    SIMILARITIES,
    gradient_energy,
    local_cross_correlation,
    local_gradient_similarity,
    mutual_information,
    ngf_similarity,
)
from deformgan.networks.base import TransformationNetwork
from deformgan.networks.discriminator import Discriminator
from deformgan.networks.generator import Generator
from deformgan.networks.unet import TransformationUNet
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.training.objective import LossWeights, Networks, bare
from deformgan.workshop.training.predict import Staged
from deformgan.workshop.training.steps import (
    TrainingBatch,
    discriminator_step,
    field_error,
    frozen,
    generator_step,
    moved_image,
    transformation_step,
)

SIZE = (8, 10, 6)
NARROW = (4, 6)
STEPS = {"transformation": transformation_step, "generator": generator_step, "discriminator": discriminator_step}


class Constant(TransformationNetwork):
    """A T that answers with one trainable field, whatever it sees."""

    def __init__(self, field: Tensor) -> None:
        super().__init__()
        self.field = nn.Parameter(field)

    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        return [self.field]


def smooth_noise(seed: int, channels: int = 1) -> Tensor:
    coarse = torch.rand(2, channels, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=SIZE, mode="trilinear", align_corners=False)


def make_batch() -> TrainingBatch:
    return TrainingBatch(smooth_noise(1), smooth_noise(2), true_field=2 * smooth_noise(3, 3) - 1)


def make_networks(conditional: bool = False, scale: int = 1) -> Networks:
    torch.manual_seed(0)
    transformation = TransformationUNet(NARROW, scale=scale)
    nn.init.normal_(transformation.unet.head.weight, std=0.2)  # fields of some voxels, not the identity
    return Networks(transformation, Generator(NARROW), Discriminator(conditional, (8, 16, 16)))


def adam(network: nn.Module | None) -> torch.optim.Optimizer:
    assert network is not None
    return torch.optim.Adam(network.parameters(), lr=1e-2)


def parameters_of(networks: Networks) -> dict[str, list[Tensor]]:
    return {name: [p.detach().clone() for p in getattr(networks, name).parameters()] for name in STEPS}


def minimised(step: Callable, networks: Networks, name: str, weights: LossWeights) -> tuple[Tensor, dict]:
    """The very loss that was differentiated, and the metrics."""
    seen = []

    def backward(loss: Tensor) -> None:
        seen.append(loss.detach().clone())
        loss.backward()

    metrics = step(networks, adam(getattr(networks, name)), make_batch(), weights, backward=backward)
    return seen[0], metrics


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", list(STEPS))
def test_a_step_changes_its_own_network_and_no_other(name: str, conditional: bool) -> None:
    networks = make_networks(conditional)
    before = parameters_of(networks)
    STEPS[name](networks, adam(getattr(networks, name)), make_batch(), LossWeights(known_field=1.0))
    after = parameters_of(networks)
    for other in STEPS:
        changed = [not torch.equal(a, b) for a, b in zip(before[other], after[other], strict=True)]
        assert all(changed) if other == name else not any(changed)
        module = getattr(networks, other)
        assert all(p.requires_grad for p in module.parameters())
        if other != name:
            assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("name", list(STEPS))
def test_a_step_leaves_the_gradients_and_the_modes_of_the_others_alone(name: str) -> None:
    networks = make_networks()
    assert networks.generator is not None
    networks.generator.eval()
    marks = {}
    for other in STEPS:
        if other != name:
            parameter = next(getattr(networks, other).parameters())
            parameter.grad = marks[other] = torch.full_like(parameter, 7.0)
    STEPS[name](networks, adam(getattr(networks, name)), make_batch(), LossWeights())
    for other, mark in marks.items():
        assert next(getattr(networks, other).parameters()).grad is mark
        assert (mark == 7.0).all()
    assert not networks.generator.training
    assert networks.transformation.training


@pytest.mark.parametrize("adversarial", ["bce", "least_squares"])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_loss_of_the_discriminator(adversarial: str, conditional: bool) -> None:
    networks = make_networks(conditional)
    batch = make_batch()
    with torch.no_grad():
        moved = moved_image(networks, batch)
        fake = networks.generator(2 * moved - 1)  # type: ignore[misc]
        real_logit = networks.discriminator(2 * batch.fixed - 1, 2 * moved - 1)  # type: ignore[misc]
        fake_logit = networks.discriminator(fake, 2 * moved - 1)  # type: ignore[misc]
    if adversarial == "bce":
        expected = -(real_logit.sigmoid().log().mean() + (1 - fake_logit.sigmoid()).log().mean()) / 2
    else:
        expected = ((real_logit - 1).square().mean() + fake_logit.square().mean()) / 2
    loss, metrics = minimised(discriminator_step, networks, "discriminator", LossWeights(adversarial=adversarial))  # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["d_loss"], expected)
    torch.testing.assert_close(metrics["d_real"], real_logit.sigmoid().mean())
    torch.testing.assert_close(metrics["d_fake"], fake_logit.sigmoid().mean())


@pytest.mark.parametrize("mu", [0.0, 5.0])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_loss_of_the_generator(mu: float, conditional: bool) -> None:
    networks = make_networks(conditional)
    batch = make_batch()
    with torch.no_grad():
        moved = moved_image(networks, batch)
        fake = networks.generator(2 * moved - 1)  # type: ignore[misc]
        logit = networks.discriminator(fake, 2 * moved - 1)  # type: ignore[misc]
        adversarial = -logit.sigmoid().log().mean()
        l1 = (fake - (2 * batch.fixed - 1)).abs().mean()
        edges = local_gradient_similarity((fake + 1) / 2, moved, 3)
    loss, metrics = minimised(generator_step, networks, "generator", LossWeights(generator_gradient=mu, window=3))
    torch.testing.assert_close(loss, adversarial + 100 * l1 - mu * edges)
    torch.testing.assert_close(metrics["g_adversarial"], adversarial)
    torch.testing.assert_close(metrics["g_l1"], l1)
    torch.testing.assert_close(metrics["g_lg"], edges if mu else torch.zeros(()))


@pytest.mark.parametrize("similarity", ["lcc_g+lg", "lg", "lcc", "mi", "ngf", "ngf2"])
def test_the_loss_of_the_transformation(similarity: str) -> None:
    networks = make_networks(scale=2)
    batch = make_batch()
    weights = LossWeights(similarity, smoothness=0.5, gradient=3.0, window=3)  # type: ignore[arg-type]
    with torch.no_grad():
        moved = moved_image(networks, batch)
        generated = (networks.generator(2 * moved - 1) + 1) / 2  # type: ignore[misc]
        expected = (
            0.5 * gradient_energy(networks.transformation(batch.fixed, batch.moving))
            - {
                "lcc_g+lg": lambda: (
                    local_cross_correlation(batch.fixed, generated, 3)
                    + 3 * local_gradient_similarity(batch.fixed, moved, 3)
                ),
                "lg": lambda: 3 * local_gradient_similarity(batch.fixed, moved, 3),
                "lcc": lambda: local_cross_correlation(batch.fixed, moved, 3),
                "mi": lambda: mutual_information(batch.fixed, moved),
                "ngf": lambda: ngf_similarity(batch.fixed, moved),
                "ngf2": lambda: ngf_similarity(batch.fixed, moved, squared=True),
            }[similarity]()
        )
    loss, metrics = minimised(transformation_step, networks, "transformation", weights)
    torch.testing.assert_close(loss, expected)
    terms = {"lcc_g+lg": {"t_lcc", "t_lg"}}.get(similarity, {f"t_{similarity}"})
    assert set(metrics) == {"t_loss", "t_smoothness", "t_field_error", *terms}


class TwoStages(TransformationNetwork):
    """A T of a raw match, a coarse field and a fine one, each a trainable number times a fixed field."""

    first_field = 1

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))

    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        coarse = F.avg_pool3d(smooth_noise(7, 3), 2)
        return [self.strength[0] * coarse, self.strength[1] * coarse, self.strength[2] * smooth_noise(8, 3)]


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_coarser_fields_count_in_the_losses_of_the_images_as_they_are_told_to(decay: float) -> None:
    batch, networks = make_batch(), Networks(TwoStages())
    weights = LossWeights("lcc", smoothness=0.5, stage_decay=decay, window=3)

    def cost(field: Tensor) -> Tensor:
        moved = warp(batch.moving, resize(field, SIZE))
        return 0.5 * gradient_energy(field) - local_cross_correlation(batch.fixed, moved, 3)

    with torch.no_grad():
        _, coarse, fine = networks.transformation.stages(batch.fixed, batch.moving)  # type: ignore[operator]
        expected = cost(fine) + decay * cost(coarse)
    loss, metrics = minimised(transformation_step, networks, "transformation", weights)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["t_smoothness"], gradient_energy(fine))
    grad = networks.transformation.strength.grad  # type: ignore[union-attr]
    assert grad is not None
    assert [bool(g) for g in grad] == [False, decay > 0, True]  # type: ignore[union-attr]


def test_the_known_field_counts_in_voxels_of_the_images_inside_the_mask() -> None:
    """A half-resolution field of (1, 0, 0) is (2, 0, 0) in the image's voxels; the truth is (5, 4, 0) in the mask."""
    truth = torch.zeros(2, 3, *SIZE)
    mask = torch.zeros(2, 1, *SIZE)
    mask[:, :, :4] = 1
    truth[:, 0, :4], truth[:, 1, :4] = 5.0, 4.0
    field = torch.zeros(2, 3, *(n // 2 for n in SIZE))
    field[:, 0] = 1.0
    batch = TrainingBatch(smooth_noise(1), smooth_noise(2), truth, mask)
    weights = LossWeights("lg", known_field=0.1)
    without = transformation_step(Networks(c := Constant(field.clone())), adam(c), batch, LossWeights("lg"))
    given = transformation_step(Networks(c := Constant(field.clone())), adam(c), batch, weights)
    assert without["t_field_error"].item() == pytest.approx(5.0, rel=1e-5)
    assert (given["t_loss"] - without["t_loss"]).item() == pytest.approx(0.5, rel=1e-4)


def test_field_error_of_equal_fields_has_a_finite_gradient() -> None:
    field = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    error = field_error(field, torch.zeros(1, 3, 4, 4, 4))
    error.backward()
    assert error.item() <= 1.001e-3
    assert field.grad is not None
    assert not field.grad.any()


def test_field_error_of_an_empty_mask_is_zero() -> None:
    assert field_error(torch.ones(1, 3, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)) == 0


def test_the_generator_carries_the_gradient_to_the_field() -> None:
    """With only the generated image in the loss (β = 0), T still learns."""
    networks = make_networks()
    weights = LossWeights("lcc_g+lg", gradient=0.0, smoothness=0.0, window=3)
    transformation_step(networks, adam(networks.transformation), make_batch(), weights)
    head = networks.transformation.unet.head  # type: ignore[union-attr]
    assert head.weight.grad.abs().max() > 0  # type: ignore[union-attr]


def test_a_moved_image_that_is_passed_in_replaces_a_run_of_t() -> None:
    networks = make_networks()
    batch = make_batch()
    moved = moved_image(networks, batch)
    assert not moved.requires_grad
    for name, step in (("generator", generator_step), ("discriminator", discriminator_step)):
        one, other = copy.deepcopy(networks), copy.deepcopy(networks)
        expected = step(one, adam(getattr(one, name)), batch, LossWeights())
        other.transformation.register_forward_pre_hook(lambda *_: pytest.fail("T was run"))
        given = step(other, adam(getattr(other, name)), batch, LossWeights(), moved=moved)
        assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in expected.items()}


@pytest.mark.parametrize("name", list(STEPS))
def test_steps_lower_their_loss_under_autocast(name: str) -> None:
    networks = make_networks()
    batch = make_batch()
    optimizer = adam(getattr(networks, name))
    weights = LossWeights(known_field=1.0, window=3)
    history = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16):
            metrics = STEPS[name](networks, optimizer, batch, weights)
        history.append(metrics[f"{name[0]}_loss"].item())
        assert all(value.dtype == torch.float32 and not value.requires_grad for value in metrics.values())
        assert all(math.isfinite(value.item()) for value in metrics.values())
    assert history[-1] < history[0]


def test_a_similarity_of_the_images_alone_needs_no_other_network() -> None:
    network = TransformationUNet(NARROW)
    metrics = transformation_step(Networks(network), adam(network), make_batch(), LossWeights("lcc"))
    assert "t_lcc" in metrics


def test_missing_networks_and_unknown_names_are_refused() -> None:
    network = TransformationUNet(NARROW)
    alone, batch = Networks(network), make_batch()
    for step in STEPS.values():
        with pytest.raises(ValueError, match="needs a generator and a discriminator"):
            step(alone, adam(network), batch, LossWeights())
    for wrong in (
        {"similarity": "ssd"},
        {"similarity": "lcc+ssd_g"},
        {"similarity": "lcc+lcc_g"},
        {"adversarial": "x"},
    ):
        with pytest.raises(UsageError):
            LossWeights(**wrong)  # type: ignore[arg-type]


def test_frozen_gives_the_parameters_back_even_after_an_error() -> None:
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)

    def fail_inside() -> None:
        with frozen(network):
            assert not network.weight.requires_grad
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert network.weight.requires_grad
    assert not network.bias.requires_grad


def test_bare_leaves_an_unwrapped_network_as_it_is() -> None:
    network = nn.Linear(2, 2)
    assert bare(network) is network


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # speed on several GPUs only
def test_the_steps_work_on_wrapped_networks(tmp_path: Path) -> None:
    plain = make_networks()
    made = make_networks()
    players = {"transformation": Staged(made.transformation)}  # as `train` hands it to the launcher
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        players |= {name: getattr(made, name) for name in ("generator", "discriminator")}
        wrapped = Networks(*(nn.parallel.DistributedDataParallel(players[name]) for name in STEPS))
        assert bare(wrapped.transformation) is wrapped.transformation.module
        for _ in range(2):
            for name in reversed(STEPS):
                for networks in (plain, wrapped):
                    STEPS[name](
                        networks,
                        torch.optim.SGD(getattr(networks, name).parameters(), 1e-3),
                        make_batch(),
                        LossWeights(),
                    )
    finally:
        torch.distributed.destroy_process_group()
    expected, given = parameters_of(plain), parameters_of(made)
    for name in STEPS:
        torch.testing.assert_close(given[name], expected[name])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_similarity_can_teach(name: str) -> None:
    torch.manual_seed(0)
    networks, batch = make_networks(), make_batch()
    metrics = transformation_step(
        networks, adam(networks.transformation), batch, LossWeights(name, smoothness=0.0, gradient=1.0, window=3)
    )
    torch.testing.assert_close(metrics["t_loss"], -metrics[f"t_{name}"])
    assert any(bool(p.grad.abs().sum() > 0) for p in networks.transformation.parameters() if p.grad is not None)
