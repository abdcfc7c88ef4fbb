"""What a cohort is made of: a pair and its files, the settings all pairs share, and one unit of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deformgan.align.options import Options

# columns of a table that name files: each is the argument of `deformgan.register` of that name
ROLES = (
    "fixed",
    "moving",
    "moving_labels",
    "moving_points",
    "fixed_mask",
    "moving_mask",
    "fixed_lesion",
    "moving_lesion",
    "init",
)


@dataclass(frozen=True)
class Naming:
    """How the outputs of a pair are named in a BIDS derivative.

    Attributes:
        folder: Below the output folder: ``sub-01/ses-1/anat``.
        prefix: Entities common to all files: ``sub-01_ses-1``.
        source, target: Names of the moving and the fixed space: ``T1w``, ``T2w``.
        suffix: Of the moving image.
        report: File name of the page, in the output folder itself.
        dataset: Folder of the raw data, to which ``bids:raw:`` addresses are relative.
        links: Folders of derivatives by the name in the addresses of their files.
    """

    folder: str
    prefix: str
    source: str
    target: str
    suffix: str
    report: str
    dataset: str
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two images, and what belongs to them.

    Attributes:
        name: Unique in its cohort; a folder is named after it.
        files: Path of each file by its role, see `ROLES`.
        more: Further columns of the table, carried into the group's table.
        naming: Names of the outputs in a BIDS derivative; None for the plain ones.
    """

    name: str
    files: Mapping[str, str]
    more: Mapping[str, str] = field(default_factory=dict)
    naming: Naming | None = None


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """What all pairs of a cohort are registered with."""

    weights: str = "t1-t2"
    weights_sha256: str | None = None
    inverse: bool = True
    jacobian: bool = True
    report: bool = True
    threads: int = 1
    memory_bytes: int | None = None

    def digest(self) -> str:
        """Of everything that the results depend on; how much of the machine is used is not part of it."""
        values = asdict(self)
        for name in ("threads", "memory_bytes"):
            values.pop(name)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """One unit of work, as it is sent to a worker.

    Attributes:
        pair: What to register.
        settings: With what.
        out: The cohort's folder, as the worker sees it too.
        run: Name of the run that asks; a worker's death counts against a pair within one run.
        again: Also do what failed in an earlier run.
    """

    pair: Pair
    settings: Settings
    out: str
    run: str
    again: bool = False


Row = dict[str, Any]
"""What became of a pair, JSON-able; see `deformgan.cohort.worker`."""
