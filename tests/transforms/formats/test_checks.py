"""What a field's header says of its numbers: a slope and an intercept count where they are sound."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deformgan.transforms.formats.checks import read_vectors

SLOPE_AT = 112  # bytes into a NIfTI-1 header: two float32
NAN = float("nan")


@pytest.mark.parametrize(
    ("slope", "intercept", "factor", "shift"),
    [(1, 0, 1, 0), (2, 0, 2, 0), (1, 3, 1, 3), (0.5, -1, 0.5, -1), (0, 5, 1, 0), (NAN, NAN, 1, 0), (2, NAN, 1, 0)],
)
def test_vectors_are_scaled_as_the_header_says(
    tmp_path: Path, slope: float, intercept: float, factor: float, shift: float
) -> None:
    vectors = np.random.default_rng(1).normal(0, 3, (4, 5, 6, 1, 3)).astype(np.float32)
    path = tmp_path / "field.nii"
    nib.Nifti1Image(vectors, np.diag([2.0, 2, 2, 1])).to_filename(path)
    content = bytearray(path.read_bytes())
    content[SLOPE_AT : SLOPE_AT + 8] = struct.pack("<2f", slope, intercept)
    path.write_bytes(content)
    found, grid, _ = read_vectors(path, (1,), "")
    np.testing.assert_allclose(found, factor * vectors[:, :, :, 0] + shift, rtol=1e-6)
    assert grid.shape == (4, 5, 6)
