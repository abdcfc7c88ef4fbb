"""Work on a GPU that is recorded once as a CUDA graph and played back.

Refinement and T are hundreds of small kernels, and starting each from Python takes several times as long as it runs.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Results = tuple[Tensor, ...]


class Recorded:
    """A function of tensors, played back with new values in the same memory.

    Args:
        function: Reads memory that stays where it is and its arguments, does not wait for the GPU, and returns tensors.
        arguments: Of the first call, on the GPU; the recording keeps copies of them.
    """

    def __init__(self, function: Callable[..., Results], *arguments: Tensor) -> None:
        self._arguments = [argument.clone() for argument in arguments]
        self._graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(arguments[0].device)
        with torch.cuda.device(arguments[0].device), _nothing_cast_before(), _nothing_collected():
            side = torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                function(*self._arguments)  # libraries choose their kernels now
                # as `torch.cuda.graph` does, but without emptying caches and collecting garbage before each recording
                self._graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._results = function(*self._arguments)
                finally:
                    self._graph.capture_end()
            current.wait_stream(side)

    def __call__(self, *arguments: Tensor) -> Results:
        """The results for other arguments of the same shapes; valid until the next call."""
        for own, given in zip(self._arguments, arguments, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._results


@contextmanager
def _nothing_cast_before() -> Iterator[None]:
    """Weights that autocast kept in another format would be gone when a recording is played back."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """A recording that is destroyed while another one is made would end it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def recorded(function: Callable[..., Results], *arguments: Tensor) -> Callable[..., Results]:
    """`Recorded`, or the function itself where that fails: it is slower and gives the same."""
    try:
        return Recorded(function, *arguments)
    except RuntimeError as error:
        logger.info("no CUDA graph could be recorded, its kernels are started one by one: %s", error)
        return function


class Repeated:
    """A function that is recorded the second time in turn that it is asked for arguments of the same kind.

    Args:
        function: As `Recorded` takes it.
    """

    def __init__(self, function: Callable[..., Results]) -> None:
        self._function, self._lock = function, Lock()
        self._last: object = None
        self._recorded: Callable[..., Results] | None = None

    def __call__(self, kind: object, *arguments: Tensor) -> Results:
        """The function's results.

        Args:
            kind: Whatever the work depends on besides the values: shapes, precision.
            arguments: On the GPU.
        """
        with self._lock:
            if kind != self._last:
                self._last, self._recorded = kind, None
                return self._function(*arguments)
            if self._recorded is None:
                self._recorded = recorded(self._function, *arguments)
            return tuple(result.clone() for result in self._recorded(*arguments))
