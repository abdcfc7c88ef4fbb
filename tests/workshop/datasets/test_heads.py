"""Label maps as S is taught with them: any orientation and spacing, read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_phantom, write_nifti
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from deformgan.errors import InputError
from deformgan.workshop.datasets import heads
from deformgan.workshop.datasets.heads import load_label_maps


@pytest.fixture
def file(tmp_path: Path) -> Path:
    phantom = make_phantom()
    labels = np.where(phantom.labels == 100, 41, phantom.labels).astype(np.int16)
    return write_nifti(tmp_path / "head.nii.gz", labels, phantom.affine)


def test_a_map_of_four_millimetres_grows_to_one(file: Path, tmp_path: Path) -> None:
    (found,) = load_label_maps(tmp_path, [file.name], tmp_path / "cache")
    labels = make_phantom().labels
    assert found.ids.tolist() == [0, 2, 3, 4, 24, 41, 42, 43]
    volume = float((found.ids[found.index.long()] == 4).sum())
    assert volume == pytest.approx(64 * np.count_nonzero(labels == 4), rel=0.02)
    extent = [np.ptp(at) + 1 for at in np.nonzero(labels)]
    assert np.abs(np.array(found.index.shape) - 4 * np.array(extent)).max() <= 1


def test_the_distance_is_negative_in_the_brain_and_counts_millimetres(file: Path, tmp_path: Path) -> None:
    (found,) = load_label_maps(tmp_path, [file.name], tmp_path / "cache")
    ids = found.ids[found.index.long()]
    assert bool((found.distance[(ids > 0) & (ids != 24)] < 0).all())
    assert int(found.distance.min()) == -12
    assert int(found.distance.max()) > 0
    line = found.distance[:, int(found.centre[1]), int(found.centre[2])].diff()
    assert int(line.abs().max()) <= 2


@pytest.mark.parametrize("codes", ["LIA", "PSR"])
def test_the_orientation_of_the_file_does_not_matter(file: Path, tmp_path: Path, codes: str) -> None:
    phantom = make_phantom()
    labels = np.where(phantom.labels == 100, 41, phantom.labels).astype(np.int16)
    to = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    from nibabel import apply_orientation

    other = tmp_path / "turned.nii.gz"
    write_nifti(other, apply_orientation(labels, to), phantom.affine @ inv_ornt_aff(to, labels.shape))
    one, two = load_label_maps(tmp_path, [file.name, other.name], tmp_path / "cache")
    assert torch.equal(one.index, two.index)
    assert torch.equal(one.centre, two.centre)


def test_a_second_call_reads_the_cache(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = load_label_maps(tmp_path, [file.name], tmp_path / "cache")

    def unwanted(path: Path) -> None:
        pytest.fail(f"{path} was prepared again")

    monkeypatch.setattr(heads, "_prepared", unwanted)
    (second,) = load_label_maps(tmp_path, [file.name], tmp_path / "cache")
    assert torch.equal(first.distance, second.distance)


@pytest.mark.parametrize("value", [0, 511])
def test_a_map_without_a_brain_is_refused(tmp_path: Path, value: int) -> None:
    write_nifti(tmp_path / "none.nii.gz", np.full((9, 9, 9), value, np.int16), np.eye(4))
    with pytest.raises(InputError):
        load_label_maps(tmp_path, ["none.nii.gz"], tmp_path / "cache")
