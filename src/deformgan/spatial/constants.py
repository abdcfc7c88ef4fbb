"""Small constant tensors, made once for each device.

Each one that is made anew on a GPU makes the processor wait for its copy, and cannot be part of a captured graph.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A float32 vector on a device; not to be changed."""
    return _made(values, device) if torch.compiler.is_compiling() else _kept(values, device)


def of_axes(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value for each axis, (1, 3, 1, 1, 1); not to be changed."""
    return constant(values, device).view(1, 3, 1, 1, 1)


@lru_cache(maxsize=512)
def _kept(values: tuple[float, ...], device: torch.device) -> Tensor:
    return _made(values, device)


def _made(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
