"""What G learns, stage by stage: the moved image, what G makes of it, and how well its edges follow.

A run's ``snapshots/`` folder holds T and G of some steps as ``step-NNNNNN/{T,G}.safetensors``, and beside them, or once
for all steps above them, ``config.json``: both networks (``T`` and ``G``, or ``network`` and ``generator``) and the
``scale`` of training. The similarity of edges is the local gradient similarity of the method between F(φ) and G(F(φ)),
both in [0, 1], at the resolution of training. This module measures; `deformgan.workshop.evaluation.panels` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deformgan.errors import InputError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.losses import local_gradient_similarity
from deformgan.models.load import fitting_network
from deformgan.networks import Role
from deformgan.networks.base import GeneratorNetwork, TransformationNetwork, reduced
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.metrics import endpoint_error

_SECTIONS: tuple[tuple[Role, str], ...] = (("T", "network"), ("G", "generator"))
_FOLDER, _CONFIG = "snapshots", "config.json"
_HINT = "give the folder of a run that was trained with a generator and kept snapshots"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """T and G as they were at one step of a run; ``scale`` is the resolution of training: 1, 0.5 or 0.25."""

    step: int
    transformation: TransformationNetwork
    generator: GeneratorNetwork
    scale: float


@dataclass(frozen=True, eq=False)
class Stage:
    """What a snapshot makes of a case, all (1, 1, d, h, w) at the resolution of training.

    Attributes:
        fixed, moved, generated: In [0, 1].
        mask: The brain, float.
        edges, edges_brain: Local gradient similarity of ``moved`` and ``generated`` over the volume and over the brain.
        error: Mean distance to the true field in voxels of the case.
    """

    fixed: Tensor
    moved: Tensor
    generated: Tensor
    mask: Tensor
    edges: float
    edges_brain: float
    error: float


def snapshot_steps(run: str | Path) -> list[int]:
    """The steps a run has kept, ascending.

    Raises:
        InputError: It has kept none.
    """
    folder = Path(run) / _FOLDER
    steps = sorted(
        int(p.parent.name.removeprefix("step-"))
        for p in folder.glob("step-*/G.safetensors")
        if p.parent.name.removeprefix("step-").isdigit()
    )
    if not steps:
        raise InputError(f"{folder} holds no snapshot of G", _HINT)
    return steps


def load_snapshot(run: str | Path, step: int, device: str | torch.device = "cpu") -> Snapshot:
    """T and G of one step, in evaluation mode.

    Raises:
        InputError: A file is missing, damaged, or does not fit its configuration.
    """
    folder = Path(run) / _FOLDER
    at = folder / f"step-{step:06d}"
    try:
        own = at / _CONFIG
        config = parse_json(read_small(own if own.is_file() else folder / _CONFIG))
        networks = []
        for role, section in _SECTIONS:
            state = load_file(at / f"{role}.safetensors")
            network = fitting_network(config[role] if role in config else config[section], state, role)
            network.load_state_dict(state)
            networks.append(network.eval().to(device))
        scale = float(config["scale"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the snapshot {at} cannot be used: {reason}", _HINT) from error
    return Snapshot(step, networks[0], networks[1], scale)


@torch.inference_mode()
def run_stage(snapshot: Snapshot, case: EvaluationCase, window: int = 7, epsilon: float = 1.0) -> Stage:
    """Register a case with T, translate the moved image with G, and measure.

    Args:
        snapshot: See there.
        case: Its sides must be multiples of what the snapshot's scale takes away.
        window, epsilon: Of the local gradient similarity.
    """
    device = next(snapshot.generator.parameters()).device
    fixed, moving, mask = (t.to(device).float() for t in (case.fixed, case.moving, case.mask))
    factor = round(1 / snapshot.scale)
    small = [reduced(image, factor) for image in (fixed, moving)]
    # some networks reduce images by themselves
    pair = (fixed, moving) if snapshot.transformation.input_reduction > 1 else small
    field = snapshot.transformation(*pair).float()
    error = float(endpoint_error(resize(field, tuple(fixed.shape[2:])).cpu(), case.field, case.mask).mean())
    fixed, moving = small
    mask = reduced(mask, factor)
    moved = warp(moving, resize(field, tuple(fixed.shape[2:])))
    generated = (snapshot.generator(2 * moved - 1).float() + 1) / 2
    edges, edges_brain = (
        float(local_gradient_similarity(generated, moved, window, epsilon, mask=m)) for m in (None, mask)
    )
    fixed, moved, generated, mask = (t.cpu() for t in (fixed, moved, generated, mask))
    return Stage(fixed, moved, generated, mask, edges, edges_brain, error)


def measure_synthesis(
    runs: Mapping[str, str | Path],
    cases: Sequence[EvaluationCase],
    device: str | torch.device = "cpu",
    window: int = 7,
    epsilon: float = 1.0,
) -> list[dict[str, Any]]:
    """Every kept step of every run on every case, as JSON-able rows.

    Args:
        runs: Name → folder.
        cases: At least one.
        device: Where the networks run.
        window, epsilon: Of the local gradient similarity.

    Returns:
        Dicts of ``run``, ``step``, ``scale``, ``case``, ``edges``, ``edges_brain`` and ``error`` as in `Stage`.

    Raises:
        InputError: There are no cases, or a run has no snapshots or damaged ones.
    """
    if not cases:
        raise InputError("there are no cases to run the snapshots on", "give one at least")
    rows = []
    for name, folder in runs.items():
        for step in snapshot_steps(folder):
            snapshot = load_snapshot(folder, step, device)
            for case in cases:
                stage = run_stage(snapshot, case, window, epsilon)
                numbers = {key: round(getattr(stage, key), 6) for key in ("edges", "edges_brain", "error")}
                rows.append({"run": name, "step": step, "scale": snapshot.scale, "case": case.name, **numbers})
    return rows
