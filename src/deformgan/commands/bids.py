"""``deformgan-bids``: the cohort as a BIDS App, called as all of them are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deformgan import __version__
from deformgan.commands import cohort as shared
from deformgan.commands.arguments import renewed
from deformgan.commands.console import Console, success
from deformgan.commands.main import run_command
from deformgan.commands.options import Json, Messages
from deformgan.commands.usage import refuse_repeated
from deformgan.errors import EXIT_BUG, EXIT_OK, DeformganError, InputError, UsageError

if TYPE_CHECKING:
    from deformgan.cohort.bids import Selection

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
    """Entities to choose by: {"fixed": {"acq": "highres"}, "moving": {"run": null}}; also mask, lesion, labels."""
    derivatives: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-d"], metavar="NAME=DIR", help_behavior_hint="(default: none)")
    ] = ()
    """Derivatives with files of the images: *_desc-brain_mask, *_label-lesion_mask, and *_dseg to be moved."""
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
    """Go on without the official validator, which is run first where bids-validator-deno is installed."""
    reports_only: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """As the level group."""
    boilerplate_only: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Only write the paragraph to cite, logs/CITATION.md and .bib."""
    config_file: Annotated[Path | None, tyro.conf.arg(metavar="TOML", help_behavior_hint="(optional)")] = None
    """Options of a file, one a line (fixed-suffix = "FLAIR"), under those given here; each run leaves one in logs/."""
    work_dir: Annotated[
        Path | None, tyro.conf.arg(aliases=["-w"], metavar="DIR", help_behavior_hint="(default: the system's)")
    ] = None
    """Folder for what workers keep for a while; nothing in it is needed afterwards."""
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
        from deformgan.cohort.bids import find_pairs
        from deformgan.cohort.bids_app import write_boilerplate
        from deformgan.cohort.bids_outputs import write_description

        if self.output_dir.absolute() == self.bids_dir.absolute():
            raise UsageError("the output folder is the data set itself", "give another, such as derivatives/deformgan")
        require_h5py()
        chosen = self._selection()
        if self.boilerplate_only:
            path = write_boilerplate(self.output_dir, self.what.settings(), chosen)
            console.result(f"{path} written", success({"out": str(self.output_dir), "boilerplate": str(path)}))
            return
        pairs, notes = find_pairs(self.bids_dir, chosen)
        shared.tell(console, notes)
        if not self.skip_bids_validation:
            self._validate(console)
        cohort = shared.asked(self.output_dir, pairs, self.what, self._workers(), self.again)
        if not self.again.dry_run:
            write_description(self.output_dir, self.bids_dir, chosen.derivatives)
            write_boilerplate(self.output_dir, cohort.settings, chosen)
            self._leave_options()
        shared.conduct(console, cohort, self.again.dry_run)

    def _selection(self) -> Selection:
        from deformgan.cohort.bids import Selection, read_filters
        from deformgan.cohort.bids_derivatives import read_derivatives

        return Selection(
            fixed=self.fixed_suffix,
            moving=self.moving_suffix,
            people=self.participant_label,
            sessions=self.session_label,
            onto_session=self.onto_session,
            filters=read_filters(self.bids_filter_file) if self.bids_filter_file else {},
            derivatives=read_derivatives(self.derivatives),
        )

    def _validate(self, console: Console) -> None:
        """Raise `InputError` where the official validator finds errors; tell of it where there is none."""
        from deformgan.cohort.bids_app import VALIDATOR, find_validator, validate

        validator = find_validator()
        if validator is None:
            console.note(f"the data set is not validated, for there is no {VALIDATOR} (pip install {VALIDATOR})")
            return
        wrong = validate(self.bids_dir, validator)
        if wrong:
            shared.tell(console, wrong)
            raise InputError(
                f"{self.bids_dir} is not valid BIDS: {len(wrong)} errors, the first {wrong[0]}",
                "correct them, or pass --skip-bids-validation",
            )

    def _leave_options(self) -> None:
        """The options of this run in ``logs/DATE-ID/deformgan.toml``, as ``--config-file`` takes them."""
        import time
        import uuid

        from deformgan.cohort.bids_app import LOGS, write_config

        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4()}"
        write_config(self.output_dir / LOGS / name / "deformgan.toml", _options(self))

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
            work_dir=self.work_dir,
        )


_ALIASES = {"--n-cpus": "--nprocs", "--nthreads": "--nprocs", "-w": "--work-dir", "-d": "--derivatives"}
_NOT_KEPT = ("bids_dir", "output_dir", "analysis_level", "config_file", "dry_run")


def _options(command: object) -> dict[str, Any]:
    """The options of a command, those of its groups among them, that are not what they are by themselves."""
    found: dict[str, Any] = {}
    for one in fields(command):  # type: ignore[arg-type]
        value = getattr(command, one.name)
        if is_dataclass(value):
            found |= _options(value)
        elif one.name not in _NOT_KEPT and value != one.default:
            found[one.name] = value
    return found


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
        words, notes = renewed(_with_file(_hyphens(arguments)), BidsApp)
        refuse_repeated(words, BidsApp, "deformgan-bids")
        command = tyro.cli(BidsApp, args=words, prog="deformgan-bids", config=config)
    except SystemExit as stop:  # tyro has said why
        return stop.code if isinstance(stop.code, int) else EXIT_BUG
    except DeformganError as error:
        Console(as_json="--json" in arguments).failure(error, error.exit_code)
        return error.exit_code
    return run_command(command, notes)


def _hyphens(arguments: list[str]) -> list[str]:
    """``--participant_label`` as ``--participant-label``: older BIDS Apps have the one, newer ones the other."""
    found = []
    for one in arguments:
        name, equals, value = one.partition("=")
        found.append((name.replace("_", "-") if one.startswith("--") else name) + equals + value)
    return found


def _with_file(arguments: list[str]) -> list[str]:
    """With the options of ``--config-file`` that the command line does not have.

    Raises:
        InputError: It is no such file.
    """
    from deformgan.cohort.bids_app import read_config

    words = [one.partition("=") for one in arguments]
    names = [_ALIASES.get(name, name) for name, _, _ in words]
    if "--config-file" not in names:
        return arguments
    place = names.index("--config-file")
    path = words[place][2] or "".join(arguments[place + 1 : place + 2])
    return [*arguments, *read_config(Path(path), names)]


if __name__ == "__main__":
    sys.exit(main())
