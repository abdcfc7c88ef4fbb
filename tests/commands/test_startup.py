"""The collector is still while modules load, what no run uses waits, and the process ends at once and in order."""

import gc
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import PairFiles
from tiny import write_tiny_model

from deformgan.commands.startup import POSTPONED, postponed, quick_imports, read_ahead
from deformgan.errors import InputError
from deformgan.io.image import load_image
from deformgan.output.provenance import describe_input, sha256
from deformgan.pipeline import register
from deformgan.preprocess.scan import Scan

UNUSED = (
    "scipy.ndimage",
    "scipy.sparse",
    "sympy",
    "matplotlib",
    "pandas",
    "jinja2",
    "torch._dynamo",
    "torch._inductor",
    # imported by PyTorch's own __init__, and postponed
    "torch._prims",
    "torch.export.graph_signature",
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
    with read_ahead((pair_files.fixed, True), (pair_files.moving, False)) as scans:
        assert any(thread.name.startswith("read") for thread in threading.enumerate())
    for scan, path, whole in zip(scans(), (pair_files.fixed, pair_files.moving), (True, False), strict=True):
        expected = Scan.of(load_image(path))
        np.testing.assert_array_equal(scan.original.data, expected.original.data)
        np.testing.assert_array_equal(scan.content.mask, expected.content.mask)
        assert scan.original.grid == expected.original.grid
        assert ("field_of_view" in vars(scan.content)) is whole
        # the record knows the file as if it had been named itself
        assert describe_input(scan) == describe_input(path) == {"path": str(path), "sha256": sha256(path)}


def test_images_are_read_without_pytorch(pair_files: PairFiles) -> None:
    """Else reading them would wait for what it is done beside."""
    code = (
        "import sys\nfrom deformgan.commands.startup import read_ahead\n"
        "with read_ahead((sys.argv[1], True), (sys.argv[2], True)) as scans:\n    pass\n"
        "scans()\nassert 'torch' not in sys.modules\n"
    )
    files = map(str, (pair_files.fixed, pair_files.moving))
    subprocess.run([sys.executable, "-c", code, *files], check=True)


def test_a_scan_that_was_read_before_is_registered_as_its_file_is(pair_files: PairFiles) -> None:
    files = pair_files.fixed, pair_files.moving
    scans = [Scan.of(load_image(path)) for path in files]
    mask = load_image(pair_files.fixed)
    mask = replace(mask, data=(mask.data > 0).astype(np.uint8))
    one, other = (register(*pair, transform="affine", fixed_mask=mask) for pair in (files, scans))
    np.testing.assert_array_equal(one.moved.data, other.moved.data)
    assert one.quality == other.quality


def test_a_bad_image_is_refused_when_it_is_asked_for(pair_files: PairFiles, tmp_path: Path) -> None:
    with read_ahead((pair_files.fixed, True), (tmp_path / "none.nii.gz", True)) as scans:
        pass
    with pytest.raises(InputError, match=r"none\.nii\.gz does not exist"):
        scans()


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


@pytest.fixture
def lazy_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package's module that leaves a trace when it is run."""
    (tmp_path / "lazy_home").mkdir()
    (tmp_path / "lazy_home" / "__init__.py").write_text("from . import waits, runs\n")
    for name in ("waits", "runs"):
        (tmp_path / "lazy_home" / f"{name}.py").write_text(
            f"import os\nanswer = 42\nos.environ['LAZY_HOME'] = os.environ['LAZY_HOME'] + '{name} '\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LAZY_HOME", "")
    yield "lazy_home"
    for name in [name for name in sys.modules if name.startswith("lazy_home")]:
        del sys.modules[name]


def test_a_postponed_module_runs_once_when_it_is_asked_for_something(lazy_module: str) -> None:
    with postponed([f"{lazy_module}.waits"]):
        home = importlib.import_module(lazy_module)
        assert os.environ["LAZY_HOME"] == "runs "
    assert importlib.import_module(f"{lazy_module}.waits") is home.waits
    assert os.environ["LAZY_HOME"] == "runs "
    assert home.waits.answer == 42
    assert os.environ["LAZY_HOME"] == "runs waits "
    assert type(home.waits) is type(home.runs)
    assert home.waits.__spec__.loader.__class__ is home.runs.__spec__.loader.__class__
    with pytest.raises(AttributeError):
        _ = home.waits.question
    assert os.environ["LAZY_HOME"] == "runs waits "


def test_nothing_is_postponed_after_the_block(lazy_module: str) -> None:
    with postponed([f"{lazy_module}.waits"]):
        pass
    importlib.import_module(lazy_module)
    assert os.environ["LAZY_HOME"] == "waits runs "


def test_pytorch_is_whole_for_whoever_asks_for_more() -> None:
    """What its own __init__ imports works as ever, though it was postponed."""
    code = (
        "from deformgan.commands.startup import quick_imports\n"
        "with quick_imports():\n    import torch\n"
        "import sys\n"
        "waiting = 'torch._prims' not in sys.modules\n"
        "one = torch.randperm(5, generator=torch.Generator().manual_seed(0)).tolist()\n"
        "torch.manual_seed(0)\n"
        "assert one == torch.randperm(5).tolist()\n"
        "assert torch.distributions.Normal(0.0, 1.0).mean == 0\n"
        "assert callable(torch.export.export) and callable(torch.testing.assert_close)\n"
        "assert torch.empty(3, device='meta').exp().shape == (3,)\n"
        "assert torch._meta_registrations.activate_meta and 'torch._prims' in sys.modules\n"
        "assert isinstance(torch.Generator(), torch.Generator)\n"
        "print(waiting)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    known = any(version("torch").startswith(f"{release}.") for release in POSTPONED)
    assert ended.stdout == f"{known}\n", ended.stderr


def test_the_pinned_release_is_one_that_was_tried() -> None:
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    pinned = next(line for line in pins.splitlines() if line.startswith("torch=="))
    assert ".".join(pinned.removeprefix("torch==").split(".")[:2]) in POSTPONED


@pytest.mark.parametrize("watched", [False, True])
def test_the_process_ends_at_once_and_in_order(watched: bool) -> None:
    """What is registered for the end is called, and output arrives; with a profiler Python ends as ever."""
    code = (
        "import atexit, os, sys\n"
        "import deformgan.commands.main\n"
        "class Module: pass\n"
        "class Last:\n    def __del__(self, write=os.write): write(1, b'taken apart')\n"
        "sys.modules['torch'] = Module()\n"
        "last = Last()\n"
        "atexit.register(lambda: print('in order'))\n"
        "deformgan.commands.main.main = lambda: 3\n"
        "from deformgan.__main__ import main\n"
        f"sys.setprofile({'lambda *_: None' if watched else None})\n"
        "sys.exit(main())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout == ("in order\ntaken apart" if watched else "in order\n")
