"""Registrations of known error, good and deliberately degraded, and what the quality check measures of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS
from deformgan.align.start import find_start
from deformgan.io.image import load_labels
from deformgan.models.load import Model
from deformgan.preprocess.conform import Conformed, conform_pair
from deformgan.preprocess.scan import read_pair
from deformgan.quality.assess import Evidence, examine, features, judge, local_features
from deformgan.quality.calibration import Calibration, Failure, Linear
from deformgan.refine import Perturbed, perturbed, refine
from deformgan.spatial.field import affine_field, compose, resize
from deformgan.transforms.transform import load_transform
from deformgan.workshop.evaluation.cases import read_meta

MEAN_LIMIT_MM, P95_LIMIT_MM = 3.0, 8.0
FEW, SHORT = 15, 30  # steps of a registration that was stopped early, and of one that starts in the wrong place
# what a user's registrations may be like, of which the expected error is learned; made-up errors would teach it others
NATURAL = ("registered", "stopped early", "a lobe displaced")
VOXELS = 3000  # of each registration that take part in calibrating the expected error
_UNDECIDED = Linear((), (), (), (), -60.0)
# judges nothing: for the hard rules alone
_NEVER = Failure(_UNDECIDED, 2.0, 2.0)
NEUTRAL = Calibration(_NEVER, _NEVER, _UNDECIDED, ((0.0, 0.0), (1.0, 1.0)), 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One registration.

    Args:
        case, subject, kind: What was registered, and how it was degraded.
        error_mean_mm, error_p95_mm: Against the truth; None where none exists (a pair that does not belong together).
        features: Of the logistic model.
        reasons: Of the hard rules.
        voxels: (n, 1 + features) of some voxels: error in mm, then the local features; empty where not kept.
        refined_as: ``same`` person or ``other``: each has a model of its own.
        limits_mm: Mean and 95th percentile of the error, above which it is a failure.
        doubts: Of the rules: what a person is to look at whatever the model says.
    """

    case: str
    subject: str
    kind: str
    error_mean_mm: float | None
    error_p95_mm: float | None
    features: dict[str, float | None]
    reasons: tuple[str, ...]
    voxels: np.ndarray
    refined_as: str = "same"
    limits_mm: tuple[float, float] = (MEAN_LIMIT_MM, P95_LIMIT_MM)
    doubts: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """The definition of a failure."""
        if self.error_mean_mm is None or self.error_p95_mm is None:
            return True
        return self.error_mean_mm > self.limits_mm[0] or self.error_p95_mm > self.limits_mm[1]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the voxels."""
        return {k: v for k, v in asdict(replace(self, voxels=np.empty(0))).items() if k != "voxels"}


@dataclass(frozen=True, eq=False)
class _Known:
    """A pair on its working grids with its true field at half resolution and where that is true."""

    name: str
    subject: str
    pair: tuple[Conformed, Conformed]
    truth: Tensor
    known: Tensor


def samples_of(folders: list[Path], i: int, model: Model, seed: int) -> Iterator[Sample]:
    """All registrations of one of the cases; its junk and its wrong partner come from the next one."""
    case, other = (_read(folders[(i + more) % len(folders)]) for more in (0, 1))
    yield from _of_case(case, other, model, torch.Generator().manual_seed(seed * 1000 + i))


@lru_cache(2)
def _read(folder: Path) -> _Known:
    scans = read_pair(*((folder / f"{name}.nii.gz", None, None) for name in ("fixed", "moving")))
    conformed = conform_pair(*scans, find_start(*scans).fixed_to_moving)
    pair = conformed.fixed, conformed.moving
    half = pair[0].grid.resized(tuple(n // 2 for n in pair[0].grid.shape))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in half.shape), indexing="ij"), -1).reshape(-1, 3)
    world = half.to_world(index)
    target = pair[1].grid.resized(half.shape).to_index(load_transform(folder / "true_warp.nii.gz").map_points(world))
    truth = torch.from_numpy((target - index).T.reshape(1, 3, *half.shape)).float()
    mask = load_labels(folder / "mask.nii.gz")
    at = np.rint(mask.grid.to_index(world)).astype(int)
    within = ((at >= 0) & (at < mask.data.shape)).all(1)
    known = np.zeros(len(at), bool)
    known[within] = mask.data[tuple(at[within].T)] > 0
    inside = F.adaptive_avg_pool3d(pair[0].mask, half.shape)[0, 0] > 0.5
    meta = read_meta(folder)
    return _Known(
        f"{folder.parent.name}/{folder.name}",
        str(meta["subject"]),
        pair,
        truth,
        torch.from_numpy(known.reshape(half.shape)) & inside,
    )


def _of_case(case: _Known, other: _Known, model: Model, generator: torch.Generator) -> Iterator[Sample]:
    fixed, moving = case.pair
    shape = tuple(case.truth.shape[2:])

    def predicted(target: Conformed) -> Tensor:
        return resize(model.predict(fixed.tensor, target.tensor), shape)

    def run(kind: str, target: Conformed, truth: Tensor | None, start: Tensor | None, steps: int) -> Tensor:
        start = predicted(target) if start is None else start
        found = refine(fixed.tensor, target.tensor, start, steps, mask=fixed.mask)
        results.append((kind, target, resize(found, shape), truth))
        return results[-1][2]

    results: list[tuple[str, Conformed, Tensor, Tensor | None]] = []
    good = run("registered", moving, case.truth, None, DEFAULT_STEPS)

    def add(kind: str, field: Tensor) -> None:
        results.append((kind, moving, field, case.truth))

    add("true field", case.truth)
    add("T alone", predicted(moving))
    run("stopped early", moving, case.truth, None, FEW)
    add("slightly off", good + _smooth(shape, generator, 6.0, 0.5))
    add("nothing done", torch.zeros_like(good))
    add("shifted 5-15 mm", good + _shift(generator, 5, 15))
    for _ in range(2):
        add("a lobe displaced", good + _lobe(case.known, generator))
    add("rough", good + _smooth(shape, generator, 1.5, 1.6))
    add("wavy", good + _smooth(shape, generator, 5.0, float(_uniform(generator, 1.2, 3.0))))
    turn = _turn(case.known, float(_uniform(generator, 30, 180)), generator)
    add("turned", compose(good, turn))
    run("wrong basin", moving, case.truth, compose(predicted(moving), turn), SHORT)
    add("another case's field", other.truth)
    mirrored = replace(moving, tensor=moving.tensor.flip(2), mask=moving.mask.flip(2))
    run("mirrored", mirrored, _mirrored(case.truth), None, SHORT)
    if other.subject != case.subject:
        run("another person", other.pair[1], None, None, SHORT)
    run("noise", _noise(moving, generator), None, None, SHORT)
    again = {steps: _again(case, model, steps) for steps in (DEFAULT_STEPS, FEW)}
    for kind, target, field, truth in results:
        backward = model.predict(target.tensor, fixed.tensor)
        near = again[FEW if kind == "stopped early" else DEFAULT_STEPS] if kind in NATURAL else None
        evidence = examine(fixed, target, field, backward, perturbed=near)
        assert evidence is not None
        yield _sample(case, kind, evidence, truth, generator)


def _again(case: _Known, model: Model, steps: int) -> Perturbed:
    fixed, moving = case.pair
    start, backward = (
        resize(model.predict(a.tensor, b.tensor), tuple(case.truth.shape[2:]))
        for a, b in ((fixed, moving), (moving, fixed))
    )
    masks = fixed.mask, moving.mask
    return perturbed(fixed.tensor, moving.tensor, start, backward, masks=masks, steps=steps)


def _sample(case: _Known, kind: str, evidence: Evidence, truth: Tensor | None, generator: torch.Generator) -> Sample:
    mean = p95 = None
    voxels = np.empty((0, 3))
    if truth is not None:
        spacing = torch.from_numpy(evidence.fixed.grid.spacing).float().view(1, 3, 1, 1, 1)
        error = ((evidence.field - truth) * spacing).square().sum(1).sqrt()[0]
        mean, p95 = float(error[case.known].mean()), float(error[case.known].quantile(0.95))
        maps = [error, *(m for m in local_features(evidence).values() if m is not None)]
        index = torch.nonzero(case.known)
        chosen = index[torch.randperm(len(index), generator=generator)[:VOXELS]].T
        voxels = np.stack([m[tuple(chosen)].numpy() for m in maps], 1).astype(np.float32)
    reasons = judge(evidence, NEUTRAL).reasons
    return Sample(case.name, case.subject, kind, mean, p95, features(evidence), reasons, voxels)


def _uniform(generator: torch.Generator, low: float, high: float, size: tuple[int, ...] = (1,)) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=generator)


def _direction(generator: torch.Generator) -> Tensor:
    vector = torch.randn(3, generator=generator)
    return vector / vector.norm()


def _shift(generator: torch.Generator, low_mm: float, high_mm: float) -> Tensor:
    """In voxels of 3 mm, (1, 3, 1, 1, 1)."""
    return (_direction(generator) * _uniform(generator, low_mm, high_mm) / 3).view(1, 3, 1, 1, 1)


def _lobe(known: Tensor, generator: torch.Generator) -> Tensor:
    """A Gaussian bump of 8 to 20 mm at a place inside."""
    index = torch.nonzero(known)
    centre = index[int(torch.randint(len(index), (1,), generator=generator))]
    axes = torch.meshgrid(*[torch.arange(n) for n in known.shape], indexing="ij")
    squared = sum((a - c) ** 2 for a, c in zip(axes, centre.tolist(), strict=True))
    width = float(_uniform(generator, 5, 10))
    return _shift(generator, 8, 20) * torch.exp(-squared / (2 * width**2))  # type: ignore[operator]


def _smooth(shape: tuple[int, ...], generator: torch.Generator, knots: float, rms: float) -> Tensor:
    """Random field of ``rms`` voxels in length, with about ``knots`` voxels between its knots."""
    coarse = torch.randn(1, 3, *[max(3, round(n / knots)) for n in shape], generator=generator)
    field = F.interpolate(coarse, size=shape, mode="trilinear")
    return field * (rms / field.square().sum(1).mean().sqrt())


def _turn(known: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotation about the content's middle and any axis, as a displacement."""
    a, b, c = _direction(generator).tolist()
    cross = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    rotation = torch.linalg.matrix_exp(cross * float(np.radians(degrees)))
    centre = torch.nonzero(known).float().mean(0)
    matrix = torch.cat([rotation, (centre - rotation @ centre)[:, None]], 1)
    return affine_field(matrix[None], tuple(known.shape))


def _mirrored(field: Tensor) -> Tensor:
    """The true field to a moving image whose first axis was flipped."""
    n = field.shape[2]
    x = torch.arange(n, dtype=torch.float32).view(1, n, 1, 1)
    out = field.clone()
    out[:, 0] = (n - 1) - (x + field[:, 0]) - x
    return out


def _noise(like: Conformed, generator: torch.Generator) -> Conformed:
    """Smooth noise in the outline of the image."""
    shape = tuple(like.tensor.shape[2:])
    coarse = torch.rand(1, 1, *[n // 6 for n in shape], generator=generator)
    return replace(like, tensor=F.interpolate(coarse, size=shape, mode="trilinear") * like.mask)
