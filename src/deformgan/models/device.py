"""Where and in which number format a network runs: what ``auto`` stands for on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from deformgan.errors import UsageError
from deformgan.spatial.native.threads import pytorch_too


def pick_device(name: str) -> str:
    """``name`` itself, or for ``auto`` a CUDA device if there is one, else the CPU.

    Raises:
        UsageError: This machine, or this build of PyTorch, has no such device.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available()}  # MPS lacks 3-D grid sampling
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable.get(name, False):
        raise UsageError(
            f"there is no device {name!r} here", f"use auto or {', '.join(n for n, ok in usable.items() if ok)}"
        )
    return name


def pick_precision(name: str, device: str | torch.device) -> str:
    """``name`` itself, or for ``auto`` bf16 where the device gains by it: elsewhere it is emulated and slower.

    Raises:
        UsageError: There is no such precision.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"there is no precision {name!r}", "use one of: auto, fp32, bf16")
    if name != "auto":
        return name
    return "bf16" if _gains_by_bf16(torch.device(device)) else "fp32"


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Networks compute in this format inside, see `pick_precision`; bf16 has no kernels, so PyTorch has all threads."""
    bf16 = pick_precision(precision, device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), pytorch_too() if bf16 else nullcontext():
        yield


def _gains_by_bf16(device: torch.device) -> bool:
    if device.type != "cpu":  # a GPU could, but its kernels are so short here that casting takes what is won
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
