"""A file that one tool wrote and another read: whether both mean the same by it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deformgan.errors import DeformganError
from deformgan.io.image import Image
from deformgan.spatial.grid import Grid

TO_LPS = np.array([-1.0, -1.0, 1.0])
POINTS_MM = 1e-3  # by how much positions may differ
AGREED, REFUSED, WRONG = "agreed", "refused", "wrong"


@dataclass(frozen=True)
class Case:
    """One file, or one file to be written.

    Args:
        peer: The other tool, by the name it is imported by.
        what: The row of the table it counts in.
        name: What the page calls it where it is refused.
        run: Takes an empty folder; raises where the two differ, and our own errors where it is refused.
    """

    peer: str
    what: str
    name: str
    run: Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: agreed, refused (``said`` has cause and hint) or wrong (``said`` has the difference)."""

    case: Case
    came: str
    said: str = ""


def tried(case: Case, folder: Path) -> Outcome:
    """Run a case. A refusal without a hint is wrong, and so is any other error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.run(folder)
    except DeformganError as error:
        said = str(error).replace(f"{folder}/", "")
        return Outcome(case, REFUSED if error.hint else WRONG, said)
    except Exception as error:  # whatever the two libraries raise is a failure of the case
        return Outcome(case, WRONG, f"{type(error).__name__}: {error}")
    return Outcome(case, AGREED)


def same_points(ours: np.ndarray, theirs: np.ndarray, within_mm: float = POINTS_MM) -> None:
    """Raise where positions, (N, 3) mm, lie further apart."""
    apart = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    assert apart <= within_mm, f"{apart:.3g} mm apart"


def same_image(ours: Image, data: np.ndarray, affine: np.ndarray) -> None:
    """Raise where voxels differ in a bit, or their places by more than 0.001 mm."""
    assert ours.data.shape == data.shape, f"{ours.data.shape} and {data.shape} voxels"
    differ = np.flatnonzero(np.asarray(ours.data, np.float64) != np.asarray(data, np.float64))
    assert not differ.size, f"{differ.size} voxels differ"
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in data.shape], indexing="ij"), -1).reshape(-1, 3)
    same_points(ours.grid.to_world(corners), Grid(ours.grid.shape, affine).to_world(corners))
