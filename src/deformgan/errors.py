"""The one family of errors meant for users, each with the exit code the command ends with, and where warnings point."""

from __future__ import annotations

import contextlib
import errno
import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
EXIT_OK = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130
# what the system says when there is no room: on the disk, in a quota, for a file of that size (ulimit -f)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DeformganError(Exception):
    """Base of every error a user is meant to read.

    A message says in one line what happened, where and why; ``hint`` says what to do about it.
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} — {self.hint}" if self.hint else message


class UsageError(DeformganError):
    """The call itself is wrong: a missing argument, an unknown option value, an output that is in the way."""

    exit_code = 2


class InputError(DeformganError):
    """An input cannot be used: unreadable, wrong shape, empty, not finite, singular geometry, no overlap."""

    exit_code = 3


class QualityError(DeformganError):
    """The registration ran to its end and its outputs were kept, but the quality check failed."""

    exit_code = 4


class CohortError(DeformganError):
    """A cohort ran to its end, but some of its pairs could not be registered."""

    exit_code = 5


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: PyTorch has a class of its own for the GPU's and a plain RuntimeError for the rest."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def unwritable(path: str | Path, error: OSError) -> InputError:
    """What a refusal of the system to write means to the user."""
    if error.errno == errno.EFBIG:
        hint = "raise that limit (ulimit -f) or choose another folder"
        return InputError(f"cannot write {path}: files may not be that large here", hint)
    if error.errno in FULL:
        return InputError(f"cannot write {path}: the disk is full", "free some space or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"cannot write {path}: the folder is read-only", "choose a folder you may write to")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"cannot use {Path(path).name[:40]}…: the name is too long", "give a shorter name or path")
    return InputError(f"cannot write {path}: {error.strerror or error}", "choose another folder")


def callers_level() -> int:
    """The ``stacklevel`` of a warning that is about the line of code outside the package that called into it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_PACKAGE, contextlib.__file__)):
        frame, level = frame.f_back, level + 1
    return level
