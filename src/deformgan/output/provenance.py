"""What a result was made from and with: versions, inputs and weights by checksum, settings, times.

The record is a plain JSON-able dictionary; it holds file paths as the user gave them and no user or host name.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from deformgan import __version__
from deformgan.io.templates import located
from deformgan.spatial.native.threads import available_cpus

SCHEMA = 1  # raised when a field of the record changes its meaning or goes
LIBRARIES = ("torch", "numpy", "nibabel", "safetensors", "isal")

Progress = Callable[[str], None]


def no_progress(_: str) -> None:
    """A progress that says nothing."""


@dataclass
class Stopwatch:
    """Seconds spent in each named stage, in the order of their start; ``progress`` hears each name."""

    progress: Progress = no_progress
    seconds: dict[str, float] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; the same name again adds up."""
        self.progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """The seconds to the millisecond, with their sum as ``total``."""
        stages = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**stages, "total": round(sum(self.seconds.values()), 3)}


def sha256(path: str | os.PathLike[str]) -> str:
    """Checksum of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_input(source: object) -> dict[str, Any]:
    """``{"path", "sha256"}`` of a path, or of an image or points that know their file; both None for data in memory."""
    get_filename = getattr(source, "get_filename", None)
    path = located(get_filename() if callable(get_filename) else getattr(source, "path", source))
    if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
        return {"path": None, "sha256": None}
    return {"path": os.fspath(path), "sha256": sha256(path)}


def describe_inputs_later(sources: dict[str, object]) -> Future[dict[str, dict[str, Any]]]:
    """`describe_input` for each of ``sources`` on a thread of its own; hashing leaves the interpreter free."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
    future = pool.submit(lambda: {name: describe_input(source) for name, source in sources.items()})
    pool.shutdown(wait=False)
    return future


def environment() -> dict[str, Any]:
    """Versions of deformgan, Python and the libraries, and the machine's kind."""
    versions = {}
    for name in LIBRARIES:
        module = sys.modules.get(name)
        try:
            versions[name] = getattr(module, "__version__", None) or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "deformgan": __version__,
        "python": platform.python_version(),
        **{name: None if version is None else str(version) for name, version in versions.items()},
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpus": available_cpus(),
    }


def _accelerator(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)


def peak_memory_mb() -> float | None:
    """Largest resident size of this process so far in MB; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage would count the process that started this one, should that have been larger
        peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return round(int(peaks[0]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def record(
    *,
    inputs: dict[str, dict[str, Any]],
    model: dict[str, Any],
    settings: dict[str, Any],
    watch: Stopwatch,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The provenance of one run.

    Args:
        inputs: `describe_input` of each input, by role.
        model: Name, checksum and configuration of the weights.
        settings: Every option that could change the result, as resolved (device, precision, …).
        watch: The run's stopwatch.
        notes: What was odd about the inputs.
    """
    return {
        "schema": SCHEMA,
        "started": watch.started.isoformat(timespec="seconds"),
        "environment": {**environment(), "accelerator": _accelerator(str(settings.get("device")))},
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
        "model": model,
        "inputs": inputs,
        "notes": list(notes),
        "timings": watch.rounded(),
        "peak_memory_mb": peak_memory_mb(),
    }


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of registration.json."""
    return json.loads((files("deformgan.output") / "registration.schema.json").read_text(encoding="utf-8"))
