"""Writing whole files or none, and reading nothing on trust."""

from __future__ import annotations

import errno
import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from isal import igzip_threaded

from deformgan.errors import InputError, UsageError
from deformgan.io import atomic as files
from deformgan.io import untrusted as reading

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def _fail(target: Path, failure: BaseException) -> None:
    with files.atomic(target) as partial:
        partial.write_text("half")
        raise failure


def test_atomic_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with files.atomic(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.parent == tmp_path
        assert partial.name.startswith(".")
    assert target.read_text() == "new"
    assert _left(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_keeps_what_was_there_and_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(failure):
        _fail(target, failure())
    assert target.read_text() == "old"
    assert _left(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.EIO, "cannot write"),
    ],
)
def test_atomic_explains_a_failed_write(tmp_path: Path, number: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        _fail(tmp_path / "a.txt", OSError(number, "no"))
    assert _left(tmp_path) == []


def test_atomic_wants_a_folder_to_write_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"), files.atomic(tmp_path / "none" / "a.txt"):
        pass
    with pytest.raises(UsageError, match="it is a folder"), files.atomic(tmp_path):
        pass


def test_full_disk_while_writing_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is always full stands in for the disk, so the error comes from the system itself."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    opened = open
    monkeypatch.setattr(files, "open", lambda path, mode: opened(full if "w" in mode else path, mode), raising=False)
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(InputError, match="disk is full"):
            files.write_nifti(tmp_path / name, np.zeros((64, 64, 64), np.float32), AFFINE)
    assert _left(tmp_path) == []


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_nibabel_reads_what_we_write(tmp_path: Path, ending: str, order: str, dtype: type) -> None:
    data = np.asarray(np.arange(5 * 6 * 7).reshape(5, 6, 7) % 100, dtype, order=order)
    files.write_nifti(tmp_path / f"a{ending}", data, AFFINE)
    image = nib.load(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    assert image.get_data_dtype() == dtype
    np.testing.assert_allclose(image.get_sform(), AFFINE, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert int(image.header["sform_code"]) == 1


def test_big_arrays_go_out_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(files, "_CHUNK_BYTES", 1000)
    for data in (np.asfortranarray(rng.random((9, 8, 17))), rng.random((9, 8, 17)), rng.random((9, 8, 17))[::2, ::-1]):
        files.write_nifti(tmp_path / "a.nii.gz", data.astype(np.float32, order="K"), AFFINE)
        np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(), data.astype(np.float32))


def test_sign_of_the_last_axis(tmp_path: Path, rng: np.random.Generator) -> None:
    data = rng.random((3, 4, 5, 1, 3)).astype(np.float32)
    files.write_nifti(tmp_path / "a.nii.gz", data, AFFINE, intent=1007, sign=(-1, -1, 1), description="x" * 200)
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data * np.float32([-1, -1, 1]))
    assert image.header.get_intent()[0] == "vector"


def test_very_long_axis_needs_nifti_2(tmp_path: Path) -> None:
    files.write_nifti(tmp_path / "a.nii", np.zeros((40_000, 2, 2), np.uint8), AFFINE)
    image = nib.load(tmp_path / "a.nii")
    assert isinstance(image, nib.Nifti2Image)
    assert image.shape == (40_000, 2, 2)
    assert reading.read_nifti(tmp_path / "a.nii")[0].shape == (40_000, 2, 2)


def test_only_nifti_endings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown ending"):
        files.write_nifti(tmp_path / "a.mha", np.zeros((2, 2, 2)), AFFINE)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", "<f8", "u1"])
def test_we_read_what_nibabel_writes(tmp_path: Path, ending: str, kind: type, dtype: str) -> None:
    data = (np.arange(4 * 5 * 6).reshape(4, 5, 6) * 2).astype(dtype)
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)
    kind(data, AFFINE, header).to_filename(tmp_path / f"a{ending}")
    read, header = reading.read_nifti(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read, data)
    assert read.dtype.isnative
    assert read.flags.f_contiguous
    np.testing.assert_allclose(header.get_sform(), AFFINE)


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello" * 100))
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(reading.read_nifti(tmp_path / "a.nii.gz")[0], data)


def _good(tmp_path: Path, name: str = "good.nii.gz") -> Path:
    data = np.random.default_rng(0).integers(0, 1000, (20, 21, 22)).astype(np.int16)
    nib.Nifti1Image(data, AFFINE).to_filename(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.005, 0.5, 0.98])
def test_truncated(tmp_path: Path, name: str, kept: float) -> None:
    path = _good(tmp_path, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=r"truncated|not a NIfTI"):
        reading.read_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_alone(tmp_path: Path, name: str, rng: np.random.Generator) -> None:
    path = tmp_path / name
    nib.Nifti1Image(rng.normal(size=(5, 6, 7, 2)), AFFINE).to_filename(path)
    header = reading.read_nifti_header(path, whole=True)
    assert header.get_data_shape() == (5, 6, 7, 2)
    assert np.allclose(header.get_sform(), AFFINE)
    whole = path.read_bytes()
    for kept in (0.2, 0.9, 1 - 4 / len(whole)):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(InputError, match="truncated"):
            reading.read_nifti_header(path, whole=True)
    path.write_bytes(whole + b"\0" * 9)  # padded, as tapes did
    assert reading.read_nifti_header(path, whole=True).get_data_shape() == (5, 6, 7, 2)


def test_gzip_cut_just_before_its_checksum(tmp_path: Path) -> None:
    path = _good(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated or damaged"):
        reading.read_nifti(path)


def test_gzip_with_a_flipped_bit(tmp_path: Path) -> None:
    path = _good(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        reading.read_nifti(path)


@pytest.mark.parametrize(
    "content",
    [b"hello world, this is a text file" * 40, gzip.compress(b"hello" * 200, mtime=0), b"\x5c\x01\x00\x00"],
    ids=["text", "gzip of text", "four bytes"],
)
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a NIfTI image|truncated"):
        reading.read_nifti(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        reading.read_nifti(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match="is a folder"):
        reading.read_nifti(tmp_path)


def test_wrong_magic_or_data_type(tmp_path: Path) -> None:
    path = _good(tmp_path, "a.nii")
    whole = path.read_bytes()
    path.write_bytes(whole[:344] + b"abc\0" + whole[348:])
    with pytest.raises(InputError, match="not a NIfTI image"):
        reading.read_nifti(path)
    path.write_bytes(whole[:70] + (999).to_bytes(2, "little") + whole[72:])
    with pytest.raises(InputError, match="not a NIfTI image"):
        reading.read_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(20_000, 20_000, 20_000), (1000, 1000, 1000), (-3, 21, 22)])
def test_absurd_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _good(tmp_path, "a.nii")
    whole = bytearray(path.read_bytes())
    for axis, n in enumerate(shape):
        whole[42 + 2 * axis : 44 + 2 * axis] = n.to_bytes(2, "little", signed=True)
    path = tmp_path / name
    path.write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)

    def no_memory(*_: object, **__: object) -> None:
        raise AssertionError("memory was asked for")

    monkeypatch.setattr(files.np, "empty", no_memory)
    with pytest.raises(InputError, match="claims"):
        reading.read_nifti(path)


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">f4", ">f8", "bool", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_nifti_cannot_hold_is_turned_into_what_it_can(
    tmp_path: Path, dtype: str, order: str, rng: np.random.Generator
) -> None:
    data = np.array(rng.integers(0, 200, (5, 6, 7)), dtype=dtype, order=order)  # type: ignore[call-overload]
    files.write_nifti(tmp_path / "a.nii.gz", data, np.eye(4))
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(), data.astype(np.float64))


@pytest.mark.parametrize(("threads", "writers"), [(1, 1), (3, 3), (64, 4)])
def test_compression_takes_no_more_threads_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, writers: int
) -> None:
    taken = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(igzip_threaded, "open", lambda *_, **options: taken.append(options["threads"]) or io.BytesIO())
    files.write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    assert taken == [writers]
