"""Hidden folders that results are written into before they are moved into place, and what a killed run left of them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".deformgan-"
# Ctrl-C, a scheduler's end of time, a terminal that is closed, Ctrl-\\
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back what would end the process, for a block that takes milliseconds (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = {one: signal.getsignal(one) for one in ENDING}
    # what is None is not Python's to set; one that is ignored ends nothing, and must not stand before one that does
    before = {one: handler for one, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for one in before:
        signal.signal(one, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if pending:
        signal.raise_signal(pending[0])


@contextmanager
def hidden_folder(home: Path) -> Iterator[Path]:
    """A new hidden folder in ``home`` that is gone after the block; those of runs that were killed go first.

    The folder is locked as long as its process lives, so another run knows a left-over from one in use.

    Raises:
        OSError: Nothing can be written there.
    """
    clear_left_overs(home)
    folder, lock = None, None
    try:
        with undisturbed():
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=home))
            lock = _locked(folder)
        folder.chmod(0o777 & ~_umask())
        yield folder
    finally:
        with undisturbed():
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def clear_left_overs(home: Path) -> None:
    """Remove the hidden folders and files of runs that were killed here; what is in use, or in doubt, stays."""
    try:
        found = [one for one in home.iterdir() if one.name.startswith(PREFIX)]
    except OSError:
        return
    for one in found:
        number = one.name.removeprefix(PREFIX).partition("-")[0]
        if not number.isdigit() or _is_alive(int(number)):
            continue
        if one.is_dir() and not one.is_symlink():
            lock = _locked(one)
            if lock is None:  # another machine's, on a shared disk
                continue
            shutil.rmtree(one, ignore_errors=True)
            os.close(lock)
        elif one.name.endswith(PARTIAL):
            with suppress(OSError):
                one.unlink()


PARTIAL = ".partial"


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _locked(folder: Path) -> int | None:
    """A descriptor that holds a lock on a folder, or None where another holds it or the system has none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time move results into a folder that is there."""
    try:
        import fcntl

        lock = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
