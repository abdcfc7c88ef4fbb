"""Start-up of the command: imports without collector passes and without what no run uses, images read meanwhile."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deformgan.preprocess.scan import Scan

# what PyTorch imports from its own __init__ and no run uses, by the releases it was tried with: a third of its import
POSTPONED = {
    "2.13": ("torch._meta_registrations", "torch.export", "torch.nested", "torch.distributions", "torch.testing"),
}


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import PyTorch in a block, the collector still and what no run uses postponed until somebody asks for it.

    PyTorch makes some hundred thousand objects that live as long as the process; the collector would walk them again
    and again while they are made, and is told to leave them out of later passes. It goes on afterwards as it was, so
    what a run makes is collected as ever.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        with postponed(_unused()):
            yield
    finally:
        if running:
            gc.freeze()
            gc.enable()


def _unused() -> Sequence[str]:
    """The modules that may wait; none where PyTorch is there already, or is a release that nobody has tried."""
    return () if "torch" in sys.modules else POSTPONED.get(".".join(version("torch").split(".")[:2]), ())


@contextmanager
def postponed(names: Sequence[str]) -> Iterator[None]:
    """Let these modules be imported in the block without being run: they are when they are first asked for anything.

    Args:
        names: Of modules whose import has no effect that others count on, but for those that are seen to here.
    """
    finder = _Postponing(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
        if "torch._meta_registrations" in finder.found:
            _let_generators_be()
    finally:
        sys.meta_path.remove(finder)


def _let_generators_be() -> None:
    """What PyTorch 2.13 does in a module that only a postponed one imports, else there is no `torch.Generator`."""
    import torch
    from torch._opaque_base import OpaqueBaseMeta

    torch._C._set_generator_metaclass(OpaqueBaseMeta)  # type: ignore[attr-defined]


class _Postponing(MetaPathFinder):
    """Finds some modules as Python does, and has them wait."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self.found = set(names), set[str]()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._names else None
        if spec is not None and spec.loader is not None:
            self.found.add(fullname)
            spec.loader = _Waiting(spec.loader)
        return spec


class _Waiting(Loader):
    """Leaves a module empty until it is asked for what it should hold."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # importlib's own LazyLoader runs a module already when another one imports it
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        module.__class__ = _Empty


# of a module, known before it is run
_KNOWN = {f"__{word}__" for word in ("class", "dict", "doc", "file", "loader", "name", "package", "path", "spec")}


class _Empty(ModuleType):
    _running = threading.RLock()

    def __getattribute__(self, name: str) -> object:
        if name in _KNOWN:
            return object.__getattribute__(self, name)
        with _Empty._running:
            if object.__getattribute__(self, "__class__") is _Empty:
                self.__class__ = ModuleType  # type: ignore[assignment]
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        return getattr(self, name)


@contextmanager
def read_ahead(*sources: tuple[Path, bool]) -> Iterator[Callable[[], list[Scan]]]:
    """Read images, and find what they show, on threads of their own while the block runs, which had better be imports.

    Decompression and the larger part of the rest leave the interpreter to the imports.

    Args:
        sources: Of each image the file, and whether all of it is used: where it has data is then found too.

    Yields:
        Gives the scans in the order of ``sources``, or raises what reading the first bad one raised.
    """
    from deformgan.io.image import load_image
    from deformgan.preprocess.scan import Scan

    def read(path: Path, whole: bool) -> Scan:
        scan = Scan.of(replace(load_image(path), path=str(path)))
        if whole:
            _ = scan.content.field_of_view  # kept from now on
        return scan

    with ThreadPoolExecutor(len(sources), thread_name_prefix="read") as pool:
        jobs = [pool.submit(read, *source) for source in sources]
        yield lambda: [job.result() for job in jobs]
