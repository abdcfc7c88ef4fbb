"""When the kernels are used: for float32 on the CPU, where no derivative of what they compute is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from deformgan.spatial.native.library import is_available

_wanted = ContextVar("_wanted", default=True)


@contextmanager
def without_kernels() -> Iterator[None]:
    """PyTorch alone inside the block, in this thread."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors, each a batch of one."""
    if not _wanted.get() or torch.compiler.is_compiling() or not is_available():
        return False
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not graph and all(t.device.type == "cpu" and t.dtype == torch.float32 and len(t) == 1 for t in tensors)
