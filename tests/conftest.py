"""Phantoms that many tests share: small, seeded, and cheap enough to be made anew for every test."""

from __future__ import annotations

import locale
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import records
import torch
from hypothesis import settings
from searches import remembered

from deformgan.align import handedness, start
from deformgan.output.registration import Registration

# a runner in the background starts its children deaf to Ctrl-C, and they hand that on to the commands under test
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# in UTF-8, whatever the caller's locale is: files that tests open as text, and the commands that they start
with suppress(locale.Error):
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
os.environ["PYTHONUTF8"] = "1"
os.environ.pop("PYTHONIOENCODING", None)

# one thread a worker, also for those who call pytest by hand: with more, parallel workers fight over the cores
torch.set_num_threads(1)

# a slow moment of a shared machine is not a failure, and every run is the same
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SHAPE = (40, 44, 36)
SPACING_MM = 4.0


@dataclass(frozen=True)
class Phantom:
    """A head-like object: nested ellipsoids off the middle, so that no flip or swap of axes leaves it as it is.

    Attributes:
        labels: (D, H, W) int16, FreeSurfer ids: 0 outside, 24 CSF, 3 and 42 cortex, 2 and 41 white matter,
            4 and 43 ventricles, 100 a tumour.
        t1, t2: (D, H, W) float32 in [0, 1], exactly 0 outside, opposite contrasts of the same labels.
        affine: 4×4, voxel to world mm (RAS+).
    """

    labels: np.ndarray
    t1: np.ndarray
    t2: np.ndarray
    affine: np.ndarray


T1_OF = {0: 0.0, 24: 0.15, 3: 0.5, 42: 0.5, 2: 0.85, 41: 0.85, 4: 0.12, 43: 0.12, 100: 0.35}
T2_OF = {0: 0.0, 24: 0.95, 3: 0.55, 42: 0.55, 2: 0.35, 41: 0.35, 4: 0.98, 43: 0.98, 100: 0.75}


def _ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    axes = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in SHAPE], indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)) <= 1


def make_phantom(seed: int = 0, texture: float = 0.02) -> Phantom:
    """The phantom; ``texture`` is the standard deviation of the noise inside it."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.int16)
    left = np.arange(SHAPE[0])[:, None, None] < SHAPE[0] / 2
    labels[_ellipsoid((0, -0.05, 0.02), (0.78, 0.85, 0.8))] = 24
    for ellipsoid, ids in [
        (_ellipsoid((0, -0.05, 0.02), (0.7, 0.77, 0.72)), (3, 42)),
        (_ellipsoid((0, -0.05, 0.05), (0.55, 0.62, 0.55)), (2, 41)),
        (_ellipsoid((0, 0.05, 0.12), (0.18, 0.3, 0.16)), (4, 43)),
    ]:
        labels[ellipsoid & left], labels[ellipsoid & ~left] = ids
    labels[_ellipsoid((0.33, 0.28, 0.2), (0.16, 0.2, 0.17))] = 100

    def contrast(table: dict[int, float]) -> np.ndarray:
        lookup = np.zeros(101, np.float32)
        lookup[list(table)] = list(table.values())
        image = lookup[labels] + rng.normal(0, texture, SHAPE).astype(np.float32) * (labels > 0)
        return np.clip(image, 0, 1).astype(np.float32)

    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2 + (3.0, -5.0, 7.0)
    return Phantom(labels, contrast(T1_OF), contrast(T2_OF), affine)


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """A plain NIfTI written by nibabel alone, so that a test of our reader does not lean on our writer."""
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _records_are_as_published() -> Iterator[None]:
    """Every registration.json that a test writes is held to the schema; stand-ins that have no whole record are not."""
    write = Registration.write

    def checked(self: Registration, *arguments: Any, **options: Any) -> dict[str, Any]:
        record = write(self, *arguments, **options)
        if "schema" in record:
            records.check(record)
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registration, "write", checked)
        yield


@pytest.fixture(autouse=True)
def _the_threads_stay() -> Iterator[None]:
    """A command that is run here with ``--threads`` leaves that number to the tests after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _the_locale_stays() -> Iterator[None]:
    """ITK's reader of .vtk leaves the process in the locale C, in which text files are opened as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


_searched: dict[Any, tuple[np.ndarray, float]] = {}


@pytest.fixture(autouse=True)
def _a_pair_is_searched_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the same pair was searched before, its map is known; not so in tests that are about the search itself."""
    if request.node.get_closest_marker("searches") is None:
        for module in (start, handedness):
            monkeypatch.setattr(module, "search", remembered(module.search, _searched))


@pytest.fixture
def phantom() -> Phantom:
    return make_phantom()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@dataclass(frozen=True)
class PairFiles:
    """Paths of a T2 (fixed), a T1 (moving) two voxels off along the first axis, and the moving labels."""

    fixed: Path
    moving: Path
    moving_labels: Path


@pytest.fixture
def pair_files(tmp_path: Path, phantom: Phantom) -> PairFiles:
    folder = tmp_path / "inputs"
    folder.mkdir()
    moved = {"moving": phantom.t1, "moving_labels": phantom.labels}
    paths = {n: write_nifti(folder / f"{n}.nii.gz", np.roll(d, 2, axis=0), phantom.affine) for n, d in moved.items()}
    return PairFiles(fixed=write_nifti(folder / "fixed.nii.gz", phantom.t2, phantom.affine), **paths)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of patient data beside the checkout; a test that asks for it is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no patient data at {SHARED_DATA}")
    return SHARED_DATA
