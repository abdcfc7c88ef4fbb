"""For tests of what the kernels compute where they are built, and PyTorch elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from deformgan.spatial.native.use import without_kernels


@pytest.fixture(params=["kernels", "pytorch"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test twice: as it is, and by PyTorch alone, which is all there is without a compiler."""
    with without_kernels() if request.param == "pytorch" else nullcontext():
        yield
