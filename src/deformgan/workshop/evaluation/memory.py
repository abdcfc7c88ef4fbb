"""How much memory a computation takes at its peak."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from deformgan.output.provenance import peak_memory_mb

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class PeakMemory:
    """Peak memory above what the process held when this was made, in MB.

    On a CUDA device: the most that tensors took there, weights included. On the CPU: the peak of the process's resident
    memory minus its resident memory when this object was made; made before a method is loaded, that counts its weights
    and not the libraries. Where the system cannot set its peak back (anything but Linux), the peak is that of the
    process so far.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        _give_back()
        self._before = _resident_mb("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            return

    def read(self) -> float | None:
        """MB at the peak since `reset`; None where the system does not tell."""
        if self._cuda:
            return round(torch.cuda.max_memory_allocated() / 1e6, 1)
        peak = _resident_mb("VmHWM")
        return None if peak is None or self._before is None else round(max(0.0, peak - self._before), 1)


def _give_back() -> None:
    """What was freed but kept by the allocator would be counted, or hide what is taken from it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATUS.exists() else None
    if trim is not None:
        trim(0)


def _resident_mb(line: str) -> float | None:
    try:
        for text in _STATUS.read_text(encoding="ascii").splitlines():
            if text.startswith(line + ":"):
                return int(text.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return peak_memory_mb()
