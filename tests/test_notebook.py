"""What a notebook asks for: images of any library in, pictures and verdict out, the command's folder."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PairFiles, Phantom
from matplotlib.figure import Figure
from tiny import write_tiny_model

import deformgan
from deformgan.commands.main import main
from deformgan.errors import InputError
from deformgan.io.image import Image
from deformgan.models.load import Model, load_model
from deformgan.output.folder import OUTPUTS
from deformgan.spatial.grid import Grid

OBLIQUE = np.array([[-1.9, 0.2, 0.1, 30], [0.3, 2.9, -0.2, -40], [0.1, 0.3, 1.5, 12], [0, 0, 0, 1]], float)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    return load_model(weights)


def written(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file whose axes are turned and stretched without shears, as scanners' are, its voxels and its affine."""
    u, _, v = np.linalg.svd(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = (u @ v) * [2.0, 3.0, 1.5]
    data = np.random.default_rng(0).uniform(1, 2, (7, 6, 5)).astype(np.float32)
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), path)
    return path, data, affine


@pytest.mark.parametrize("library", ["numpy", "nibabel", "SimpleITK", "ants", "PathLike", "Image"])
def test_an_image_of_any_library_is_the_file_s(library: str, tmp_path: Path) -> None:
    path, data, affine = written(tmp_path)
    if library == "numpy":
        source: object = (data, affine)
    elif library == "nibabel":
        source = nib.load(path)
    elif library == "SimpleITK":
        source = pytest.importorskip("SimpleITK").ReadImage(str(path))
    elif library == "ants":
        source = pytest.importorskip("ants").image_read(str(path))
    elif library == "PathLike":
        with os.scandir(tmp_path) as entries:
            source = next(entries)
    else:
        source = deformgan.Image(data, affine)
    image = deformgan.load_image(source)
    np.testing.assert_allclose(image.data, data, rtol=1e-6)
    np.testing.assert_allclose(image.grid.affine, affine, atol=1e-4)


def test_an_array_alone_is_refused_and_says_what_is_wanted() -> None:
    with pytest.raises(InputError, match=r"where its voxels lie.*Image\(array, affine\)"):
        deformgan.load_image(np.ones((4, 4, 4)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="4×4"):
        deformgan.Image(np.ones((4, 4, 4)), np.eye(3))  # type: ignore[arg-type]


def test_an_image_goes_to_nibabel_and_back(tmp_path: Path) -> None:
    _, data, affine = written(tmp_path)
    back = deformgan.Image(data, affine).to_nibabel()
    np.testing.assert_array_equal(np.asarray(back.dataobj), data)
    np.testing.assert_allclose(back.affine, affine)
    labels = Image(np.arange(8, dtype=np.int64).reshape(2, 2, 2), Grid((2, 2, 2), np.eye(4))).to_nibabel()
    assert labels.get_data_dtype() == np.int64


def test_equal_grids_hash_alike() -> None:
    grid, other = Grid((3, 4, 5), np.eye(4)), Grid((3, 4, 5), np.eye(4) * (1 + 1e-12))
    assert grid == other
    assert len({grid, other}) == 1


def test_what_is_printed_is_short(model: Model, phantom: Phantom) -> None:
    found = deformgan.register((phantom.t2, phantom.affine), (phantom.t1, phantom.affine), model=model, refine_steps=0)
    for one in (found, found.moved, found.transform, found.moved.grid):
        assert len(repr(one)) < 250
        assert "array" not in repr(one)
    assert found.quality.verdict in repr(found)
    shown = found._repr_html_()
    assert found.quality.verdict in shown
    assert shown.count("data:image/png") == 1
    assert isinstance(found.plot(), Figure)
    assert len(found.plot().axes) >= 3
    np.testing.assert_array_equal(np.asarray(found.to_nibabel().dataobj), found.moved.data)


def test_the_saved_folder_is_the_command_s(pair_files: PairFiles, weights: Path, tmp_path: Path) -> None:
    quick = ["--model", str(weights), "--refine-steps", "0", "--uncertainty", "--threads", "1"]
    words = ["register", "-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(tmp_path / "command")]
    points = tmp_path / "points.csv"
    points.write_text("x,y,z\n3,-5,7\n")
    more = ["--moving-labels", str(pair_files.moving_labels), "--moving-points", str(points)]
    assert main([*words, *quick, *more]) in (0, 4)
    found = deformgan.register(
        pair_files.fixed,
        pair_files.moving,
        moving_labels=pair_files.moving_labels,
        moving_points=points,
        model=str(weights),
        refine_steps=0,
        uncertainty=True,
    )
    found.save(tmp_path / "python")
    names = {path.name for path in (tmp_path / "command").iterdir()}
    assert names == {path.name for path in (tmp_path / "python").iterdir()} == set(OUTPUTS)
    moved = deformgan.load_image(tmp_path / "command" / "moved.nii.gz").data
    np.testing.assert_array_equal(moved, deformgan.load_image(tmp_path / "python" / "moved.nii.gz").data)
    for name in names - {"registration.json", "report.html"}:
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "python" / name).read_bytes(), name
    assert found.report(tmp_path / "page.html").stat().st_size > 100_000


def test_apply_takes_what_register_takes(pair_files: PairFiles, model: Model, phantom: Phantom, tmp_path: Path) -> None:
    found = deformgan.register(pair_files.fixed, pair_files.moving, model=model, refine_steps=0)
    found.save(tmp_path / "out", report=False)
    onto = nib.load(pair_files.fixed)
    moved = deformgan.apply(nib.load(pair_files.moving), found.transform, onto)
    np.testing.assert_allclose(moved.data, found.moved.data, atol=1e-4)
    again = deformgan.apply(pair_files.moving, tmp_path / "out" / "warp.nii.gz", onto)
    np.testing.assert_allclose(again.data, found.moved.data, atol=0.02)
    labels = deformgan.apply(pair_files.moving_labels, found.transform, pair_files.fixed)
    assert set(np.unique(labels.data)) <= set(np.unique(phantom.labels))
    there_and_back = deformgan.apply(pair_files.moving, [found.transform, found.transform.inverse()], onto)
    inside = phantom.labels > 0
    original = np.asarray(nib.load(pair_files.moving).dataobj)
    assert np.abs(there_and_back.data - original)[inside].mean() < 0.1 * np.abs(original[inside]).mean()
