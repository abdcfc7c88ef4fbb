"""Start-up of the command: heavy imports without the garbage collector's passes, and images read meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deformgan.io.image import Image


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


@contextmanager
def read_ahead(*paths: Path) -> Iterator[Callable[[], list[Image]]]:
    """Read images on threads of their own while the block runs, which had better be one of imports.

    Decompression leaves the interpreter to the imports.

    Yields:
        Gives the images in the order of ``paths``, or raises what reading the first bad one raised.
    """
    from deformgan.io.image import load_image

    with ThreadPoolExecutor(len(paths), thread_name_prefix="read") as pool:
        jobs = [pool.submit(lambda path: replace(load_image(path), path=str(path)), path) for path in paths]
        yield lambda: [job.result() for job in jobs]
