"""The collector is still while modules load, and as it was afterwards."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import PairFiles
from tiny import write_tiny_model

from deformgan.commands.startup import quick_imports, read_ahead
from deformgan.errors import InputError
from deformgan.io.image import load_image
from deformgan.output.provenance import describe_input, sha256

UNUSED = (
    "scipy.ndimage",
    "scipy.sparse",
    "sympy",
    "matplotlib",
    "pandas",
    "jinja2",
    "torch._dynamo",
    "torch._inductor",
    "SimpleITK",
    "h5py",
)


@pytest.mark.parametrize("running", [True, False])
def test_the_collector_is_held_still_and_goes_on_as_it_was(running: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() is running
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()


def test_the_collector_goes_on_after_a_failed_import() -> None:
    assert gc.isenabled()
    try:
        with pytest.raises(ImportError), quick_imports():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_what_is_made_afterwards_is_collected() -> None:
    class Node:
        alive = 0

        def __init__(self) -> None:
            self.self = self
            Node.alive += 1

        def __del__(self) -> None:
            Node.alive -= 1

    try:
        with quick_imports():
            pass
        Node()
        gc.collect()
        assert Node.alive == 0
    finally:
        gc.unfreeze()


def test_images_are_read_while_the_block_runs(pair_files: PairFiles) -> None:
    with read_ahead(pair_files.fixed, pair_files.moving) as images:
        assert any(thread.name.startswith("read") for thread in threading.enumerate())
    for image, path in zip(images(), (pair_files.fixed, pair_files.moving), strict=True):
        expected = load_image(path)
        np.testing.assert_array_equal(image.data, expected.data)
        assert image.grid == expected.grid
        # the record knows the file as if it had been named itself
        assert describe_input(image) == describe_input(path) == {"path": str(path), "sha256": sha256(path)}


def test_a_bad_image_is_refused_when_it_is_asked_for(pair_files: PairFiles, tmp_path: Path) -> None:
    with read_ahead(pair_files.fixed, tmp_path / "none.nii.gz") as images:
        pass
    with pytest.raises(InputError, match=r"none\.nii\.gz does not exist"):
        images()


def test_a_registration_imports_nothing_that_it_does_not_use(pair_files: PairFiles, tmp_path: Path) -> None:
    """In a process of its own: other tests import what they like."""
    weights = write_tiny_model(tmp_path / "tiny")
    words = ["register", "-f", pair_files.fixed, "-m", pair_files.moving, "-o", tmp_path / "out", "--model", weights]
    words = [*map(str, words), "--refine-steps", "2", "--threads", "1", "--no-report"]
    code = (
        "import sys; from deformgan.commands.main import main; code = main(sys.argv[1:]); "
        f"print('imported:', *[name for name in {UNUSED!r} if name in sys.modules]); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 4), ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported:"
