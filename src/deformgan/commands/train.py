"""``deformgan train``: train T, and with it G and D, as a configuration says."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from deformgan.commands.console import Console, Progress, success
from deformgan.commands.options import Json, Messages, OutFolder, Threads
from deformgan.errors import UsageError

_NEEDED = ("accelerate",)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train networks as a configuration file says; a run that was stopped goes on where it was.

    The output folder gets checkpoint/, metrics.jsonl, samples/ and at the end model/, which register takes with --model. Several GPUs: accelerate launch -m deformgan train CONFIG -o DIR.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG", help_behavior_hint="")]
    """TOML file."""
    out: OutFolder
    """Folder of the run; one that holds a checkpoint is resumed."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="ROOT", help_behavior_hint="(default: as in CONFIG)")] = None
    """Folder of the patients and label maps, or CSV file of pairs, in place of root in the [data] section."""
    minutes: Annotated[float, tyro.conf.arg(metavar="M", help_behavior_hint="(default: no limit)")] = math.inf
    """Stop after M minutes with a checkpoint and the model as it is; the same command goes on."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Threads = field(default_factory=Threads)

    def run(self, console: Console) -> None:
        """Train to the last step.

        Raises:
            UsageError: The libraries for training are not installed, or the checkpoint is of another configuration.
        """
        if not self.minutes > 0:
            raise UsageError(f"--minutes cannot be {self.minutes:g}", "give more than 0, or leave it out")
        self.compute.set_threads()
        with console.progress() as progress:
            latest = _Latest(progress)
            try:
                model = self._train(latest)
            except ModuleNotFoundError as error:
                raise _missing(error) from error
        if os.environ.get("RANK", "0") == "0":  # one answer, however many processes train
            console.result(f"{model}: {latest.text}", success({"model": str(model), **latest.record}))

    def _train(self, latest: _Latest) -> Path:
        from deformgan.networks import KINDS
        from deformgan.workshop.training.anatomy import train_anatomy
        from deformgan.workshop.training.anatomy_config import AnatomyConfig
        from deformgan.workshop.training.config import TrainingConfig
        from deformgan.workshop.training.loop import train
        from deformgan.workshop.training.settings import read_toml

        values = read_toml(self.config)
        network = values.get("network")
        if isinstance(network, dict) and KINDS.get(str(network.get("kind")), "T")[0] == "S":
            anatomy = AnatomyConfig.from_dict(values)
            return train_anatomy(
                anatomy if self.data is None else replace(anatomy, root=str(self.data)), self.out, latest, self.minutes
            )
        config = TrainingConfig.from_dict(values)
        if self.data is not None:
            config = replace(config, data=replace(config.data, root=str(self.data)))
        return train(config, self.out, latest, self.minutes)


class _Latest:
    """Keeps the last step's numbers and shows them as they come."""

    def __init__(self, progress: Progress) -> None:
        self.text = "nothing left to do"
        self.record: dict[str, float] = {}
        self._progress = progress

    def __call__(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        self.record = {"step": step, "steps": steps, **{k: v for k, v in metrics.items() if abs(v) < float("inf")}}
        self.text = f"step {step} of {steps}, " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._progress(self.text)


def _missing(error: ModuleNotFoundError) -> Exception:
    if error.name in _NEEDED:
        return UsageError(f"training needs {error.name}", "pip install 'deformgan[train]'")
    return error
