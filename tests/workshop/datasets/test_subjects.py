"""Subjects: conformed together, realigned, kept in the cache and made anew when that is damaged."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import make_phantom, write_nifti
from safetensors.torch import load_file, save_file
from small_datasets import write_list
from small_training import data_config, write_people
from torch import Tensor

from deformgan.errors import InputError
from deformgan.losses import ngf_similarity
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets import cache
from deformgan.workshop.datasets import subjects as module
from deformgan.workshop.datasets.layouts import find_patients
from deformgan.workshop.datasets.subjects import Subject, load_subjects

ONE = ("one",)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def forbid(*_: Any) -> Subject:
    raise AssertionError("it was made again")


def equal(a: Subject, b: Subject) -> bool:
    tensors = [{**s.volumes, "mask": s.mask, "lesion": s.lesion} for s in (a, b)]
    return list(tensors[0]) == list(tensors[1]) and all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


def test_a_patient_is_conformed_with_outline(people: Path, tmp_path: Path) -> None:
    (subject,) = load_subjects(data_config(people, tmp_path), ONE)
    assert subject.name == "one"
    assert list(subject.volumes) == ["t1", "t2"]
    assert not subject.synthetic
    for volume in (*subject.volumes.values(), subject.mask, subject.lesion):
        assert volume.shape == (1, 1, 32, 32, 32)
        assert volume.dtype == torch.uint8
    brain_mm3 = 4.0**3 * np.count_nonzero(make_phantom().labels)
    assert int(subject.mask.sum()) * 6.0**3 == pytest.approx(brain_mm3, rel=0.05)
    tumour_mm3 = 4.0**3 * np.count_nonzero(make_phantom().labels == 100)
    assert int(subject.lesion.sum()) * 6.0**3 == pytest.approx(tumour_mm3, rel=0.3)
    # as in the phantom, the tumour is darker than white matter in T1 and brighter in T2
    inside, brain = (m[0, 0] > 0 for m in (subject.lesion, subject.mask))
    means = {c: (v[0, 0][inside].float().mean(), v[0, 0][brain].float().mean()) for c, v in subject.volumes.items()}
    assert means["t1"][0] < means["t1"][1]
    assert means["t2"][0] > means["t2"][1]


def test_without_an_outline_there_is_no_lesion(people: Path, tmp_path: Path) -> None:
    write_people(tmp_path / "root")
    (tmp_path / "root" / "one" / "seg.nii.gz").unlink()
    (subject,) = load_subjects(data_config(tmp_path / "root", tmp_path), ONE)
    assert int(subject.lesion.sum()) == 0


def test_a_label_map_becomes_images_of_many_contrasts(people: Path, tmp_path: Path) -> None:
    config = data_config(people, tmp_path)
    (subject,) = load_subjects(config, (), ("labels.nii.gz",))
    assert subject.synthetic
    assert list(subject.volumes) == ["random-2", "t1-0", "t2-1"]
    assert int(subject.lesion.sum()) > 0
    assert bool((subject.mask >= subject.lesion).all())
    (again,) = load_subjects(replace(config, cache=str(tmp_path / "other")), (), ("labels.nii.gz",))
    assert equal(subject, again)


def test_a_label_map_without_white_matter_is_refused(tmp_path: Path) -> None:
    phantom = make_phantom()
    write_nifti(tmp_path / "odd.nii.gz", np.where(phantom.labels > 0, 3, 0).astype(np.int16), phantom.affine)
    with pytest.raises(InputError, match=r"odd.nii.gz is no label map of a brain.*white matter"):
        load_subjects(data_config(tmp_path, tmp_path), (), ("odd.nii.gz",))


@pytest.mark.parametrize("name", ["one", "labels.nii.gz"])
def test_the_cache_is_used_the_second_time(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = data_config(people, tmp_path / "new" / "cache")
    maps = (name,) if name.endswith("gz") else ()
    (first,) = load_subjects(config, () if maps else (name,), maps)
    monkeypatch.setattr(module, "_from_patient", forbid)
    if maps:  # which maker is asked for tells what the subject is
        monkeypatch.setattr(module, "load_labels", forbid)
    (second,) = load_subjects(config, () if maps else (name,), maps)
    assert equal(first, second)
    assert (second.name, second.synthetic) == (first.name, first.synthetic)


def test_the_cache_is_shared_by_roots_and_shares_but_not_by_grids(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = data_config(people, tmp_path)
    load_subjects(config, ONE)
    monkeypatch.setattr(module, "_from_patient", forbid)
    same = {"root": "elsewhere", "synthetic": 0.9, "patients": (), "contrasts": {"t1": 2.0, "t2": 1.0}}
    load_subjects(replace(config, **same), ONE)
    for changes in ({"spacing": 5.0}, {"realign": False}, {"contrasts": {"t2": 1.0, "t1": 1.0}}):
        with pytest.raises(AssertionError, match="made again"):
            load_subjects(replace(config, **changes), ONE)


def halve_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        halve_file,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x00" * 999),
        rewrite(lambda t: t.pop("mask")),
        rewrite(lambda t: t.pop("t1")),
        rewrite(lambda t: t.update(t1=t["t1"][..., :-1].contiguous())),
        rewrite(lambda t: t.update(t1=t["t1"].float())),
    ],
    ids=["half", "empty", "zeros", "no mask", "one image", "another grid", "floats"],
)
def test_a_damaged_cache_is_made_anew(
    people: Path, tmp_path: Path, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = data_config(people, tmp_path)
    (first,) = load_subjects(config, ONE)
    (path,) = tmp_path.glob("one-*.safetensors")
    whole = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        (second,) = load_subjects(config, ONE)
    assert "is damaged and is made anew" in caplog.text
    assert equal(first, second)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(("gone", "found"), [(["t2"], 1), (["t1", "t2"], 0)])
def test_too_few_contrasts_are_refused(tmp_path: Path, gone: list[str], found: int) -> None:
    write_people(tmp_path / "root")
    for stem in gone:
        (tmp_path / "root" / "two" / f"{stem}.nii.gz").unlink()
    with pytest.raises(InputError, match=rf"two holds {found} of the contrasts t1, t2"):
        load_subjects(data_config(tmp_path / "root", tmp_path / "cache"), ("one", "two"))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        load_subjects(data_config(tmp_path, tmp_path), ())


def test_contrasts_share_one_grid_even_where_it_had_to_grow(tmp_path: Path) -> None:
    """T1 is cut off at half the head: T2 must not be given a grid of its own that fits the whole."""
    phantom = make_phantom()
    affine = phantom.affine.copy()
    affine[:3] *= 1.6  # 4 mm become 6.4: too large for 32 voxels of 6 mm
    cut = phantom.t1.copy()
    cut[:, 30:] = 0
    (tmp_path / "big").mkdir()
    for stem, data in (("t1", cut), ("t2", np.where(cut > 0, phantom.t2, phantom.t2 * 0.999))):
        write_nifti(tmp_path / "big" / f"{stem}.nii.gz", data.astype(np.float32), affine)
    (subject,) = load_subjects(data_config(tmp_path, tmp_path, realign=False), ("big",))
    t1, t2 = (subject.volumes[c][0, 0].float() for c in ("t1", "t2"))
    both = (t1 > 20) & (t2 > 20)
    # the contrasts are opposite, and stay so voxel by voxel
    assert float(torch.corrcoef(torch.stack([t1[both], t2[both]]))[0, 1]) < -0.85


def slow_best_shift(fixed: Tensor, moving: Tensor, reach: float, step: float) -> float:
    """Every shift sampled and compared for itself."""
    best, shift = -math.inf, 0.0
    for k in range(-int(reach / step), int(reach / step) + 1):
        field = torch.zeros(1, 3, *fixed.shape[2:])
        field[:, 2] = k * step
        score = float(ngf_similarity(fixed, warp(moving, field), epsilon=0.03, squared=True))
        if score > best:
            best, shift = score, k * step
    return shift


@pytest.mark.parametrize("true_shift", [-2.4, -1.0, -0.3, 0.0, 0.55, 1.9])
def test_the_best_shift_is_that_of_an_exhaustive_search(true_shift: float) -> None:
    phantom = make_phantom(texture=0.05)
    fixed, moving = (torch.from_numpy(v)[None, None] for v in (phantom.t2, phantom.t1))
    field = torch.zeros(1, 3, *fixed.shape[2:])
    field[:, 2] = -true_shift
    moving = warp(moving, field)
    found = module._best_shift(fixed, moving, 2.5, 0.125)
    assert found == slow_best_shift(fixed, moving, 2.5, 0.125)
    assert found == pytest.approx(true_shift, abs=0.3)


def test_content_at_the_ends_of_the_axis_is_searched_the_same() -> None:
    fixed, moving = torch.rand(2, 1, 1, 9, 8, 7, generator=torch.Generator().manual_seed(1))
    fixed[..., 2:] = moving[..., :-2]
    assert module._best_shift(fixed, moving, 2.5, 0.125) == slow_best_shift(fixed, moving, 2.5, 0.125) == -2.0


def offset_person(root: Path, voxels: int) -> Path:
    """A T2 whose header is right, and whose content lies some slices off."""
    write_people(root)
    path = root / "one" / "t2.nii.gz"
    image = nib.load(path)
    write_nifti(path, np.roll(np.asarray(image.dataobj), voxels, axis=2), image.affine)  # type: ignore[attr-defined]
    return root


def test_contrasts_that_are_slices_off_are_brought_together(people: Path, tmp_path: Path) -> None:
    (still,) = load_subjects(data_config(people, tmp_path / "a"), ONE)
    root = offset_person(tmp_path / "root", 3)  # 12 mm, two voxels
    distances = []
    for realign in (True, False):
        (subject,) = load_subjects(data_config(root, tmp_path / str(realign), realign=realign), ONE)
        assert torch.equal(subject.volumes["t1"], still.volumes["t1"])
        distances.append(float((subject.volumes["t2"].float() - still.volumes["t2"].float()).abs().mean()))
    assert distances[0] < 0.2 * distances[1]


def test_contrasts_that_are_together_are_not_sampled_again(people: Path, tmp_path: Path) -> None:
    (realigned,) = load_subjects(data_config(people, tmp_path / "a"), ONE)
    (left,) = load_subjects(data_config(people, tmp_path / "b", realign=False), ONE)
    assert equal(realigned, left)


def forbid_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_from_patient", forbid)


def as_brats(root: Path) -> Path:
    """The people of `write_people` laid out as BraTS 2018, and three more."""
    write_people(root / "plain")
    for number, name in enumerate(("one", "two", "one", "two", "one")):
        folder = root / "data" / "HGG" / f"Brats18_A_{number}_1"
        folder.mkdir(parents=True)
        for file in (root / "plain" / name).iterdir():
            shutil.copy2(file, folder / f"{folder.name}_{file.name}")
    return root / "data"


def as_decathlon(root: Path) -> Path:
    """One person as a 4-D file."""
    people = write_people(root / "plain") / "one"
    t1, t2 = (nib.load(people / f"{stem}.nii.gz") for stem in ("t1", "t2"))  # type: ignore[attr-defined]
    for folder in ("imagesTr", "labelsTr"):
        (root / "data" / folder).mkdir(parents=True)
    stack = np.stack([np.asarray(t2.dataobj) + 1, *(np.asarray(i.dataobj) for i in (t1, t1, t2))], axis=3)
    write_nifti(root / "data" / "imagesTr" / "BRATS_1.nii.gz", stack, t1.affine)
    shutil.copy(people / "seg.nii.gz", root / "data" / "labelsTr" / "BRATS_1.nii.gz")
    write_list(root / "data", [{"image": "imagesTr/BRATS_1.nii.gz", "label": "labelsTr/BRATS_1.nii.gz"}])
    return root / "data"


@pytest.mark.parametrize("lay_out", [as_brats, as_decathlon])
def test_every_layout_gives_the_same_images(tmp_path: Path, lay_out: Callable[[Path], Path]) -> None:
    root = lay_out(tmp_path)
    (plain,) = load_subjects(data_config(tmp_path / "plain", tmp_path / "a"), ONE)
    config = data_config(root, tmp_path / "b")
    found = find_patients(root)
    assert found.problems == ()
    first = load_subjects(config, found.patients)[0]
    assert equal(first, plain)
    assert first.name == found.patients[0].name
    (named,) = load_subjects(config, [first.name])  # found by its name too
    assert equal(named, plain)


def test_pairs_of_a_list_are_subjects_too(people: Path, tmp_path: Path) -> None:
    root = shutil.copytree(people, tmp_path / "root")
    (root / "pairs.csv").write_text("name,fixed,moving,outline\nfirst,one/t2.nii.gz,one/t1.nii.gz,one/seg.nii.gz\n")
    config = data_config(root / "pairs.csv", tmp_path / "cache")
    both = load_subjects(config, find_patients(config.root).patients, ("labels.nii.gz",))
    (plain,) = load_subjects(data_config(people, tmp_path / "cache"), ONE)
    assert equal(both[0], plain)
    assert [s.name for s in both] == ["first", "labels.nii.gz"]


def test_one_that_turns_out_damaged_is_told_and_the_rest_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A header says nothing of a flipped bit amid the voxels."""
    root = as_brats(tmp_path)
    found = find_patients(root)
    path = found.patients[1].images["t2"].path
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    config = data_config(root, tmp_path / "cache")
    subjects = load_subjects(config, find_patients(root).patients)
    assert [s.name for s in subjects] == [p.name for p in found.patients if p.name != "Brats18_A_1_1"]
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.startswith("Brats18_A_1_1 is left out: ")
    assert "Brats18_A_1_1_t2.nii.gz is truncated or damaged" in said
    with pytest.raises(InputError, match=r"Brats18_A_1_1_t2.nii.gz is truncated or damaged"):
        load_subjects(config, ["Brats18_A_1_1"])  # who was named is wanted
    with pytest.raises(InputError, match="none of 1 patients can be used"):
        load_subjects(config, found.patients[1:2])


def test_a_contrast_that_the_direction_asks_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = as_brats(tmp_path)
    folder = root / "HGG" / "Brats18_A_1_1"
    (folder / "Brats18_A_1_1_t2.nii.gz").rename(folder / "Brats18_A_1_1_flair.nii.gz")
    config = data_config(
        root, tmp_path / "cache", contrasts={"t1": 1.0, "t2": 1.0, "flair": 1.0}, direction=("t2", "t1")
    )
    subjects = load_subjects(config, find_patients(root).patients)
    assert len(subjects) == 4
    assert "Brats18_A_1_1 has no t2, which direction asks for — add" in caplog.text
    with pytest.raises(InputError, match="Brats18_A_1_1 has no t2"):
        load_subjects(config, ["Brats18_A_1_1"])


def test_progress_is_told_for_those_conformed_only(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = data_config(people, tmp_path)
    caplog.set_level(logging.INFO)
    load_subjects(config, ("two",))
    caplog.clear()
    load_subjects(config, ("one", "two"), ("labels.nii.gz",))
    conformed = [m for m in caplog.messages if m.startswith("conforming")]
    assert conformed == ["conforming one (1 of 3)", "conforming labels.nii.gz (3 of 3)"]


@pytest.fixture
def cached_one(people: Path, tmp_path: Path) -> tuple[Path, Path, Subject]:
    """A root of its own, the cache file made from it, and the subject."""
    root = shutil.copytree(people, tmp_path / "root")
    (subject,) = load_subjects(data_config(root, tmp_path / "cache"), ONE)
    (path,) = (tmp_path / "cache").iterdir()
    return root, path, subject


def again(root: Path, path: Path) -> Subject:
    (subject,) = load_subjects(data_config(root, path.parent), ONE)
    return subject


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> str:
        raise AssertionError("a source was read")

    monkeypatch.setattr(cache, "sha256", refuse)


def test_unchanged_sources_are_not_even_read(
    cached_one: tuple[Path, Path, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path, subject = cached_one
    forbid_making(monkeypatch)
    forbid_reading(monkeypatch)
    assert equal(again(root, path), subject)


@pytest.mark.parametrize("file", ["t1", "t2", "seg"])
def test_a_changed_source_is_noticed(cached_one: tuple[Path, Path, Subject], file: str) -> None:
    """Of the same size, as an image that was not packed would be: its time and its contents tell."""
    root, path, subject = cached_one
    source = root / "one" / f"{file}.nii.gz"
    size = source.stat().st_size
    other = nib.load(root / "two" / f"{file}.nii.gz")  # type: ignore[attr-defined]
    write_nifti(source, np.asarray(other.dataobj)[::-1], other.affine)
    with source.open("ab") as stream:  # bytes behind a gzip's end are ignored
        stream.write(b"\0" * max(0, size - source.stat().st_size))
    new = again(root, path)
    assert not equal(new, subject)
    assert equal(again(root, path), new)


def test_a_changed_source_of_the_same_size_is_noticed(
    cached_one: tuple[Path, Path, Subject], caplog: pytest.LogCaptureFixture
) -> None:
    root, path, _ = cached_one
    source = root / "one" / "seg.nii.gz"
    raw = bytearray(source.read_bytes())
    raw[4:8] = b"\1\2\3\4"  # the gzip's own time, nothing of the image
    source.write_bytes(raw)
    os.utime(source, ns=(0, 0))
    caplog.set_level(logging.INFO)
    again(root, path)
    assert "is made anew: changed are outline" in caplog.text


def test_a_touched_source_is_read_once_and_nothing_is_made(
    cached_one: tuple[Path, Path, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path, subject = cached_one
    os.utime(root / "one" / "t1.nii.gz", ns=(5, 5))
    forbid_making(monkeypatch)
    assert equal(again(root, path), subject)
    forbid_reading(monkeypatch)
    assert equal(again(root, path), subject)


@pytest.mark.parametrize("file", ["seg.nii.gz", "lesion.nii.gz"])
def test_a_source_that_comes_or_goes_is_noticed(cached_one: tuple[Path, Path, Subject], file: str) -> None:
    root, path, subject = cached_one
    assert int(subject.lesion.sum()) > 0
    (root / "one" / "seg.nii.gz").unlink()
    without = again(root, path)
    assert int(without.lesion.sum()) == 0
    shutil.copy(root / "two" / "seg.nii.gz", root / "one" / file)
    assert int(again(root, path).lesion.sum()) > 0


def test_a_changed_label_map_is_noticed(people: Path, tmp_path: Path) -> None:
    root = shutil.copytree(people, tmp_path / "root")
    config = data_config(root, tmp_path / "cache")
    (before,) = load_subjects(config, (), ("labels.nii.gz",))
    image = nib.load(root / "labels.nii.gz")  # type: ignore[attr-defined]
    write_nifti(root / "labels.nii.gz", np.asarray(image.dataobj)[::-1], image.affine)
    (after,) = load_subjects(config, (), ("labels.nii.gz",))
    assert not equal(before, after)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_one_flipped_bit_of_the_cache_is_found(
    cached_one: tuple[Path, Path, Subject], share: float, caplog: pytest.LogCaptureFixture
) -> None:
    root, path, subject = cached_one
    whole = path.read_bytes()
    raw = bytearray(whole)
    raw[int(share * len(raw))] ^= 1
    path.write_bytes(raw)
    assert equal(again(root, path), subject)
    assert "is damaged and is made anew: its checksum is another" in caplog.text
    assert path.read_bytes() == whole


def test_a_record_of_sources_that_was_tampered_with_is_found(
    cached_one: tuple[Path, Path, Subject], caplog: pytest.LogCaptureFixture
) -> None:
    root, path, _ = cached_one
    raw = path.read_bytes()
    start = raw.index(b'\\"size\\": ') + 10
    path.write_bytes(raw[:start] + bytes([raw[start] ^ 1]) + raw[start + 1 :])
    again(root, path)
    assert "is damaged and is made anew" in caplog.text


def test_sources_that_are_gone_do_not_matter(
    cached_one: tuple[Path, Path, Subject], caplog: pytest.LogCaptureFixture
) -> None:
    root, path, subject = cached_one
    shutil.rmtree(root)
    assert equal(again(root, path), subject)
    assert "are gone: what it holds is used" in caplog.text


def test_a_full_disk_is_not_blamed_on_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise InputError("the disk is full", "free some space")

    root = as_brats(tmp_path)
    monkeypatch.setattr(module, "store", full)
    with pytest.raises(InputError, match="the disk is full"):
        load_subjects(data_config(root, tmp_path / "cache"), find_patients(root).patients)
