"""``deformgan-bids``: the cohort as a BIDS App, called as all of them are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deformgan import __version__
from deformgan.commands import cohort as shared
from deformgan.commands.arguments import renewed
from deformgan.commands.console import Console
from deformgan.commands.main import run_command
from deformgan.commands.options import Json, Messages
from deformgan.errors import EXIT_BUG, EXIT_OK, UsageError

Labels = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL", help_behavior_hint="(default: all)")]


@dataclass(frozen=True, kw_only=True)
class BidsApp:
    """Align two contrasts, or two sessions, of every person of a BIDS data set.

    Outputs are a BIDS derivative: transforms for ANTs and ITK (*_xfm.h5), the moved image, a page a person, and at group level group_registration.tsv and .html.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    bids_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BIDS_DIR", help_behavior_hint="")]
    """Root of the data set."""
    output_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
    """Folder of the derivative."""
    analysis_level: Annotated[
        tyro.conf.Positional[Literal["participant", "group"]], tyro.conf.arg(help_behavior_hint="")
    ]
    """participant registers, and ends with the group's page; group writes table and page alone."""
    participant_label: Labels = ()
    """People, with or without sub-."""
    session_label: Labels = ()
    """Sessions, with or without ses-."""
    fixed_suffix: Annotated[str, tyro.conf.arg(metavar="SUFFIX")] = "T2w"
    """The image that stays."""
    moving_suffix: Annotated[str, tyro.conf.arg(metavar="SUFFIX")] = "T1w"
    """The image that is moved onto it."""
    onto_session: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="(optional)")] = None
    """Longitudinal: the moving image of every other session onto the fixed image of this one."""
    bids_filter_file: Annotated[Path | None, tyro.conf.arg(metavar="JSON", help_behavior_hint="(optional)")] = None
    """Entities to choose by: {"fixed": {"acq": "highres"}, "moving": {"run": null}}."""
    nprocs: Annotated[
        int | None,
        tyro.conf.arg(
            aliases=("--n-cpus", "--nthreads"), metavar="N", help_behavior_hint="(default: fits the machine)"
        ),
    ] = None
    """Pairs at a time."""
    omp_nthreads: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Threads of each."""
    mem_mb: Annotated[int | None, tyro.conf.arg(metavar="MB", help_behavior_hint="(default: the machine's)")] = None
    """Memory of all together."""
    skip_bids_validation: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Accepted because others have it: no validator is run here; names that are not BIDS are passed over."""
    reports_only: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """As the level group."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="(optional)")] = None
    """Dask scheduler whose workers are used."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="(optional)")] = None
    """Only the I-th of N parts."""
    what: shared.What = field(default_factory=shared.What)
    again: shared.Again = field(default_factory=shared.Again)
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Register, or gather; exit codes as of ``deformgan cohort``.

        Raises:
            UsageError: The data set holds no pair, or a library is missing.
            CohortError, QualityError: As ``deformgan cohort``.
        """
        with shared.needed_libraries():
            if self.analysis_level == "group" or self.reports_only:
                shared.CohortMerge(out=self.output_dir, json=self.json).run(console)
                return
            self._participants(console)

    def _participants(self, console: Console) -> None:
        from deformgan.cohort.bids import Selection, find_pairs, read_filters
        from deformgan.cohort.bids_outputs import write_description

        if self.output_dir.absolute() == self.bids_dir.absolute():
            raise UsageError("the output folder is the data set itself", "give another, such as derivatives/deformgan")
        require_h5py()
        chosen = Selection(
            fixed=self.fixed_suffix,
            moving=self.moving_suffix,
            people=self.participant_label,
            sessions=self.session_label,
            onto_session=self.onto_session,
            filters=read_filters(self.bids_filter_file) if self.bids_filter_file else {},
        )
        pairs, notes = find_pairs(self.bids_dir, chosen)
        shared.tell(console, notes)
        if not self.again.dry_run:
            write_description(self.output_dir, self.bids_dir, __version__)
        shared.conduct(
            console, shared.asked(self.output_dir, pairs, self.what, self._workers(), self.again), self.again.dry_run
        )

    def _workers(self) -> shared.Workers:
        from dask.system import CPU_COUNT

        memory = None
        if self.mem_mb is not None:
            together = self.nprocs or max(1, min(CPU_COUNT // self.omp_nthreads, self.mem_mb // 3000))
            memory = f"{self.mem_mb // together}MB"
        return shared.Workers(
            workers=self.nprocs,
            threads_per_worker=self.omp_nthreads,
            memory_limit=memory,
            scheduler=self.scheduler,
            shard=self.shard,
        )


def require_h5py() -> None:
    """Raise `UsageError` where transforms in HDF5 cannot be written."""
    import importlib.util

    if importlib.util.find_spec("h5py") is None:
        raise UsageError("BIDS derivatives need h5py", "pip install 'deformgan[cohort]'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-v"]):
        sys.stdout.write(f"deformgan {__version__}\n")
        return EXIT_OK
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    try:
        words, notes = renewed(_spaced(arguments), BidsApp)
        command = tyro.cli(BidsApp, args=words, prog="deformgan-bids", config=config)
    except SystemExit as stop:  # tyro has said why
        return stop.code if isinstance(stop.code, int) else EXIT_BUG
    return run_command(command, notes)


def _spaced(arguments: list[str]) -> list[str]:
    """``--participant_label`` as ``--participant-label``: older BIDS Apps have the one, newer ones the other."""
    return [one.replace("_", "-") if one.startswith("--") and "=" not in one else one for one in arguments]


if __name__ == "__main__":
    sys.exit(main())
