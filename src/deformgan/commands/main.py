"""The ``deformgan`` command: parse, call, report, and an exit code that tells the truth.

0 done · 1 a bug · 2 wrong usage · 3 unusable input or output, or too little memory · 4 done, but the quality check
failed (outputs kept) · 5 some pairs of a cohort failed · 130 interrupted · 129, 131, 143 ended by a closed terminal,
Ctrl-\\ or a scheduler · 141 the reader of the answer has gone (the work is done). Results go to stdout,
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
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TextIO, Union, cast

import tyro

from deformgan import __version__
from deformgan.commands.apply import Apply
from deformgan.commands.arguments import renewed
from deformgan.commands.cohort import Cohort, CohortMerge, CohortStatus
from deformgan.commands.completion import Completion
from deformgan.commands.console import Console, UnansweredError
from deformgan.commands.convert import Convert
from deformgan.commands.demo import Demo
from deformgan.commands.evaluate import Evaluate
from deformgan.commands.export import Export
from deformgan.commands.info import Info
from deformgan.commands.options import Messages
from deformgan.commands.register import Register
from deformgan.commands.report import Report
from deformgan.commands.simulate import Simulate
from deformgan.commands.train import Train
from deformgan.commands.usage import refuse_repeated, unknown_command, usage_error
from deformgan.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    FULL,
    DeformganError,
    InputError,
    UsageError,
    is_out_of_memory,
    unwritable,
)
from deformgan.output.staging import ENDING

EXIT_PIPE = 141  # 128 and SIGPIPE: what a shell shows of other tools
# what the system says when the place is to blame, not we
REFUSALS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG)
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
    "completion": Completion,
}
_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
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
    | Completion
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # before a command speaks, as it was asked to; usage is wrong in JSON too
    console = Console(as_json="--json" in arguments)
    try:
        if arguments == ["--version"]:
            console.result(f"deformgan {__version__}", {"deformgan": __version__})
            return EXIT_OK
        command = _parse(arguments or ["--help"], console)
    except UsageError as error:  # the parser's, or of options that check themselves
        return _fail(console, error, error.exit_code)
    except UnansweredError as error:
        return _unanswered(console, error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK if command is None else run_command(command)


def run_command(command: Any, notes: Sequence[str] = ()) -> int:
    """Run a command that has been parsed, say the notes and what goes wrong, and return the exit code."""
    # idle threads of OpenMP and of NumPy's BLAS would spin, and hold up whoever shares the cores; few large operations
    # are left to the one, none to the other
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    messages: Messages = getattr(command, "messages", None) or Messages()
    try:
        log = None if messages.log is None else _open_log(messages.log)
    except DeformganError as error:
        return _fail(Console(as_json=command.json, command=type(command)), error, error.exit_code)
    with log or nullcontext():
        console = Console(
            as_json=command.json, quiet=messages.quiet, verbose=messages.verbose, log=log, command=type(command)
        )
        for note in notes:
            console.note(note)
        try:
            return _run(command, console)
        except UnansweredError as error:
            return _unanswered(console, error)


def _open_log(path: Path) -> TextIO:
    from deformgan.io.atomic import open_to_append

    return open_to_append(path)


def _run(command: Any, console: Console) -> int:
    try:
        with _terminable(console), console.warnings_as_notes(), console.log_as_notes():
            command.run(console)
    except DeformganError as error:
        console.failure(error, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        console.failure(KeyboardInterrupt("no unfinished file is left behind"), EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except Terminated as error:
        console.failure(error, 128 + error.number)
        return 128 + error.number
    except UnansweredError:
        raise
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
    """The process was told to end: by a scheduler (SIGTERM), a terminal that was closed (SIGHUP), Ctrl-\\ (SIGQUIT)."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; no unfinished file is left behind")
        self.number = number


@contextmanager
def _terminable(console: Console) -> Iterator[None]:
    """Let these signals unwind the stack, so that unfinished outputs are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        console.ending = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        if not _imports(frame):
            raise console.ending

    # one that is ignored, as SIGHUP under nohup, stays so
    before = {one: signal.getsignal(one) for one in ENDING}
    ours = {one: how for one, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)}
    for one in ours:
        signal.signal(one, terminate)
    try:
        yield
    finally:
        for one, how in ours.items():
            signal.signal(one, how)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception there is lost, with a lock that other threads then wait for."""
    while frame is not None and frame.f_code is not _run.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _fail(console: Console, error: DeformganError, exit_code: int) -> int:
    with suppress(UnansweredError):  # the exit code is all that is left
        console.failure(error, exit_code)
    return exit_code


def _unanswered(console: Console, error: UnansweredError) -> int:
    """The work is done, and its answer went nowhere: as other tools, silent where the reader has gone."""
    if error.errno == errno.EPIPE:
        return EXIT_PIPE
    console.note(f"error: the answer cannot be written to stdout: {error}; what was asked for is done", error=True)
    return InputError.exit_code


def _parse(arguments: list[str], console: Console) -> Command | None:
    """The command that is meant, or None where help was asked for and given.

    Raises:
        UsageError: In one line what is wrong.
    """
    nested = NESTED.get(tuple(arguments[:2]))  # type: ignore[arg-type]
    if nested:
        kind, rest, prog = nested, arguments[2:], f"deformgan {' '.join(arguments[:2])}"
    elif arguments[0] in COMMANDS:
        kind, rest, prog = COMMANDS[arguments[0]], arguments[1:], f"deformgan {arguments[0]}"
    elif not arguments[0].startswith("-"):
        raise unknown_command(arguments[0], COMMANDS)
    else:  # help about all of them: one line each
        kind, rest, prog = _every(), arguments, "deformgan"
    if isinstance(kind, type):
        console.command = kind
        rest, notes = renewed(rest, kind)
        for note in () if {"-q", "--quiet"} & set(rest) else notes:
            console.note(note)
        refuse_repeated(rest, kind, prog)
    help_text, said = StringIO(), StringIO()
    try:
        with redirect_stdout(help_text), redirect_stderr(said):
            whole = DESCRIPTION if prog == "deformgan" else None
            return tyro.cli(kind, args=rest, prog=prog, description=whole, config=_CONFIG)
    except SystemExit as stop:
        if stop.code in (0, None):
            console.as_json = False
            console.result(help_text.getvalue().rstrip(), {})
            return None
        raise usage_error(said.getvalue() + help_text.getvalue(), prog) from stop


def _every() -> Any:
    """All commands, each with the first line of what it says of itself."""
    brief = {name: (one.__doc__ or "").split("\n")[0] for name, one in COMMANDS.items()}
    every = [Annotated[one, tyro.conf.subcommand(name, description=brief[name])] for name, one in COMMANDS.items()]
    return cast(Any, Union[*every])


def completion_script(shell: str) -> str:
    """What makes ``bash``, ``zsh`` or ``fish`` complete commands and options: the parser's own."""
    script = StringIO()
    with redirect_stdout(script), suppress(SystemExit):
        tyro.cli(_every(), args=["--tyro-write-completion", shell, "-"], prog="deformgan", config=_CONFIG)
    return script.getvalue()


def _report_bug(console: Console, error: Exception) -> int:
    lines = "".join(traceback.format_exception(error))
    for line in lines.splitlines():
        console.note(line, error=True)
    hint = "this is a bug: please report it with the lines above and `deformgan info`"
    console.failure(DeformganError(f"{type(error).__name__}: {error}", hint), EXIT_BUG)
    return EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
