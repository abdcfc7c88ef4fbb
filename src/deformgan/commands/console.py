"""What the command says and where: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from deformgan.errors import EXIT_OK, DeformganError, QualityError

_HALF_LINE = 600  # letters


class Console:
    """The command's two voices.

    Args:
        as_json: One JSON object on stdout in place of the result line.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._answered = False

    def result(self, line: str, record: dict[str, Any]) -> None:
        """The one thing written to stdout: ``line`` for people, or ``record`` with ``--json``."""
        self._answered = True
        _write(sys.stdout, json.dumps(record, allow_nan=False) if self.as_json else line)

    def note(self, text: str) -> None:
        """A line on stderr."""
        _write(sys.stderr, f"deformgan: {text}")

    def failure(self, error: BaseException, exit_code: int) -> None:
        """Say why the command ends with ``exit_code``; with ``--json`` on stdout too, unless the answer said it."""
        self.note(f"{'interrupted' if exit_code >= 128 else 'error'}: {_one_line(str(error))}")
        if self.as_json and not self._answered:
            cause = error.args[0] if isinstance(error, DeformganError) else str(error)
            hint = getattr(error, "hint", "")
            record = {"status": "error", "exit_code": exit_code, "error": str(cause), "hint": hint}
            _write(sys.stdout, json.dumps(record))

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A status line on a terminal, silence elsewhere."""
        if not sys.stderr.isatty():
            yield Progress(None)
            return
        from rich.console import Console as RichConsole

        with RichConsole(stderr=True).status("starting") as status:
            yield Progress(status)

    @contextmanager
    def log_as_notes(self) -> Iterator[None]:
        """The package's log becomes lines on stderr."""
        logger = logging.getLogger("deformgan")
        handler, level = logging.StreamHandler(sys.stderr), logger.level
        handler.setFormatter(logging.Formatter("deformgan: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
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
        self.note(f"warning: {_one_line(str(message))}")


class Progress:
    """Called with the name of each stage as it begins."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def __call__(self, stage: str) -> None:
        if self._status is not None:
            self._status.update(stage)


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


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
