"""The library is built, found, refused when it is not ours, and done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deformgan.spatial import native
from deformgan.spatial.native import build, library
from deformgan.spatial.native.use import usable, without_kernels

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the library is looked for."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library._library.cache_clear()
    yield tmp_path
    library._library.cache_clear()


@needs_compiler
def test_it_is_built_and_found(elsewhere: Path) -> None:
    assert not native.is_available()
    made = build.build(elsewhere, flags=("-O0",))
    assert [path.name for path in elsewhere.iterdir()] == [made.name]
    library._library.cache_clear()
    assert native.is_available()
    assert library.levels()[0] == 1
    for level in library.levels():
        assert library.kernel("dg_warp", level=level) is not None


@pytest.mark.skipif(not native.is_available(), reason="no kernels")
@pytest.mark.parametrize(("let", "most"), [("avx2", 3), ("AVX2", 3), ("default", 1), ("avx512", 4)])
def test_kernels_keep_to_the_instructions_that_pytorch_is_let_use(
    monkeypatch: pytest.MonkeyPatch, let: str, most: int
) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    every = library.levels()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", let)
    assert library.levels() == [level for level in every if level <= most]


def test_without_it_pytorch_is_used(elsewhere: Path) -> None:
    from deformgan.spatial.warp import warp

    image, field = torch.rand(1, 2, 5, 6, 7), torch.randn(1, 3, 5, 6, 7)
    assert not usable(image, field)
    assert library.levels() == []
    assert warp(image, field).shape == image.shape
    with pytest.raises(RuntimeError, match="not built"):
        library.kernel("dg_warp")


def test_what_is_no_library_is_said_and_left(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    (elsewhere / build.NAME).write_bytes(b"nothing of the kind")
    assert not native.is_available()
    assert "cannot be loaded" in caplog.text


@needs_compiler
def test_a_library_of_another_version_is_left(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = elsewhere / "other.c"
    for text, said in (
        ("int dg_interface(void) { return -1; }", "another version"),
        ("int other;", "cannot be loaded"),
    ):
        source.write_text(text)
        subprocess.run([str(COMPILER), "-shared", "-fPIC", str(source), "-o", str(elsewhere / build.NAME)], check=True)
        code = f"from deformgan.spatial.native import library; library.__file__ = {str(elsewhere / 'library.py')!r}\n"
        code += "print(library.is_available())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        assert said in done.stderr


def test_a_missing_or_failing_compiler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    with pytest.raises(build.BuildError, match="nothing"):
        build.build(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(build.BuildError, match="false"):
        build.build(tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match="no C compiler"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
def test_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.rand(1, 1, 3, 3, 3)
    learned = plain.clone().requires_grad_()
    assert usable(plain, plain)
    assert not usable(plain, plain.double())
    assert not usable(plain.expand(2, -1, -1, -1, -1))
    assert not usable(plain, learned)
    with torch.no_grad():
        assert usable(plain, learned)
    with without_kernels():
        assert not usable(plain)
    assert usable(plain)
    monkeypatch.setenv("DEFORMGAN_NATIVE", "0")
    assert not usable(plain, plain)


def test_its_numbers_agree_with_the_c_files() -> None:
    folder = Path(build.__file__).parent / "c"
    assert f"#define DG_INTERFACE {library._INTERFACE}" in (folder / "cpu.c").read_text()
    assert {path.stem for path in folder.glob("*.c")} == {*build._KERNELS, *build._ONCE}
    assert os.path.basename(library._NAME) == build.NAME
