"""Where the ``deformgan`` command begins and ends: Ctrl-C while Python still imports ends it in one line, as later."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading

_INTERRUPTED = 130


def _end(*_: object) -> None:
    # an exception would be lost, or turned into another, inside an import
    os.write(2, b"deformgan: interrupted: nothing was begun\n")
    os._exit(_INTERRUPTED)


def main() -> int:
    """Run the command line of the process and return the exit code; where PyTorch was loaded it does not come back."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # else it is ignored, as in the background, or somebody else's
        signal.signal(signal.SIGINT, _end)
    from deformgan.commands.main import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run()
    if "torch" in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process without taking PyTorch's modules apart, which takes 0.2 s and does nobody any good.

    Comes back where somebody watches the interpreter (a debugger, a profiler), other threads still work, or an answer
    cannot be written: Python knows best how to end then.
    """
    working = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    if sys.gettrace() or sys.getprofile() or working:
        return
    atexit._run_exitfuncs()  # temporary folders, logs, whoever counts lines
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
