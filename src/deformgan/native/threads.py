"""How many threads the kernels use."""

from __future__ import annotations

import torch

_SMALL = 1 << 15  # numbers below which waking another thread costs more than it gains


def native_threads(size: int) -> int:
    """As many as PyTorch may use, one for work on few numbers."""
    return 1 if size < _SMALL else torch.get_num_threads()
