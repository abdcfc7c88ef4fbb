"""Conformed images kept between runs, and how it is known that their files still are what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import parse_json
from deformgan.output.provenance import sha256
from deformgan.workshop.datasets.patients import Source

logger = logging.getLogger(__name__)

_KEY = "deformgan"  # one entry holds all: the order of several would differ from run to run


@dataclass(frozen=True)
class Fingerprint:
    """What a source file was when it was read: the first two are compared at each start, the last where they differ."""

    size: int
    mtime_ns: int
    sha256: str
    volume: int | None = None

    @classmethod
    def of(cls, source: Source) -> Fingerprint:
        """Of the file as it is now; `OSError` where it cannot be read."""
        stat = source.path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, sha256(source.path), source.volume)


def fingerprints(sources: Mapping[str, Source]) -> dict[str, Fingerprint]:
    """Of all files of a subject.

    Raises:
        InputError: One cannot be read.
    """
    try:
        return {role: Fingerprint.of(source) for role, source in sources.items()}
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}", "check the file") from error


def store(path: Path, tensors: Mapping[str, Tensor], made_from: Mapping[str, Fingerprint]) -> None:
    """Write a cache file: the tensors, what they were made from, and a checksum of both.

    Raises:
        InputError: The folder cannot be written to, or the disk is full.
    """
    sources = {role: asdict(fingerprint) for role, fingerprint in sorted(made_from.items())}
    record = {"sources": sources, "checksum": _checksum(tensors, sources)}
    with atomic(path) as partial:
        save_file(dict(tensors), partial, {_KEY: json.dumps(record)})


def look_up(path: Path, sources: Mapping[str, Source]) -> dict[str, Tensor] | None:
    """The tensors of a cache file if it is whole and its sources are what they were, else nothing.

    A source of the same size and time is taken as unchanged; one of another time is read, and where it turns out the
    same, its new time is noted. Where no source is there any more, what is in the cache counts.
    """
    if not path.exists():
        return None
    try:
        tensors, recorded = _load(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        logger.warning("%s is damaged and is made anew: %s", path, error)
        return None
    there = {role: source for role, source in sources.items() if source.path.exists()}
    if not there:
        logger.warning("the images that %s was made from are gone: what it holds is used", path)
        return tensors
    changed = sorted(recorded.keys() ^ there.keys())
    now = {role: _renewed(recorded[role], source) for role, source in there.items() if role in recorded}
    changed += [role for role, fingerprint in now.items() if fingerprint is None]
    if changed:
        logger.info("%s is made anew: changed are %s", path, ", ".join(changed))
        return None
    if now != recorded:
        try:
            store(path, tensors, {role: fingerprint for role, fingerprint in now.items() if fingerprint})
        except InputError as error:  # it is only slower next time
            logger.info("%s", error)
    return tensors


def _renewed(was: Fingerprint, source: Source) -> Fingerprint | None:
    """The fingerprint of a source that has not changed, with its present time; nothing where it has."""
    try:
        stat = source.path.stat()
        if (was.size, was.volume) != (stat.st_size, source.volume):
            return None
        if was.mtime_ns == stat.st_mtime_ns:
            return was
        now = Fingerprint.of(source)
    except OSError:
        return None
    return now if now.sha256 == was.sha256 else None


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Fingerprint]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is no dict
        record = parse_json((file.metadata() or {})[_KEY])
    if record["checksum"] != _checksum(tensors, record["sources"]):
        raise ValueError("its checksum is another")
    return tensors, {role: Fingerprint(**entry) for role, entry in record["sources"].items()}


def _checksum(tensors: Mapping[str, Tensor], sources: Mapping[str, object]) -> str:
    found = hashlib.sha256(json.dumps(sources, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()
