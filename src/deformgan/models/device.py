"""Where and in which number format a network runs: what ``auto`` stands for on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from deformgan.errors import UsageError
from deformgan.spatial.native.library import is_available
from deformgan.spatial.native.threads import pytorch_too

_LIMITED = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")  # oneDNN's names, without bf16


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


def pick_precision(name: str, device: str | torch.device, *, training: bool = False) -> str:
    """``name`` itself, or for ``auto`` bf16 where the device gains by it: elsewhere it is emulated and slower.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``.
        device: That the network runs on.
        training: Whether derivatives are wanted, for which there are no compiled kernels. Where a network runs on
            kernels it is faster than in bf16, which has none: T in 0.28 s in place of 0.42 on a processor that has
            bf16, and of the 0.42 only 0.13 are convolutions.

    Raises:
        UsageError: There is no such precision.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"there is no precision {name!r}", "use one of: auto, fp32, bf16")
    if name != "auto":
        return name
    kernels = is_available() and not training
    return "bf16" if not kernels and _gains_by_bf16(torch.device(device)) else "fp32"


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Networks compute in this format inside, see `pick_precision`; bf16 has no kernels, so PyTorch has all threads."""
    bf16 = pick_precision(precision, device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), pytorch_too() if bf16 else nullcontext():
        yield


def _gains_by_bf16(device: torch.device) -> bool:
    if device.type != "cpu":  # a GPU could, but its kernels are so short here that casting takes what is won
        return False
    # a processor that has bf16 may be told to go without: oneDNN then emulates it, over a hundred times slower
    let = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper() not in _LIMITED
    let = let and "AVX512" in torch.backends.cpu.get_cpu_capability()
    return let and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
