"""``deformgan evaluate``: score methods on cases whose truth is known, and make the table of the comparison."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deformgan.commands.console import Console, Progress, success
from deformgan.commands.options import Compute, Force, Json, Messages, ModelName, OutFolder
from deformgan.commands.simulate import Contrast, Regime
from deformgan.errors import UsageError

if TYPE_CHECKING:
    from deformgan.workshop.datasets.patients import Patient
    from deformgan.workshop.evaluation.methods import Spec

Sweep = Literal["noise", "blur", "bias", "thick-slices", "inversion", "deformation"]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score methods on cases with a known deformation and make the table.

    Cases are read (--cases) or made of patients and label maps (--data). The output folder gets scores.jsonl, results.json, table.md and table.tex; a run that was stopped goes on where it was. Methods: identity, mi-fluid, deformgan, deformgan-net (the same without refinement), or NAME=FOLDER with a folder of weights or of another tool's fields.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    out: OutFolder
    """Folder for the results; made if it is not there."""
    method: Annotated[tuple[str, ...], tyro.conf.arg(metavar="M")]
    """What to score: identity, mi-fluid, deformgan, deformgan-net or NAME=FOLDER."""
    model: ModelName = "t1-t2"
    cases: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")] = None
    """Folder of cases, as simulate writes them."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="ROOT", help_behavior_hint="(optional)")] = None
    """Folder of patients to make cases of; they go to cases/ in the output folder."""
    patients: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: --part)")] = ()
    """Patients in ROOT, by name; none if label maps are given and no patients."""
    part: Literal["train", "test", "all"] = "test"
    """Which of the patients in ROOT where none are named: test are those that train with the same folder leaves out."""
    layout: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """How ROOT is laid out: brats, decathlon, folders, csv, or auto."""
    label_maps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")] = ()
    """Label maps with FreeSurfer's ids to make cases of, relative to ROOT."""
    per_regime: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Cases of each regime, of patients and of label maps; they take turns."""
    regime: Annotated[tuple[Regime, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")] = ()
    """How large the deformation is; of --cases, those of these regimes alone."""
    fixed: Contrast = "t2"
    """Contrast of the fixed image."""
    moving: Contrast = "t1"
    """Contrast of the moving image."""
    shape: tuple[int, int, int] = (112, 128, 96)
    """Voxels of the cases that are made."""
    spacing: Annotated[float, tyro.conf.arg(metavar="MM")] = 1.5
    """Their size, for patients; a label map's case fits the head."""
    seed: int = 0
    """The same seed makes the same cases."""
    compare: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B", help_behavior_hint="(optional)")] = ()
    """Pairs of methods to be tested against each other by name."""
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=A,B,…", help_behavior_hint="(optional)")] = ()
    """Methods that are one, taught from several seeds: the mean of their scores is a row too, named NAME."""
    sweep: Annotated[tuple[Sweep, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(optional)")] = ()
    """Score the cases perturbed step by step as well; written to sweeps.jsonl and sweeps.json."""
    caption: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(optional)")] = ""
    """What the table is to say first, for example the training budget."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Compute = field(default_factory=Compute)

    def run(self, console: Console) -> None:
        """Make or read the cases, score, write the tables, answer.

        Raises:
            UsageError: An unknown method, nothing to score, or results of another kind are in the way.
        """
        if (self.cases is None) == (self.data is None):
            raise UsageError(
                "there is nothing to score" if self.cases is None else "--cases and --data exclude each other",
                "give --cases DIR or --data ROOT",
            )
        self.compute.set_threads()
        import torch

        from deformgan.workshop.evaluation import results, run
        from deformgan.workshop.evaluation.methods import Compute as Resolved

        specs, groups = self._specs(), self._groups()
        pairs = self._pairs(groups)
        compute = Resolved(self.compute.device, self.compute.precision, torch.get_num_threads()).resolved()
        self._prepare(run.SCORES, run.SWEEP_SCORES, run.SETUP, results.RESULTS, results.SWEEPS)
        with console.progress() as progress:
            folders = self._folders(progress)
            jobs = [run.Job(str(folder)) for folder in folders]
            rows = run.score_all(self.out, specs, jobs, compute, progress=progress)
            record = results.collect(
                rows,
                specs,
                compute,
                command=["deformgan", *sys.argv[1:]],
                seed=self.seed,
                caption=self.caption,
                pairs=pairs,
                groups=groups,
            )
            results.write(self.out, record)
            if self.sweep:
                able = [spec for spec in specs if not spec.external]
                jobs = run.sweep_jobs(folders, dict.fromkeys(self.sweep), self.seed)
                swept = run.score_all(self.out, able, jobs, compute, file=run.SWEEP_SCORES, progress=progress)
                results.write_json(self.out / results.SWEEPS, results.collect_sweeps(record, swept))
        console.result(_line(record, self.out), success({"out": str(self.out), **record}))

    def _specs(self) -> list[Spec]:
        from deformgan.workshop.evaluation.methods import parse_method

        specs = [parse_method(text, self.model) for text in self.method]
        twice = sorted({s.name for s in specs if [t.name for t in specs].count(s.name) > 1})
        if twice or not specs:
            raise UsageError(
                f"the method {', '.join(twice) or '(none)'} is named {len(twice) and 'twice'}", "name each once"
            )
        return specs

    def _groups(self) -> dict[str, tuple[str, ...]]:
        names = {text.partition("=")[0] for text in self.method}
        groups: dict[str, tuple[str, ...]] = {}
        for text in self.seeds:
            name, _, members = text.partition("=")
            own = tuple(members.split(","))
            if not name or name in names | {*groups} or len({*own}) < max(2, len(own)) or not {*own} <= names:
                raise UsageError(
                    f"--seeds {text} does not name a new method and its seeds",
                    f"give NAME=A,B with two or more of {', '.join(sorted(names))}",
                )
            groups[name] = own
        return groups

    def _pairs(self, groups: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
        names = {text.partition("=")[0] for text in self.method} | {*groups}
        pairs = []
        for text in self.compare:
            pair = tuple(text.split(","))
            if len(pair) != 2 or not set(pair) <= names or pair[0] == pair[1]:
                raise UsageError(
                    f"--compare {text} is no pair of methods", f"give two of {', '.join(sorted(names))}, as A,B"
                )
            pairs.append(pair)
        return pairs

    def _prepare(self, *files: str) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is not a folder", "give another output folder")
        self.out.mkdir(parents=True, exist_ok=True)
        if self.force:
            for name in files:
                (self.out / name).unlink(missing_ok=True)

    def _folders(self, progress: Progress) -> list[Path]:
        from deformgan.workshop.evaluation.cases import find_cases, select_cases

        if self.cases is not None:
            return select_cases(find_cases(self.cases), self.regime)
        from deformgan.workshop.evaluation.make_cases import CasePlan, make_test_cases, patients_to_score

        assert self.data is not None
        patients: tuple[str | Patient, ...] = ()
        if self.patients or not self.label_maps:
            contrasts = (self.fixed, self.moving)
            patients = patients_to_score(self.data, self.patients, contrasts, self.part, self.layout)
        plan = CasePlan(
            root=self.data,
            patients=patients,
            label_maps=self.label_maps,
            per_regime=self.per_regime,
            regimes=self.regime or ("small", "medium", "large"),
            seed=self.seed,
            fixed=self.fixed,
            moving=self.moving,
            shape=self.shape,
            spacing=self.spacing,
        )
        progress(f"creating case 1 of {len(plan.tasks)}")
        folders = []
        for folder in make_test_cases(self.out / "cases", plan, force=self.force):
            folders.append(folder)
            progress(f"creating case {min(len(folders) + 1, len(plan.tasks))} of {len(plan.tasks)}")
        return folders


def _line(record: dict[str, Any], out: Path) -> str:
    """The mean error of each method over all cases, best first."""
    whole = [entry for entry in record["summary"] if entry["kind"] == entry["regime"] == "all"]
    ranked = sorted(whole, key=lambda entry: entry["error_mean"]["mean"])
    told = ", ".join(f"{entry['method']} {entry['error_mean']['mean']:.2f}" for entry in ranked)
    return f"{out}: {whole[0]['n']} cases; mean error in voxels: {told}"
