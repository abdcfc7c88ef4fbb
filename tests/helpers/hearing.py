"""Which signals a command under test hears, whoever runs the tests.

A new process ignores what its parent ignored: under nohup that is SIGHUP, in the background of a script SIGINT and
SIGQUIT. The command keeps to that, so a test that sends a signal says first whether it is heard.
"""

from __future__ import annotations

import signal

from deformgan.output.staging import ENDING


def hear_all() -> None:
    """Called in a new process: every signal that ends a program does so."""
    for one in ENDING:
        signal.signal(one, signal.SIG_DFL)


def ignore_hang_up() -> None:
    """The same under nohup."""
    hear_all()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
