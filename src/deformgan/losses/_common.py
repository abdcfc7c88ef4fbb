"""What every similarity needs: checks, full precision, and ranges of voxels small enough for the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

# voxels worked on at a time on a CPU: few enough that a handful of buffers stay in the
# cache, enough that starting an operation costs little (two threads share one range)
CPU_BLOCK = 1 << 17


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run a loss in float32 (or float64) with autocast off: window sums in 16 bits lose the variance they look for."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(
                *(_widened(value) for value in args),
                **{key: _widened(value) for key, value in kwargs.items()},  # type: ignore[arg-type]
            )

    return wrapper


def _widened(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def check_pair(a: Tensor, b: Tensor, mask: Tensor | None = None) -> None:
    """Raise ValueError unless both are (B, C, D, H, W) of one shape and the mask is (B, 1, D, H, W) of their size."""
    if a.ndim != 5 or a.shape != b.shape:
        raise ValueError(f"images are (B, C, D, H, W) and of one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    if mask is not None and (mask.ndim != 5 or mask.shape[1] != 1 or mask.shape[2:] != a.shape[2:]):
        raise ValueError(f"the mask of images {tuple(a.shape)} is (B, 1, D, H, W), not {tuple(mask.shape)}")


def check_window(window: int) -> None:
    """Raise ValueError unless the window has a middle voxel."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window is an odd number of voxels, not {window}")


def weights_of(mask: Tensor | None, image: Tensor) -> tuple[Tensor | None, Tensor]:
    """The mask spread over batch and channels, in the image's dtype, and the number of voxels it stands for (0-dim)."""
    if mask is None:
        return None, torch.tensor(float(image.numel()), dtype=image.dtype, device=image.device)
    weight = mask.detach().to(image).expand(image.shape)
    # an empty mask gives a similarity of 0, not a division by zero
    return weight, weight.sum().clamp_min(torch.finfo(image.dtype).tiny)


def blocks(start: int, stop: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of flat voxel indices: cache-sized on a CPU, everything at once elsewhere."""
    step = CPU_BLOCK if device.type == "cpu" else max(stop - start, 1)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
