"""Start-up of the command: heavy imports without the garbage collector's passes over what they make."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Hold the collector still for a block of imports, and leave what they made out of later passes.

    PyTorch makes some hundred thousand objects that live as long as the process; the collector would walk them again
    and again while they are made. It goes on afterwards as it was, so what a run makes is collected as ever.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.freeze()
            gc.enable()
