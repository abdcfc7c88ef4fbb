"""A real patient, where patient data lie beside the checkout: T2 and T1, one deformed by a known field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deformgan.io.image import Image, load_image
from deformgan.models.load import DEFAULT_MODEL, shipped_models
from deformgan.pipeline import register
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.deformation import REGIMES, sample_deformation

SPACING_MM = 4.0
MARGIN_MM = 40.0  # the patient's own volume ends just below the brain


def _deformed(image: Image) -> tuple[Image, Transform]:
    """The image moved by a deformation, and the map from where it was to where it is."""
    shape = tuple(int(n) for n in np.ceil((np.array(image.grid.shape) * image.grid.spacing + MARGIN_MM) / SPACING_MM))
    grid = Grid.centred(shape, SPACING_MM, image.grid.centre_mm)  # type: ignore[arg-type]
    content = Transform.identity().apply(image, grid).data > 0
    medium = REGIMES["medium"].scaled(1.5 / SPACING_MM)  # it is described in voxels of 1.5 mm
    mask = torch.from_numpy(np.ascontiguousarray(content))[None, None]
    deformation = sample_deformation(shape, medium, torch.Generator().manual_seed(5), mask)
    truth, back = (Transform.from_field(grid, grid, field) for field in (deformation.forward, deformation.inverse))
    return back.apply(image, image.grid), truth


def test_a_known_deformation_of_a_patient_is_mostly_undone(shared_data: Path) -> None:
    if DEFAULT_MODEL not in shipped_models():
        pytest.skip("no weights are shipped")
    folder = shared_data / "BraTS2021_01484"  # not trained on
    fixed, true = (load_image(folder / f"{name}.nii.gz") for name in ("t2", "t1"))
    moving, truth = _deformed(true)
    found = register(fixed, moving, refine_steps=0, device="cpu")
    assert found.quality.passed, found.quality

    brain = np.argwhere(fixed.data > 0)[::997]
    points = fixed.grid.to_world(brain)
    wanted = truth.map_points(points)
    before = np.linalg.norm(wanted - points, axis=1).mean()
    after = np.linalg.norm(found.transform.map_points(points) - wanted, axis=1).mean()
    assert before > 4
    assert after < 0.7 * before, (after, before)
