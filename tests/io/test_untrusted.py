"""Files made to take time, memory or more: what they claim is told before any of it is spent."""

from __future__ import annotations

import gzip
import json
import os
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, write_tiny_model

from deformgan.errors import DeformganError, InputError
from deformgan.io import untrusted as reading
from deformgan.io.image import load_grid, load_image
from deformgan.io.nibabel_formats import open_nibabel
from deformgan.io.points import read_points
from deformgan.io.untrusted import parse_json, read_nifti, read_small
from deformgan.models.load import fitting_network, load_model
from deformgan.transforms.formats.itk_h5 import read_h5
from deformgan.transforms.transform import Transform, load_transform
from deformgan.workshop.datasets.decathlon import read_decathlon
from deformgan.workshop.datasets.pairs import is_list_of_pairs
from deformgan.workshop.training.config import load_config

AFFINE = np.diag([2.0, 2, 2, 1])
ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".lta", ".mat", ".txt", ".h5")
FIELDS = nib.Nifti1Header.template_dtype.fields
NAMES = [name for name in FIELDS if name != "magic"]


def peak_mb(work: Callable[[], object]) -> float:
    """Megabytes that Python and NumPy took at most while ``work`` ran; what it raises is passed over."""
    import tracemalloc

    tracemalloc.start()
    try:
        work()
    except InputError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak / 2**20


def header(shape: tuple[int, int, int], dtype: type, offset: float = 352) -> bytes:
    """A NIfTI-1 header and the four bytes behind it."""
    raw = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), dtype), AFFINE).to_bytes()[:352])
    raw[40:56] = struct.pack("<8h", 3, *shape, 1, 1, 1, 1)
    raw[108:112] = struct.pack("<f", offset)
    return bytes(raw)


# -- gzip and NIfTI --------------------------------------------------------------------------------------------------


def test_what_lies_behind_the_voxels_is_not_unpacked(tmp_path: Path) -> None:
    """1 kB of voxels and 200 MB of zeros in 1 MB: reading takes the first."""
    path = tmp_path / "bomb.nii.gz"
    deflate = zlib.compressobj(1, wbits=31)
    zeros = bytes(1 << 20)
    data = [deflate.compress(header((8, 8, 8), np.int16) + bytes(range(256)) * 4)]
    data += [deflate.compress(zeros) for _ in range(200)]
    path.write_bytes(b"".join([*data, deflate.flush()]))
    assert path.stat().st_size < 2_000_000
    assert peak_mb(lambda: load_image(path)) < 8
    assert load_image(path).data.shape == (8, 8, 8)
    assert peak_mb(lambda: load_grid(path)) < 8


def test_extensions_are_passed_over_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "far.nii.gz"
    voxels = np.arange(512, dtype=np.int16)
    path.write_bytes(gzip.compress(header((8, 8, 8), np.int16, 64 << 20).ljust(64 << 20, b"\0") + voxels.tobytes(), 1))
    assert peak_mb(lambda: read_nifti(path)) < 10
    assert np.array_equal(read_nifti(path)[0].ravel(order="F"), voxels)


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -float("inf"), 3e8, 1e30])
def test_voxels_that_start_nowhere(tmp_path: Path, offset: float) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(header((2, 2, 2), np.int16, offset) + bytes(16))
    with pytest.raises(InputError):
        load_image(path)


def test_no_more_memory_than_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A true bomb: the file holds what it claims. The limit is lowered to what a test can afford."""
    path = tmp_path / "true.nii.gz"
    path.write_bytes(gzip.compress(header((256, 256, 256), np.float32) + bytes(256**3 * 4), 1))
    monkeypatch.setattr(reading, "MAX_BYTES", 32 << 20)
    with pytest.raises(InputError, match="more than"):
        load_image(path)
    assert peak_mb(lambda: load_image(path)) < 8


def test_the_machines_memory_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    reading.require_memory("a", 1 << 20)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(InputError, match="GiB of memory"):
        reading.require_memory("a", 1 << 20)


def test_shape_and_type_are_refused_before_the_voxels_are_read(tmp_path: Path) -> None:
    for name, data in (
        ("series.nii.gz", np.zeros((64, 64, 64, 8), np.float32)),
        ("complex.nii.gz", np.zeros((64, 64, 64), np.complex64)),
    ):
        nib.Nifti1Image(data, AFFINE).to_filename(tmp_path / name)
        assert peak_mb(lambda path=tmp_path / name: load_image(path)) < 1
        assert peak_mb(lambda path=tmp_path / name: load_transform(path)) < 1


def test_a_grid_is_no_larger_than_its_file(tmp_path: Path) -> None:
    """A reference image's header alone says what is going to be computed."""
    path = tmp_path / "a.nii"
    path.write_bytes(header((2000, 1000, 1000), np.int16))
    with pytest.raises(InputError, match="truncated"):
        load_grid(path)


def test_damaged_deflate_is_no_bug(tmp_path: Path) -> None:
    """ISA-L's error is of a class of its own."""
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 40)
    with pytest.raises(InputError, match="damaged"):
        load_image(path)


@given(st.binary(min_size=0, max_size=600), st.sampled_from(ENDINGS))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(data)
    for read in (load_image, load_transform):
        with pytest.raises(DeformganError):
            read(path)


@pytest.mark.filterwarnings("ignore")  # odd headers are warned of
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(min_size=16, max_size=16))),
    st.sampled_from([b"n+1\0", b"n+2\0", b"ni1\0"]),
)
def test_any_header_gives_an_image_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, bytes]], magic: bytes
) -> None:
    raw = bytearray(header((4, 4, 4), np.int16))
    for name, data in changes:
        kind, at = FIELDS[name][:2]
        raw[at : at + kind.itemsize] = (data * 6)[: kind.itemsize]
    raw[344:348] = magic
    path = tmp_path_factory.getbasetemp() / "header.nii"
    path.write_bytes(bytes(raw) + np.arange(64, dtype=np.int16).tobytes() * 8)
    try:
        image = load_image(path)
    except InputError:
        return
    assert np.isfinite(image.data).all()
    index = np.array([[0, 0, 0], [3, 1, 2]])
    np.testing.assert_allclose(image.grid.to_index(image.grid.to_world(index)), index, atol=1e-3)


# -- other images ----------------------------------------------------------------------------------------------------


def test_freesurfers_claims_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.mgz"
    raw = bytearray(nib.MGHImage(np.zeros((4, 4, 4), np.float32), AFFINE).to_bytes())
    for shape in ((1500, 1000, 1000), (2**31 - 1,) * 3, (-4, 4, 4), (0, 4, 4)):
        raw[4:16] = struct.pack(">3i", *shape)
        path.write_bytes(gzip.compress(bytes(raw)))
        assert peak_mb(lambda: open_nibabel(path)) < 4
        with pytest.raises(InputError):
            load_image(path)


def test_what_lies_beside_an_analyze_image_is_small(tmp_path: Path) -> None:
    nib.Spm99AnalyzeImage(np.arange(64, dtype=np.int16).reshape(4, 4, 4), AFFINE).to_filename(tmp_path / "a.img")
    assert load_image(tmp_path / "a.img").data.shape == (4, 4, 4)
    (tmp_path / "a.mat").write_bytes(bytes(1 << 17))
    with pytest.raises(InputError, match="too large"):
        load_image(tmp_path / "a.img")


def test_what_nibabel_corrects_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nib.Nifti1Pair(np.arange(64, dtype=np.int16).reshape(4, 4, 4), AFFINE)
    image.to_filename(tmp_path / "a.img")
    raw = bytearray((tmp_path / "a.hdr").read_bytes())
    raw[80:84] = struct.pack("<f", -2.0)  # pixdim[1]
    (tmp_path / "a.hdr").write_bytes(raw)
    with pytest.warns(UserWarning, match="corrected while reading"):
        load_image(tmp_path / "a.img")
    assert capsys.readouterr().err == ""


# -- pipes and devices -----------------------------------------------------------------------------------------------

READERS: list[tuple[str, Callable[[Path], object]]] = [
    ("a.nii", load_image),
    ("a.mgz", load_image),
    ("a.nii.gz", load_transform),
    ("a.txt", load_transform),
    ("a.h5", load_transform),
    ("a.csv", read_points),
    ("a.toml", load_config),
]


@pytest.mark.parametrize(("name", "read"), READERS)
@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "/dev/null"])
def test_pipes_and_devices_are_not_waited_for(
    tmp_path: Path, name: str, read: Callable[[Path], object], what: str
) -> None:
    path = tmp_path / name
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(what)
    said: list[BaseException] = []

    def work() -> None:
        try:
            read(path)
        except InputError as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits"
    assert "pipe or a device" in str(said[0])
    assert not is_list_of_pairs(path)


def test_small_files_are_small(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    assert read_small(path, 100) == bytes(100)
    with pytest.raises(ValueError, match="longer than 99"):
        read_small(path, 99)


# -- JSON, TOML, CSV -------------------------------------------------------------------------------------------------

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@given(plain)
@settings(max_examples=40)
def test_sound_json_is_what_it_says(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json("\ufeff".encode() + json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", "{'a': 1}", "[" * 10**5, '{"a":' * 10**5, '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'),
        *("NaN", "[Infinity]", "-Infinity", "1e999", "-1e999", str(2**63), str(-(2**63) - 1), "9" * 5000, "\ud800x"),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_json_that_is_none_or_too_much(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 — of many kinds
        parse_json(text.encode("utf-8", "surrogatepass"))


def test_a_volume_of_five_thousand_digits(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "T1w", "9" * 5000: "T2w"}, "training": []}))
    with pytest.raises(InputError, match="fewer than two contrasts"):
        read_decathlon(tmp_path)


def test_settings_that_are_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for text in ("a = " + "[" * 10**5, "a = " + "9" * 5000, "#" * (2 << 20), "a" * 10**6):
        path.write_text(text)
        with pytest.raises(InputError):
            load_config(path)


@pytest.mark.parametrize("position", ["1e7", "-1e300", "inf", "nan", "1e999"])
def test_points_are_near(tmp_path: Path, position: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"x,y,z\n0,0,{position}\n")
    with pytest.raises(InputError, match="line 2"):
        read_points(path)


def test_a_table_of_points_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="longer than"):
        read_points(path)


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        {"widths": [10**9, 10**9]},
        {"widths": [4] * 1000},
        {"widths": [200, 200, 200]},
        {"integration_steps": 10**6},
        {"widths": {"a": 1}},
        {"widths": [[4]]},
        {"norm": None},
        {"scale": -1},
    ],
)
def test_a_configuration_takes_no_more_than_its_weights(tmp_path: Path, network: dict[str, object]) -> None:
    folder = write_tiny_model(tmp_path / "w")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "network": {**CONFIG["network"], **network}}))
    assert peak_mb(lambda: load_model(folder)) < 8
    with pytest.raises(InputError, match="damaged"):
        load_model(folder)


def test_shipped_weights_pass() -> None:
    """The bound on widths is one that every network of the package keeps."""
    assert load_model().config["network"]["kind"] == "pyramid"
    with pytest.raises(ValueError, match="such a setting: widths"):
        fitting_network({"kind": "unet", "widths": [4, 8]}, {"a": torch.zeros(27 * 63)}, "T")


# -- HDF5 ------------------------------------------------------------------------------------------------------------


def _h5(path: Path, change: Callable[[h5py.Group], None]) -> Path:
    Transform(np.eye(4)).save(path)
    with h5py.File(path, "r+") as file:
        change(file["TransformGroup/0"])
    return path


def _put(group: h5py.Group, chunk: bytes, **how: object) -> None:
    del group["TransformParameters"]
    made = group.create_dataset("TransformParameters", (12,), "f8", chunks=(12,), **how)
    made.id.write_direct_chunk((0,), chunk)


def test_a_chunk_unpacks_to_what_it_claims(tmp_path: Path) -> None:
    """96 bytes claimed, 64 MB packed: HDF5 itself would unpack all of it."""
    sound = np.eye(3, 4).T.astype("<f8").tobytes()
    path = _h5(tmp_path / "a.h5", lambda g: _put(g, zlib.compress(sound), compression="gzip"))
    np.testing.assert_allclose(read_h5(path)[0], np.eye(4))
    bomb = zlib.compress(bytes(64 << 20), 9)
    path = _h5(tmp_path / "b.h5", lambda g: _put(g, bomb, compression="gzip"))
    with pytest.raises(InputError, match="more than it claims"):
        read_h5(path)
    assert peak_mb(lambda: read_h5(path)) < 4


@pytest.mark.parametrize("how", [{"compression": "lzf"}, {"scaleoffset": 2}], ids=str)
def test_only_itks_way_of_packing(tmp_path: Path, how: dict[str, object]) -> None:
    def change(group: h5py.Group) -> None:
        del group["TransformParameters"]
        group.create_dataset("TransformParameters", data=np.arange(12.0), chunks=(12,), **how)

    with pytest.raises(InputError, match="another way"):
        read_h5(_h5(tmp_path / "a.h5", change))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_every_way_of_itks_packing(tmp_path: Path, shuffle: bool, fletcher32: bool) -> None:
    how = {"shuffle": shuffle, "fletcher32": fletcher32, "compression": "gzip"}

    def change(group: h5py.Group) -> None:
        data = np.append(np.eye(3).ravel(), [1, 2, 3])
        del group["TransformParameters"]
        group.create_dataset("TransformParameters", data=data, chunks=(5,), **how)

    np.testing.assert_allclose(read_h5(_h5(tmp_path / "a.h5", change))[0][:3, 3], [-1, -2, 3])


def test_large_chunks_of_small_data(tmp_path: Path) -> None:
    def change(group: h5py.Group) -> None:
        del group["TransformParameters"]
        how = {"chunks": (1 << 20,), "maxshape": (None,), "compression": "gzip"}
        group.create_dataset("TransformParameters", (12,), "f8", **how)[:] = 1

    with pytest.raises(InputError, match="larger than their data"):
        read_h5(_h5(tmp_path / "a.h5", change))


def _texts(group: h5py.Group, value: object, dtype: object) -> None:
    del group["TransformType"]
    group.create_dataset("TransformType", data=value, dtype=dtype)


@pytest.mark.parametrize(
    "dtype", [h5py.string_dtype("ascii"), h5py.string_dtype("ascii", 64), h5py.string_dtype("utf-8")], ids=str
)
def test_the_type_is_read_however_it_is_kept(tmp_path: Path, dtype: object) -> None:
    path = _h5(tmp_path / "a.h5", lambda g: _texts(g, [b"AffineTransform_double_3_3"], dtype))
    np.testing.assert_allclose(read_h5(path)[0], np.eye(4))


@pytest.mark.parametrize("dtype", [h5py.string_dtype("ascii"), h5py.string_dtype("ascii", 1 << 20)])
def test_long_texts(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_h5(_h5(tmp_path / "a.h5", lambda g: _texts(g, [b"A" * (1 << 20)], dtype)))


def test_a_heap_that_never_ends(tmp_path: Path) -> None:
    """An object of size 0 in the heap of texts: HDF5 1.14 goes round it for ever."""
    path = tmp_path / "a.h5"
    Transform(np.eye(4)).save(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL") + 16
    raw[at : at + 2] = struct.pack("<H", 9)  # the object that is asked for is now another
    raw[at + 8 : at + 16] = struct.pack("<Q", 0)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        read_h5(path)


def test_no_more_of_a_heap_is_read_than_texts_need(tmp_path: Path) -> None:
    """The heap claims a petabyte: its text is read all the same, and memory for a megabyte is all that is asked for."""
    path = tmp_path / "a.h5"
    Transform(np.eye(4)).save(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL") + 8
    raw[at : at + 8] = struct.pack("<Q", 1 << 50)
    path.write_bytes(raw)
    read_h5(path)  # h5py is loaded
    tracemalloc.start()
    try:
        np.testing.assert_allclose(read_h5(path)[0], np.eye(4))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * (1 << 20)
    finally:
        tracemalloc.stop()
