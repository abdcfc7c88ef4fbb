"""What a GPU records must neither wait for its values nor fetch any from the processor.

There is no GPU here: tensors without values stand for one. What they are asked for, and what is copied to them, shows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deformgan.models.load import load_model
from deformgan.refine import fluid
from deformgan.refine.objective import CapturedObjective, Objective
from deformgan.refine.parameters import Parameters
from deformgan.refine.settings import DEFAULT_FLUID, DEFAULT_SETTINGS
from deformgan.refine.weights import Weight
from deformgan.spatial import recorded as module
from deformgan.spatial.native.library import is_available
from deformgan.spatial.recorded import Recorded, Repeated, recorded

SHAPE = (16, 24, 16)


class _NothingCopied(TorchDispatchMode):
    """Raises where a tensor on the processor becomes one on the other device, or values are asked for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        to = kwargs.get("device")
        if name == "_to_copy" and to is not None and torch.device(to) != args[0].device:
            raise AssertionError(f"copied to {to}")
        if name in ("copy_", "_copy_from") and args[0].device != args[1].device:
            raise AssertionError("copied to another device")
        if name in ("_local_scalar_dense", "nonzero", "masked_select"):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which does not know tensors without values."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def nothing_copied(work: Callable[[], object]) -> None:
    """Once for what is made once and kept, then watched."""

    def made(*_: object, **__: object) -> None:
        raise AssertionError("made of numbers of the processor's")

    work()
    with _NothingCopied(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", made)
        work()


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def test_the_watch_sees_copies_and_questions() -> None:
    here = torch.ones(3)
    for work in (
        lambda: here.to("meta"),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: here.sum().item(),
        lambda: here.nonzero(),
    ):
        with pytest.raises(AssertionError):
            nothing_copied(work)


def objective(device: str, kind: type[Objective]) -> tuple[Parameters, Objective]:
    generator = torch.Generator().manual_seed(3)
    fixed, moving = (torch.rand(1, 1, *SHAPE, generator=generator).to(device) for _ in range(2))
    control = (0.1 * torch.randn(1, 3, 4, 6, 4, generator=generator)).to(device)
    affine = torch.zeros(3, 4, device=device)
    parameters = Parameters(SHAPE, affine, control, DEFAULT_SETTINGS.smoothing)
    return parameters, kind(parameters, fixed, moving, torch.ones_like(fixed), DEFAULT_SETTINGS)


def test_a_step_with_control_points_can_be_recorded() -> None:
    _, found = objective("meta", CapturedObjective)
    nothing_copied(lambda: found._played(meta(), meta(), meta(), meta()))


@pytest.mark.parametrize("share", [1.0, 0.98])
def test_a_fluid_step_can_be_recorded(share: float) -> None:
    level = fluid_level("meta")
    step = replace(level.step(0), share=share)
    field = meta(1, 3, *SHAPE)
    drive = level.drive(field)
    nothing_copied(lambda: fluid._advanced(field, meta(), level, drive, step))


def fluid_level(device: str, moving_weight: bool = False) -> fluid._Level:
    generator = torch.Generator().manual_seed(4)
    fixed, moving = (torch.rand(1, 1, *SHAPE, generator=generator).to(device) for _ in range(2))
    weight = Weight(torch.ones_like(fixed), torch.ones_like(fixed) if moving_weight else None)
    box = tuple(slice(0, n) for n in SHAPE)
    return fluid._Level(SHAPE, box, fixed, moving, weight, 7, DEFAULT_FLUID)


def test_the_network_can_be_recorded() -> None:
    network = load_model("t1-t2").network.to("meta")
    with torch.inference_mode():
        nothing_copied(lambda: network(meta(1, 1, 32, 32, 32), meta(1, 1, 32, 32, 32)))


class _Played:
    """What a recording does, on the processor."""

    made = 0

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor) -> None:
        type(self).made += 1
        self._function = function
        self._results = function(*arguments)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        for own, new in zip(self._results, self._function(*arguments), strict=True):
            own.copy_(new)
        return self._results


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[_Played]:
    monkeypatch.setattr(_Played, "made", 0)
    monkeypatch.setattr(module, "Recorded", _Played)
    return _Played


def test_recorded_steps_are_the_same(played: type[_Played]) -> None:
    (one, plain), (other, captured) = (objective("cpu", kind) for kind in (Objective, CapturedObjective))
    for number, bending in enumerate((0.02, 0.5, 0.02), 1):
        for found in (plain, captured):
            found.descend(bending, (0.1 / number, 0.02), number)
    for a, b in zip(one.variables, other.variables, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert played.made == 1


def test_steps_whose_weights_change_are_not_recorded(played: type[_Played]) -> None:
    (one, plain), (other, captured) = (objective("cpu", kind) for kind in (Objective, CapturedObjective))
    captured.descend(0.1, (0.1, 0.02), 1)
    plain.descend(0.1, (0.1, 0.02), 1)
    weight = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    for found in (plain, captured):
        found.weigh(weight)
        found.descend(0.1, (0.1, 0.02), 2)
    for a, b in zip(one.variables, other.variables, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert played.made == 1


@pytest.mark.skipif(not is_available(), reason="the kernels are not built")
@pytest.mark.parametrize("moving_weight", [False, True])
def test_fluid_steps_by_pytorch_are_those_of_the_compiled_code(moving_weight: bool) -> None:
    level, field = fluid_level("cpu", moving_weight), torch.zeros(1, 3, *SHAPE)
    expected = fluid._flow(field, level, lambda _: None)
    torch.testing.assert_close(fluid._flow_by_pytorch(field, level, lambda _: None), expected, atol=2e-3, rtol=2e-3)
    assert float(expected.abs().amax()) > 0.5


def test_what_is_asked_for_again_is_recorded_then(played: type[_Played]) -> None:
    again = Repeated(lambda x: (2 * x,))
    one, two = torch.tensor([1.0]), torch.tensor([1.0, 2.0])
    first = again("one", one)
    assert (again("one", 3 * one)[0], played.made) == (torch.tensor([6.0]), 1)
    second = again("one", 4 * one)[0]
    again("one", 5 * one)
    assert (first[0], second, played.made) == (torch.tensor([2.0]), torch.tensor([8.0]), 1), "earlier results stay"
    torch.testing.assert_close(again("two", two)[0], torch.tensor([2.0, 4.0]))
    assert played.made == 1, "another kind, once"


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, *_: object) -> None:
            raise RuntimeError("no graph")

    monkeypatch.setattr(module, "Recorded", Refused)
    found = recorded(lambda x: (x + 1,), torch.tensor([1.0]))
    assert float(found(torch.tensor([4.0]))[0]) == 5


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
def test_on_a_gpu_it_is_the_same() -> None:
    matrix = torch.rand(5, 5, device="cuda")
    played_back = Recorded(lambda x: (matrix @ x,), torch.ones(5, 5, device="cuda"))
    for _ in range(3):
        x = torch.rand(5, 5, device="cuda")
        torch.testing.assert_close(played_back(x)[0], matrix @ x)


@gpu
def test_on_a_gpu_refinement_is_recorded_and_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (one, plain), (other, captured) = (
        objective(device, kind) for device, kind in (("cpu", Objective), ("cuda", CapturedObjective))
    )
    for number, bending in enumerate((0.02, 0.5, 0.02), 1):
        for found in (plain, captured):
            found.descend(bending, (0.01 / number, 0.002), number)
    for a, b in zip(one.variables, other.variables, strict=True):
        torch.testing.assert_close(b.cpu(), a, atol=1e-4, rtol=1e-3)
    field = torch.zeros(1, 3, *SHAPE)
    expected = fluid._flow_by_pytorch(field, fluid_level("cpu"), lambda _: None)
    torch.testing.assert_close(
        fluid._flow(field.cuda(), fluid_level("cuda"), lambda _: None).cpu(), expected, atol=2e-3, rtol=2e-3
    )
    assert not caplog.records, "each is recorded"
