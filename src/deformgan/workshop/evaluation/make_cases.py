"""Making cases to score: real patients and label maps under known fields, in the layout of `workshop.simulation`.

The truth of a patient's case is what both volumes show. Where a deformation takes brain out of the moving volume, as it
may in training, ``moving_true``, ``fixed_seg`` and ``mask`` end there too: a perfect field scores perfectly.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.output.folder import staged_folder
from deformgan.spatial.field import identity_positions, resize
from deformgan.spatial.grid import Grid, Shape
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.choice import choose_patients
from deformgan.workshop.datasets.config import DataConfig, Part
from deformgan.workshop.datasets.patients import Patient
from deformgan.workshop.datasets.subjects import Subject, load_subjects
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.simulation.anatomy import read_anatomy
from deformgan.workshop.simulation.cases import (
    FILES,
    SHAPE,
    TUMOUR_LABELS,
    SimulatedCase,
    deformed,
    make_case,
    write_case,
)
from deformgan.workshop.simulation.contrasts import TUMOUR_CORE
from deformgan.workshop.simulation.deformation import (
    REGIMES,
    Deformation,
    DeformationConfig,
    polished_inverse,
    sample_deformation,
)

PATIENT, LABEL_MAP = "patient", "label-map"
_SAME = ("kind", "subject", "regime", "seed", "contrast", "shape")  # what makes a case there the one that is wanted
# strong enough that most draws exceed 40 voxels and are scaled down to what is asked for
_STRONG = DeformationConfig(40.0, (8.0, 12.0), (9.0, 14.0), 24.0, (12.0, 12.0, 45.0), 0.15, 0.03)
_DRAWS, _NEAR = 40, 0.95


@dataclass(frozen=True)
class CasePlan:
    """Which test cases to make.

    Args:
        root: Folder that patients and label maps are relative to.
        patients: From `patients_to_score`: two co-registered contrasts each.
        label_maps: Label maps with FreeSurfer's ids.
        per_regime: Cases of each regime and kind; patients and label maps take turns.
        regimes: Names in `deformgan.workshop.simulation.deformation.REGIMES`.
        seed: Of everything; a case is the same however many others are made.
        fixed, moving: Contrasts.
        shape: Voxels of a case.
        spacing: Their size in mm, for patients; a label map's case fits the head.
    """

    root: Path
    patients: tuple[str | Patient, ...] = ()
    label_maps: tuple[str, ...] = ()
    per_regime: int = 10
    regimes: tuple[str, ...] = ("small", "medium", "large")
    seed: int = 0
    fixed: str = "t2"
    moving: str = "t1"
    shape: Shape = SHAPE
    spacing: float = 1.5

    def __post_init__(self) -> None:
        unknown = set(self.regimes) - set(REGIMES)
        if unknown or not self.regimes:
            raise UsageError(
                f"there is no regime {', '.join(sorted(unknown)) or 'chosen'}", f"use {', '.join(REGIMES)}"
            )
        if self.per_regime < 1:
            raise UsageError(f"{self.per_regime} cases of a regime are none", "ask for one at least")
        if self.fixed == self.moving:
            raise UsageError(f"fixed and moving are both {self.fixed}", "choose two contrasts")
        if not (self.patients or self.label_maps):
            raise UsageError("there is nothing to make cases of", "name patients or label maps")

    @property
    def tasks(self) -> list[tuple[str, str | Patient, str, int]]:
        """(kind, subject, regime, number) of each case, in the order of their folders."""
        kinds = [(kind, those) for kind, those in ((PATIENT, self.patients), (LABEL_MAP, self.label_maps)) if those]
        return [
            (kind, those[k % len(those)], regime, k)
            for k in range(self.per_regime)
            for kind, those in kinds
            for regime in self.regimes
        ]


def patients_to_score(
    root: Path, named: Sequence[str], contrasts: tuple[str, str], part: Part = "test", layout: str = "auto"
) -> tuple[str | Patient, ...]:
    """The patients to make cases of: those named, else those of a part of what ``root`` holds.

    Args:
        root: Folder in any layout that `find_patients` knows, or a CSV file of pairs.
        named: Folders of ``root``, or names of patients found in it.
        contrasts: Of the fixed and the moving image; a patient that lacks one is told and left out.
        part: Of the split: ``test`` are those that training with the same folder leaves alone.
        layout: As `find_patients` has it.

    Raises:
        InputError: ``root`` is not there, is laid out in no way that is known, or has nobody to offer.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist", "give the folder of the patients")
    if named:
        return tuple(named)
    config = DataConfig(
        root=str(root), layout=layout, part=part, contrasts=dict.fromkeys(contrasts, 1.0), direction=contrasts
    )
    return choose_patients(config)[0]


def make_test_cases(out: Path, plan: CasePlan, *, force: bool = False) -> Iterator[Path]:
    """Write the cases of a plan as ``out/case_000`` and so on, and yield each folder once it is whole.

    A case that is there already is kept, so that a run that was stopped goes on.

    Args:
        out: Made if it is not there.
        plan: See there.
        force: Make every case anew.

    Raises:
        UsageError: A case of another plan is in the way.
        InputError: A patient or label map cannot be used, or the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix="deformgan-") as cache:
        for i, (kind, subject, regime, k) in enumerate(plan.tasks):
            folder = Path(out) / f"case_{i:03d}"
            name = subject.name if isinstance(subject, Patient) else subject
            wanted = {
                "kind": kind,
                "subject": Path(name).name if kind == PATIENT else Path(name).name.split(".nii")[0],
                "regime": regime,
                "seed": plan.seed,
                "contrast": f"{plan.fixed.upper()}<-{plan.moving.upper()}",
                "shape": list(plan.shape),
            }
            if force or not _is_there(folder, wanted):
                generator = _generator(plan.seed, kind, regime, k)
                if kind == PATIENT:
                    case = _patient_case(_subject(plan, subject, cache), plan, regime, generator)
                else:
                    anatomy = read_anatomy(plan.root / name)
                    options = {"fixed": plan.fixed, "moving": plan.moving, "shape": plan.shape}
                    case = make_case(anatomy, regime, generator, **options)
                case.meta.update(wanted, case=i)
                with staged_folder(folder, FILES, force=force, last="meta.json") as staging:
                    write_case(case, staging)
            yield folder


def _generator(seed: int, *what: object) -> torch.Generator:
    """Random numbers of one case, whatever others there are."""
    digest = hashlib.sha256(json.dumps([seed, *what]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _is_there(folder: Path, wanted: dict[str, object]) -> bool:
    path = folder / "meta.json"
    if not path.is_file():
        return False
    try:
        meta = parse_json(read_small(path))
        if all(meta[key] == wanted[key] for key in _SAME):
            return True
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{folder} is a case of another kind or seed", "give --force to replace it, or another folder")


def _subject(plan: CasePlan, patient: str | Patient, cache: str) -> Subject:
    contrasts = dict.fromkeys(sorted((plan.fixed, plan.moving)), 1.0)
    config = DataConfig(root=str(plan.root), contrasts=contrasts, cache=cache, shape=plan.shape, spacing=plan.spacing)
    return load_subjects(config, (patient,))[0]


def _patient_case(subject: Subject, plan: CasePlan, regime: str, generator: torch.Generator) -> SimulatedCase:
    """The patient's own two images, one of them sampled once through the inverse of a drawn deformation."""
    mask = subject.mask > 0
    # at the strength of the regime, as in training: content may leave the volume
    deformation = sample_deformation(plan.shape, regime, generator, mask.float(), keep_inside=False)
    shown = _shown(deformation)
    fixed, true = (subject.volumes[name].float() / 255 for name in (plan.fixed, plan.moving))
    tumour = (subject.lesion > 0).short() * TUMOUR_CORE
    grid = Grid.centred(plan.shape, plan.spacing, [0.0, 0.0, 0.0])  # type: ignore[arg-type]
    seen = mask & shown
    length = deformation.forward.square().sum(1, keepdim=True).sqrt()[seen]
    return SimulatedCase(
        fixed=fixed,
        moving=deformed(true, mask, deformation.inverse),
        moving_true=true * shown,
        fixed_labels=tumour * shown,
        moving_labels=warp(tumour, deformation.inverse, mode="nearest"),
        mask=seen,
        deformation=deformation,
        grid=grid,
        meta={
            "source": subject.name,
            "tumour": bool((tumour * shown).any()),
            "tumour_labels": list(TUMOUR_LABELS),
            "spacing_mm": round(plan.spacing, 4),
            "max_u": round(float(length.max()), 2),
            "mean_u": round(float(length.mean()), 2),
            "jac_min": round(deformation.min_jacobian, 3),
            "inverse_err_max": round(deformation.inverse_error, 4),
            "cut_percent": round(100 * (1 - float(seen.sum()) / float(mask.sum())), 2),
        },
    )


def _shown(deformation: Deformation) -> torch.Tensor:
    """Where the true source lies inside the moving volume, (1, 1, D, H, W) bool."""
    shape = tuple(deformation.forward.shape[2:])
    source = identity_positions(shape) + deformation.forward
    upper = torch.tensor(shape).view(1, 3, 1, 1, 1) - 1.0
    return ((source >= 0) & (source <= upper)).all(1, keepdim=True)


def redeformed(case: EvaluationCase, voxels: float, seed: int) -> EvaluationCase:
    """A case's images with another deformation between them, the largest displacement near ``voxels``.

    Drawn at a quarter of the resolution, as in training, until it comes within a twentieth of what is asked for.

    Raises:
        UsageError: ``voxels`` is not above 0.
    """
    if not voxels > 0:
        raise UsageError(f"a largest displacement of {voxels:g} voxels is none", "give a number above 0")
    generator = _generator(seed, case.name, voxels)
    factor = 4
    coarse = tuple(max(8, n // factor) for n in case.shape)
    mask = torch.nn.functional.adaptive_avg_pool3d(case.mask.float(), coarse)  # type: ignore[arg-type]
    config = replace(_STRONG, max_displacement=voxels).scaled(coarse[0] / case.shape[0])
    best: Deformation | None = None
    for _ in range(_DRAWS):
        drawn = sample_deformation(coarse, config, generator, mask, keep_inside=False, polish=2)
        if best is None or drawn.max_displacement > best.max_displacement:
            best = drawn
        if best.max_displacement >= _NEAR * config.max_displacement:
            break
    assert best is not None
    forward, inverse = (resize(f, case.shape) for f in (best.forward, best.inverse))
    inverse = polished_inverse(forward, inverse, 2)
    shown = _shown(Deformation(forward, inverse, 0.0, 0.0, 0.0))
    length = forward.square().sum(1, keepdim=True).sqrt()[case.mask & shown]
    return replace(
        case,
        moving=deformed(case.moving_true, case.mask, inverse),
        moving_true=case.moving_true * shown,
        fixed_labels=case.fixed_labels * shown,
        moving_labels=warp(case.fixed_labels, inverse, mode="nearest"),
        mask=case.mask & shown,
        field=forward,
        meta={**case.meta, "max_u": round(float(length.max()), 2), "mean_u": round(float(length.mean()), 2)},
    )
