"""The product as a Python function: what it returns, what it writes, and that its parts fit together."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PairFiles, Phantom
from scipy import ndimage
from tiny import write_tiny_model

import deformgan
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.models.device import pick_device
from deformgan.models.load import Model, load_model
from deformgan.output.folder import OUTPUTS
from deformgan.output.registration import Registration
from deformgan.spatial.field import affine_field
from deformgan.spatial.grid import Grid
from deformgan.transforms.of_field import transform_of_field


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny"))


@pytest.fixture
def registration(pair_files: PairFiles, model: Model) -> Registration:
    return deformgan.register(
        pair_files.fixed,
        pair_files.moving,
        moving_labels=pair_files.moving_labels,
        moving_points=np.array([[10.0, -20.0, 5.0]]),
        model=model,
        refine_steps=0,
    )


@pytest.mark.processor
def test_an_untrained_network_still_centres_the_content(registration: Registration, phantom: Phantom) -> None:
    # the moving image is the fixed one's contrast shifted by two voxels of 4 mm along x: its content's centre says so
    np.testing.assert_allclose(registration.transform.affine[:3, 3], [8, 0, 0], atol=0.7)
    inside = phantom.labels > 0
    before = np.abs(np.roll(phantom.t1, 2, axis=0) - phantom.t1)[inside].mean()
    after = np.abs(registration.moved.data - phantom.t1)[inside].mean()
    assert after < 0.35 * before
    assert registration.quality.passed
    assert registration.quality.similarity_after > registration.quality.similarity_before


def test_labels_and_points_move_with_the_image(registration: Registration, phantom: Phantom) -> None:
    assert registration.moved_labels is not None
    assert registration.moved_points is not None
    assert set(np.unique(registration.moved_labels.data)) <= set(np.unique(phantom.labels))
    assert (registration.moved_labels.data == phantom.labels)[phantom.labels > 0].mean() > 0.9
    # content at x in the moving image lies 8 mm to the left of it in the fixed image
    np.testing.assert_allclose(registration.moved_points.positions_mm, [[2.0, -20.0, 5.0]], atol=0.8)


def test_the_moved_image_lies_on_the_fixed_grid(registration: Registration, phantom: Phantom) -> None:
    assert registration.moved.data.shape == phantom.t2.shape
    np.testing.assert_allclose(registration.moved.grid.affine, phantom.affine, atol=1e-5)


@pytest.mark.processor
def test_paths_nibabel_images_and_images_are_alike(pair_files: PairFiles, model: Model) -> None:
    def moved(fixed: object, moving: object) -> np.ndarray:
        return deformgan.register(fixed, moving, model=model, refine_steps=0).moved.data

    paths = moved(pair_files.fixed, str(pair_files.moving))
    objects = moved(nib.load(pair_files.fixed), deformgan.load_image(pair_files.moving))
    np.testing.assert_array_equal(paths, objects)


def test_the_folder_is_complete_and_reads_back(registration: Registration, tmp_path: Path) -> None:
    record = registration.save(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(OUTPUTS) - {"uncertainty.nii.gz"}
    assert json.loads((tmp_path / "out" / "registration.json").read_text(encoding="utf-8")) == record
    transform = deformgan.load_transform(tmp_path / "out" / "warp.nii.gz")
    points = np.array([[0.0, 0.0, 0.0], [20.0, -30.0, 10.0]])
    # the map that moved the image is the one that is saved
    np.testing.assert_allclose(transform.map_points(points), registration.transform.map_points(points), atol=2e-4)
    for name, of in record["fields"].items():
        assert nib.load(tmp_path / "out" / name).shape == (*of["shape"], 1, 3)
        assert of["added_error_mm"] <= 0.02
    back = deformgan.load_transform(tmp_path / "out" / "inverse_warp.nii.gz")
    np.testing.assert_allclose(back.map_points(transform.map_points(points)), points, atol=0.05)
    affine = deformgan.load_transform(tmp_path / "out" / "affine.txt")
    np.testing.assert_allclose(affine.affine, registration.transform.affine, atol=1e-9)
    jacobian = nib.load(tmp_path / "out" / "jacobian.nii.gz")
    assert jacobian.get_fdata().mean() == pytest.approx(1, abs=0.02)


def test_the_record_says_what_was_done(registration: Registration, pair_files: PairFiles, tmp_path: Path) -> None:
    record = registration.save(tmp_path / "out")
    assert record["inputs"]["fixed"]["path"] == str(pair_files.fixed)
    assert set(record["inputs"]) == {"fixed", "moving", "moving_labels", "moving_points"}
    assert len(record["model"]["sha256"]) == 64
    assert record["settings"]["refine_steps"] == 0
    assert record["settings"]["precision"] in ("fp32", "bf16")
    assert record["notes"] == []
    assert 0 <= record["quality"]["inverse_residual_mm"] < 0.1
    assert record["quality"]["initial_shift_mm"] == pytest.approx(8, abs=0.7)
    assert record["quality"]["displacement_mean_mm"] == pytest.approx(8, abs=0.7)
    assert record["quality"]["passed"] is True
    assert {"read", "load model", "align", "conform", "predict", "transform", "assess", "write", "total"} == set(
        record["timings"]
    )
    assert sum(v for k, v in record["timings"].items() if k != "total") == pytest.approx(
        record["timings"]["total"], abs=0.01
    )
    assert set(record["outputs"]) == set(OUTPUTS) - {"registration.json", "report.html", "uncertainty.nii.gz"}


def test_saving_twice_needs_force(registration: Registration, tmp_path: Path) -> None:
    registration.save(tmp_path / "out")
    with pytest.raises(UsageError, match="already holds"):
        registration.save(tmp_path / "out")
    registration.save(tmp_path / "out", force=True)


def test_an_error_in_a_writing_thread_is_raised_and_leaves_nothing(
    registration: Registration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        registration.save(tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_callers_random_state_is_left_alone(pair_files: PairFiles, model: Model) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    deformgan.register(pair_files.fixed, pair_files.moving, model=model, refine_steps=0)
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.processor
def test_refinement_improves_the_agreement(pair_files: PairFiles) -> None:
    fixed, moving = pair_files.fixed, pair_files.moving
    stages: list[str] = []
    start = deformgan.register(fixed, moving, refine_steps=0)
    refined = deformgan.register(fixed, moving, refine_steps=30, progress=stages.append)
    assert refined.quality.similarity_after > start.quality.similarity_after
    assert refined.quality.edge_agreement_after > start.quality.edge_agreement_after
    assert "refine: step 30 of 30" in stages
    assert refined.provenance["settings"]["refine_steps"] == 30


def test_smoothness_is_a_choice(pair_files: PairFiles, model: Model) -> None:
    fixed, moving = pair_files.fixed, nib.nifti1.load(pair_files.moving)
    data = moving.get_fdata(dtype=np.float32)
    i, j, k = np.indices(data.shape, np.float32)
    bent = ndimage.map_coordinates(data, [i + 4 * np.sin(j / 6), j + 4 * np.sin(k / 6), k], order=1)
    moving = nib.nifti1.Nifti1Image(bent, moving.affine)
    found = [
        deformgan.register(fixed, moving, model=model, refine_steps=40, subject="same", smoothness=s)
        for s in (0.01, 1.0, 100.0)
    ]
    rough = [result.quality.roughness_voxels for result in found]
    assert rough[0] > 1.05 * rough[1] > 1.3 * rough[2]
    assert found[2].provenance["settings"]["smoothness"] == 100.0
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="smoothness"):
            deformgan.register(fixed, moving, model=model, smoothness=wrong)


def test_usage_errors(pair_files: PairFiles, model: Model) -> None:
    with pytest.raises(UsageError, match="are not 0 to"):
        deformgan.register(pair_files.fixed, pair_files.moving, model=model, refine_steps=-1)
    with pytest.raises(UsageError, match="no device 'tpu'"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        assert pick_device("auto") == "cpu"
        with pytest.raises(UsageError, match="no device 'cuda'"):
            pick_device("cuda")


def test_the_module_does_not_hide_the_function() -> None:
    import deformgan.pipeline

    assert callable(deformgan.register)
    assert deformgan.register is deformgan.pipeline.register
    assert "register" in dir(deformgan)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deformgan.nothing


def test_the_affine_is_the_one_nearest_to_the_map(phantom: Phantom) -> None:
    matrix = torch.eye(4)
    matrix[:3] = torch.tensor([[1.05, 0.1, 0.0, -2.0], [-0.1, 1.0, 0.05, 1.0], [0.0, 0.0, 0.95, 0.5]])
    grids = [Grid.centred((20, 24, 18), 4.0, np.array(c)) for c in ((5.0, -3.0, 2.0), (25.0, -8.0, 2.0))]
    mask = torch.zeros(1, 1, 20, 24, 18)
    mask[:, :, 4:16, 4:20, 4:14] = 1
    bump = 0.5 * torch.sin(torch.arange(9.0)).view(1, 1, 1, 1, 9)
    for shape in ((20, 24, 18), (10, 12, 9)):
        factor = shape[0] / 20
        coarse = matrix.clone()
        coarse[:3, 3] *= factor
        field = affine_field(coarse[None], shape)
        transform = transform_of_field(*grids, field, mask)
        first, second = (grid.resized(shape) for grid in grids)
        expected = second.affine @ coarse.numpy() @ first.world_to_index
        np.testing.assert_allclose(transform.affine, expected, atol=1e-3)
        assert transform.disp_mm is not None
        assert np.abs(transform.disp_mm).max() < 1e-3
    # whatever the field, the two parts together are the field
    wavy = field + bump
    index = np.argwhere(np.ones(shape))
    mapped = transform_of_field(*grids, wavy, mask).map_points(first.to_world(index))
    np.testing.assert_allclose(mapped, second.to_world(index + wavy[0].flatten(1).T.numpy()), atol=1e-3)


def test_labels_and_points_beside_the_image_are_refused(pair_files: PairFiles, model: Model, phantom: Phantom) -> None:
    def run(**options: object) -> None:
        deformgan.register(pair_files.fixed, pair_files.moving, model=model, refine_steps=0, **options)

    away = np.eye(4)
    away[:3, 3] = 500
    far = Image(phantom.labels, Grid(phantom.labels.shape, away @ phantom.affine), "far.nii")
    with pytest.raises(InputError, match=r"far\.nii do not overlap"):
        run(moving_labels=far)
    with pytest.raises(InputError, match="no point lies in"):
        run(moving_points=np.array([[500.0, 0, 0]]))
    with pytest.warns(UserWarning, match="1 of 2 points lie outside") as warned:
        run(moving_points=np.array([[500.0, 0, 0], [0, 0, 0]]))
    assert {one.filename for one in warned} == {__file__}, "told of the user's line"


def test_heads_are_remarked_upon(pair_files: PairFiles, model: Model, phantom: Phantom) -> None:
    big = Image(phantom.t2, Grid(phantom.t2.shape, np.diag([1.6, 1.6, 1.6, 1]) @ phantom.affine))
    with pytest.warns(UserWarning, match=r"fixed image may not be .*: its foreground measures 4\.\d l") as warned:
        found = deformgan.register(big, pair_files.moving, model=model, refine_steps=0)
    assert found.provenance["notes"]
    assert {one.filename for one in warned} == {__file__}, "told of the user's line"


def test_a_loaded_model_says_where_to_compute(pair_files: PairFiles, model: Model) -> None:
    # "cuda" would be refused, or used, if the model were not asked
    found = deformgan.register(pair_files.fixed, pair_files.moving, model=model, refine_steps=0, device="cuda")
    assert found.provenance["settings"]["device"] == "cpu"


def test_the_expected_error_is_on_the_fixed_grid(model: Model, tmp_path: Path, phantom: Phantom) -> None:
    pair = [nib.Nifti1Image(image, phantom.affine) for image in (phantom.t2, phantom.t1)]
    assert deformgan.register(*pair, model=model, refine_steps=0).uncertainty is None
    found = deformgan.register(*pair, model=model, refine_steps=0, uncertainty=True)
    assert found.uncertainty is not None
    assert found.uncertainty.grid == found.moved.grid
    assert found.uncertainty.data[phantom.t2 > 0].min() > 0
    assert found.uncertainty.data[0, 0, 0] == 0
    assert "uncertainty.nii.gz" in found.save(tmp_path / "out")["outputs"]
