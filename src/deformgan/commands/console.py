"""What the command says and where: the result on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, TextIO

from deformgan.commands.arguments import as_options
from deformgan.errors import EXIT_OK, DeformganError, QualityError

_HALF_LINE = 600  # letters


class UnansweredError(Exception):
    """The answer could not be written to stdout, though the work is done.

    Args:
        error: What the system said.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno


class Console:
    """The command's two voices.

    Args:
        as_json: One JSON object on stdout in place of the result line.
        quiet: Neither notes nor progress, errors alone.
        verbose: Each stage with its time also on a terminal, and the libraries' logs.
        log: A file to which everything that is said is added.
        command: Whose options errors and warnings name.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        log: TextIO | None = None,
        command: type | None = None,
    ) -> None:
        self.as_json, self.quiet, self.verbose, self.log, self.command = as_json, quiet, verbose, log, command
        self._answered = False
        # what a signal raised: where that was lost, as in a callback of other people's code, progress raises it again
        self.ending: BaseException | None = None

    def result(self, line: str, record: dict[str, Any]) -> None:
        """The one thing written to stdout: ``line`` for people, or ``record`` with ``--json``."""
        self._answered = True
        self._record(line)
        _answer(json.dumps(record, allow_nan=False) if self.as_json else line)

    def note(self, text: str, *, error: bool = False) -> None:
        """A line on stderr; with ``quiet`` only if it is an ``error``."""
        self._record(text)
        if error or not self.quiet:
            _tell(f"deformgan: {text}")

    def failure(self, error: BaseException, exit_code: int) -> None:
        """Say why the command ends with ``exit_code``; with ``--json`` on stdout too, unless the answer said it."""
        self.note(f"{'interrupted' if exit_code >= 128 else 'error'}: {_one_line(self._named(str(error)))}", error=True)
        if self.as_json and not self._answered:
            cause = error.args[0] if isinstance(error, DeformganError) else str(error)
            hint = getattr(error, "hint", "")
            record = {
                "status": "error",
                "exit_code": exit_code,
                "error": self._named(str(cause)),
                "hint": self._named(hint),
            }
            self._answered = True
            _answer(json.dumps(record))

    def _named(self, text: str) -> str:
        return text if self.command is None else as_options(text, self.command)

    def _record(self, text: str) -> None:
        if self.log is not None:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self.log.flush()

    def _end(self) -> None:
        if self.ending is not None:
            raise self.ending

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A status line on a terminal; elsewhere, and with ``verbose``, a line for each stage that is over."""
        terminal = sys.stderr is not None and sys.stderr.isatty()
        told = self._record if self.quiet or (terminal and not self.verbose) else self.note
        if not terminal or self.quiet:
            with Progress(None, told, self._end) as progress:
                yield progress
            return
        from rich.console import Console as RichConsole

        with RichConsole(stderr=True).status("starting") as status, Progress(status, told, self._end) as progress:
            yield progress

    @contextmanager
    def log_as_notes(self) -> Iterator[None]:
        """The package's log becomes lines on stderr."""
        logger = logging.getLogger("deformgan")
        handler, level = _Noting(self), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if self.verbose else logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """Python warnings become lines on stderr instead of file names and source lines."""
        with warnings.catch_warnings():
            warnings.showwarning = self._show_warning
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.simplefilter("default", category=UserWarning)
            yield

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self.note(f"warning: {_one_line(self._named(str(message)))}")


class _Noting(logging.Handler):
    """The log's lines as notes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """One record, one line."""
        self.console.note(_one_line(record.getMessage()))


class Progress:
    """Called with the name of each stage as it begins; what follows a colon is detail that changes within a stage.

    Args:
        status: Rich's status line, or None.
        told: What becomes of a line for each stage that is over.
        end: Called first; it raises where the command is to end.
    """

    def __init__(self, status: Any, told: Callable[[str], None], end: Callable[[], None]) -> None:
        self._status, self._told, self._end = status, told, end
        self._stage, self._since = "", 0.0

    def __call__(self, stage: str) -> None:
        self._end()
        if self._status is not None:
            self._status.update(stage)
        name = stage.partition(":")[0]
        if name != self._stage:
            self._finish()
            self._stage, self._since = name, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # a stage that failed is not over
            self._finish()

    def _finish(self) -> None:
        if self._stage:
            self._told(f"{self._stage}: {time.monotonic() - self._since:.1f} s")


def success(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` with the two fields that every ``--json`` answer starts with."""
    return {"status": "ok", "exit_code": EXIT_OK, **record}


def verdict(record: dict[str, Any]) -> dict[str, Any]:
    """`success`, or the status and exit code of a failed quality check, as ``record["quality"]`` says."""
    failed = {} if record["quality"]["passed"] else {"status": "quality", "exit_code": QualityError.exit_code}
    return {**success(record), **failed}


def _one_line(text: str) -> str:
    """What a file made us say, as it can be shown: on one line, of bounded length, nothing a terminal obeys."""
    if len(text) > 2 * _HALF_LINE:
        text = f"{text[:_HALF_LINE]} … {text[-_HALF_LINE:]}"  # the hint is at the end
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def _answer(text: str) -> None:
    """Write to stdout, and make sure that it has arrived.

    Raises:
        UnansweredError: It has not; what is left in the buffer is thrown away, or Python would try again at its end.
    """
    if sys.stdout is None:
        raise UnansweredError(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        _write(sys.stdout, text)
    except OSError as error:
        _discard(sys.stdout)
        raise UnansweredError(error) from error


def _tell(text: str) -> None:
    """Write to stderr; where nobody can read it, nobody can be told."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        _write(stream, text)
    except OSError:
        _discard(stream)


def _write(stream: TextIO, text: str) -> None:
    """Write a line; a letter that the locale, or UTF-8, does not have becomes its code, as in ``\\u2014``."""
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError as error:  # nothing of it is written
        stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding) + "\n")
    stream.flush()


def _discard(stream: TextIO) -> None:
    """Let a stream lead nowhere from now on."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
