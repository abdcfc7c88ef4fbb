"""Where the ``deformgan`` command begins: Ctrl-C while Python still imports ends it in one line, as later."""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = 130


def _end(*_: object) -> None:
    # an exception would be lost, or turned into another, inside an import
    os.write(2, b"deformgan: interrupted: nothing was begun\n")
    os._exit(_INTERRUPTED)


def main() -> int:
    """Run the command line of the process and return the exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # else it is ignored, as in the background, or somebody else's
        signal.signal(signal.SIGINT, _end)
    from deformgan.commands.main import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
