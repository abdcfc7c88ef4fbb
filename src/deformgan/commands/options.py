"""Options that several subcommands share."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from deformgan.align.options import Device, Precision
from deformgan.errors import UsageError
from deformgan.spatial.native.threads import Usage, free_cpus

MOST_THREADS = 256  # far more crash the libraries below
OutFolder = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
Json = Annotated[bool, tyro.conf.arg(help="Answer with one JSON object on stdout.", help_behavior_hint="")]
Force = Annotated[bool, tyro.conf.arg(help="Replace results that are there.", help_behavior_hint="")]
Steps = Annotated[int, tyro.conf.arg(metavar="N", help="Optimisation steps after the network, 0 for none.")]
ModelName = Annotated[
    str, tyro.conf.arg(metavar="NAME|DIR", help="Shipped weights by name (see deformgan info), or a folder.")
]


@dataclass(frozen=True, kw_only=True)
class Messages:
    """How much to say."""

    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"], help_behavior_hint="")] = False
    """Only errors and the result."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"], help_behavior_hint="")] = False
    """Also each stage and its time, and what the libraries log."""
    log: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """Add everything that is said, with the time, to this file."""


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How much of the machine to use."""

    threads: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the free cores)")] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        # what others do is seen from here, where the command is read, to where PyTorch is there
        object.__setattr__(self, "_before", Usage.now())

    def set_threads(self) -> None:
        """Tell PyTorch the number of threads.

        Raises:
            UsageError: Fewer than one, or far too many.
        """
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads} is less than 1", "leave it out to use the free cores")
        if self.threads is not None and self.threads > max(MOST_THREADS, os.cpu_count() or 1):
            raise UsageError(f"--threads {self.threads} is more than any gain", "leave it out to use the free cores")
        import torch

        free = free_cpus(self._before, Usage.now())  # type: ignore[attr-defined]
        torch.set_num_threads(self.threads or min(torch.get_num_threads(), free))


@dataclass(frozen=True, kw_only=True)
class Compute(Threads):
    """Where and with what to compute."""

    device: Device = "auto"
    """auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """Number format inside the network; auto is bf16 where the device gains by it."""


def given(command: Any) -> dict[str, Any]:
    """A command's name and options as they were given, JSON-able; those of its groups among the others."""
    options = {"command": type(command).__name__.lower(), **asdict(command)}
    for group in ("options", "compute"):
        options |= options.pop(group, {})
    options.pop("messages", None)
    return {name: one if isinstance(one, str | int | float | None) else str(one) for name, one in options.items()}
