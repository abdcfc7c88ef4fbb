"""The ``deformgan`` command: parse, call, report, and an exit code that tells the truth.

0 done · 1 a bug · 2 wrong usage · 3 unusable input or output, or too little memory · 4 done, but the quality check
failed (outputs kept) · 5 some pairs of a cohort failed · 130 interrupted · 143 terminated. Results go to stdout,
everything else to stderr.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Union, cast

import tyro

from deformgan import __version__
from deformgan.commands.apply import Apply
from deformgan.commands.cohort import Cohort, CohortMerge, CohortStatus
from deformgan.commands.console import Console
from deformgan.commands.convert import Convert
from deformgan.commands.demo import Demo
from deformgan.commands.evaluate import Evaluate
from deformgan.commands.export import Export
from deformgan.commands.info import Info
from deformgan.commands.register import Register
from deformgan.commands.report import Report
from deformgan.commands.simulate import Simulate
from deformgan.commands.train import Train
from deformgan.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    DeformganError,
    InputError,
    is_out_of_memory,
    unwritable,
)

EXIT_TERMINATED = 143
# what the system says when the place is to blame, not we
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
DESCRIPTION = "Align 3-D medical images of different modality. Start with: deformgan demo"

COMMANDS = {
    "register": Register,
    "report": Report,
    "apply": Apply,
    "convert": Convert,
    "cohort": Cohort,
    "demo": Demo,
    "simulate": Simulate,
    "train": Train,
    "evaluate": Evaluate,
    "export": Export,
    "info": Info,
}
# words after a command that make it another one
NESTED = {("cohort", "status"): CohortStatus, ("cohort", "merge"): CohortMerge}
Command = (
    Register
    | Report
    | Apply
    | Convert
    | Cohort
    | CohortStatus
    | CohortMerge
    | Demo
    | Simulate
    | Train
    | Evaluate
    | Export
    | Info
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # OpenMP's idle threads would spin, and hold up whoever shares the cores; few large operations are left to them
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if arguments == ["--version"]:
        sys.stdout.write(f"deformgan {__version__}\n")
        return EXIT_OK
    try:
        command = _parse(arguments)
    except SystemExit as stop:  # tyro has said why
        return stop.code if isinstance(stop.code, int) else EXIT_BUG
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except DeformganError as error:  # options that check themselves
        Console(as_json="--json" in arguments).failure(error, error.exit_code)
        return error.exit_code
    return run_command(command)


def run_command(command: Any) -> int:
    """Run a command that has been parsed, say what goes wrong, and return the exit code."""
    console = Console(as_json=command.json)
    try:
        with _terminable(), console.warnings_as_notes(), console.log_as_notes():
            command.run(console)
    except DeformganError as error:
        console.failure(error, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        console.failure(KeyboardInterrupt("no unfinished file is left behind"), EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except Terminated as error:
        console.failure(error, EXIT_TERMINATED)
        return EXIT_TERMINATED
    except BrokenPipeError:  # the reader of our output has gone: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BUG
    except OSError as error:
        if error.errno not in REFUSALS:
            return _report_bug(console, error)
        refusal = unwritable(error.filename or "the output", error)
        console.failure(refusal, refusal.exit_code)
        return refusal.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            return _report_bug(console, error)
        full = InputError("there is not enough memory", "close other programs, or give --device cpu or smaller images")
        console.failure(full, full.exit_code)
        return full.exit_code
    except Exception as error:  # the last line of defence: say that it is ours
        return _report_bug(console, error)
    return EXIT_OK


class Terminated(BaseException):
    """The process was told to end (SIGTERM), as schedulers do when the time is up."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that unfinished outputs are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated("terminated; no unfinished file is left behind")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(arguments: list[str]) -> Command:
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    nested = NESTED.get(tuple(arguments[:2]))  # type: ignore[arg-type]
    if nested:
        return tyro.cli(nested, args=arguments[2:], prog=f"deformgan {' '.join(arguments[:2])}", config=config)
    if arguments and arguments[0] in COMMANDS:
        name, *rest = arguments
        return tyro.cli(COMMANDS[name], args=rest, prog=f"deformgan {name}", config=config)
    # no such subcommand, or help about all of them: one line each
    brief = {name: (kind.__doc__ or "").split("\n")[0] for name, kind in COMMANDS.items()}
    every = [Annotated[kind, tyro.conf.subcommand(name, description=brief[name])] for name, kind in COMMANDS.items()]
    return tyro.cli(cast(Any, Union[*every]), args=arguments, prog="deformgan", description=DESCRIPTION, config=config)


def _report_bug(console: Console, error: Exception) -> int:
    traceback.print_exc()
    hint = "this is a bug: please report it with the lines above and `deformgan info`"
    console.failure(DeformganError(f"{type(error).__name__}: {error}", hint), EXIT_BUG)
    return EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
