"""The command in a fork of this process: PyTorch and the package are imported already, so that no run waits for them.

For tests that start a command to kill it, or to give it a stdout of its own; how it starts is not what they look at.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hearing import hear_all

_LONGEST_S = 60.0  # a run takes tenths of a second
_WORDS_S = 2.0


class Run:
    """A command at work.

    Args:
        pid: Of its process, a child of this one.
        said: The end of a pipe to read what it says on stderr from.
    """

    def __init__(self, pid: int, said: int) -> None:
        self.pid, self._said, self._code = pid, said, None

    def is_over(self) -> bool:
        """Whether it has ended."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def send(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if not self.is_over():
            os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, when it has ended."""
        until = time.monotonic() + _LONGEST_S
        while not self.is_over() and time.monotonic() < until:
            time.sleep(0.005)
        if not self.is_over():
            os.kill(self.pid, signal.SIGUSR1)  # where it stands goes to its stderr
            time.sleep(_WORDS_S)
            os.kill(self.pid, signal.SIGKILL)
        while not self.is_over():
            time.sleep(0.005)
        assert self._code is not None
        with os.fdopen(self._said, "rb") as stream:  # a pipe, which no quota limits; what is said fits into it
            return self._code, stream.read().decode("utf-8", "replace")


def fork(
    words: tuple[str, ...] | list[str],
    home: Path,
    first: Callable[[], None] | None = None,
    stdout: int | str | None = os.devnull,
) -> Run:
    """Start ``deformgan`` with ``words`` in the folder ``home``.

    Args:
        first: Called in the new process before the command.
        stdout: A descriptor, a path, or None for a process that was started without one.
    """
    import deformgan.pipeline
    import deformgan.workshop.training.loop  # noqa: F401 — the child shall not have to
    from deformgan.commands.main import main

    said, stream = os.pipe()
    pid = os.fork()
    if pid:
        os.close(stream)
        return Run(pid, said)
    code = 99
    try:
        # where lines are counted, a signal's exception between the counter's lock and its release hangs the child,
        # whose count is lost anyway
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type] — as documented
        hear_all()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(stream, 2)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        if stdout is None:
            os.close(1)
            sys.stdout = None  # as Python has it then
        else:
            os.dup2(stdout if isinstance(stdout, int) else os.open(stdout, os.O_WRONLY), 1)
            sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.chdir(home)
        if first is not None:
            first()
        code = main(list(words))
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)
