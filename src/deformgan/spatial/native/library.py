"""Finds the compiled kernels and the variant of each that suits the processor."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_INTERFACE = 8  # as in c/cpu.c: raised whenever a function's arguments change
_NAME = "_kernels.dll" if sys.platform == "win32" else "_kernels.so"
_SUFFIXES = {1: "_base", 3: "_v3", 4: "_v4"}
_LIMITS = {"default": 1, "avx2": 3}  # of ATEN_CPU_CAPABILITY

_log = logging.getLogger(__name__)


def is_available() -> bool:
    """Whether the kernels were built and are wanted (``DEFORMGAN_NATIVE=0`` turns them off)."""
    return os.environ.get("DEFORMGAN_NATIVE", "1") != "0" and _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    """The library beside this module, if it is there and of this version."""
    path = Path(__file__).with_name(_NAME)
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        found = library.dg_interface()
    except (OSError, AttributeError) as error:
        _log.warning("the compiled kernels cannot be loaded (%s); PyTorch is used instead", error)
        return None
    if found != _INTERFACE:
        _log.warning("the compiled kernels are of another version; build them again. PyTorch is used instead")
        return None
    return library


def levels() -> list[int]:
    """The instruction sets that this processor runs, the best last: 1 is the base, 3 and 4 are levels of x86-64.

    Where ``ATEN_CPU_CAPABILITY`` keeps PyTorch to fewer, the kernels keep to them too.
    """
    library = _library()
    if library is None:
        return []
    most = _LIMITS.get(os.environ.get("ATEN_CPU_CAPABILITY", "").lower(), max(_SUFFIXES))
    return [level for level in _SUFFIXES if level <= min(most, library.dg_level())]


def kernel(name: str, result: Any = None, level: int | None = None) -> Callable[..., Any]:
    """A function of the library.

    Args:
        name: Without its variant.
        result: Its `ctypes` type, None for none.
        level: Of `levels`; default: the best.

    Raises:
        RuntimeError: There is no library: ask `is_available` first.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not built")
    function = library[name + _SUFFIXES[levels()[-1] if level is None else level]]
    function.restype = result
    return function
