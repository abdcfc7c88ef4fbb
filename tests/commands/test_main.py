"""The command: what it prints where, what it writes, and the code it ends with."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from anatomies import coarse_anatomy
from conftest import PairFiles, Phantom
from forked import fork
from grids import inner_points
from hearing import hear_all, ignore_hang_up
from tiny import write_tiny_model

import deformgan
from deformgan.commands.console import Console
from deformgan.commands.main import COMMANDS, Terminated, main
from deformgan.output.folder import OUTPUTS
from deformgan.transforms.formats.itk import write_affine

GIVEN = ["register", "-f", "a.nii", "-m", "b.nii", "-o", "c"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


def arguments(pair: PairFiles, out: Path, weights: Path, *more: str) -> list[str]:
    where = ["-f", str(pair.fixed), "-m", str(pair.moving), "-o", str(out), "--model", str(weights)]
    return ["register", *where, "--refine-steps", "0", "--threads", "1", *more]


def test_register_writes_the_folder_and_one_line(
    pair_files: PairFiles, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("x,y,z,name\n1,2,3,tip\n")
    extra = [
        "--moving-labels",
        str(pair_files.moving_labels),
        "--moving-points",
        str(tmp_path / "p.csv"),
        "--uncertainty",
    ]
    assert main(arguments(pair_files, tmp_path / "out", weights, *extra)) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    report = tmp_path / "out" / "report.html"
    assert re.fullmatch(rf"{tmp_path / 'out'}: (pass|look), similarity 0\..*, report {report}\n", said.out)
    stages = [line.removeprefix("deformgan: ").partition(":")[0] for line in said.err.splitlines()]
    assert stages[:2] == ["read", "load model"]
    assert len(set(stages)) == len(stages)
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(OUTPUTS)
    assert (tmp_path / "out" / "moved_points.csv").read_text(encoding="utf-8").endswith(",tip\n")
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_json_is_one_object_and_equals_the_file(
    pair_files: PairFiles, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(pair_files, tmp_path / "out", weights, "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer.pop("status"), answer.pop("exit_code"), answer.pop("out")) == ("ok", 0, str(tmp_path / "out"))
    assert answer == json.loads((tmp_path / "out" / "registration.json").read_text(encoding="utf-8"))
    assert answer["settings"]["threads"] == 1


def test_outputs_can_be_left_out(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    assert main(arguments(pair_files, tmp_path / "out", weights, "--no-inverse", "--no-jacobian", "--no-report")) == 0
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"moved.nii.gz", "warp.nii.gz", "affine.txt", "registration.json"}


def test_the_fields_can_have_the_images_voxels(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    for name, more in (("own", ()), ("full", ("--full-grid",))):
        assert main(arguments(pair_files, tmp_path / name, weights, "--no-report", *more)) == 0
    for name, image in (("warp.nii.gz", pair_files.fixed), ("inverse_warp.nii.gz", pair_files.moving)):
        grid = deformgan.load_image(image).grid
        own, full = (nib.load(tmp_path / one / name) for one in ("own", "full"))
        assert full.shape == (*grid.shape, 1, 3)
        assert own.shape != full.shape
        points = inner_points(grid)
        maps = [deformgan.load_transform(tmp_path / one / name) for one in ("own", "full")]
        # where the finer grid has no voxel it is the coarser one, linear between both: a smooth map differs little
        voxels = grid.to_world(np.rint(grid.to_index(points)))
        np.testing.assert_allclose(maps[0].map_points(voxels), maps[1].map_points(voxels), atol=2e-3)


def test_force_replaces_the_whole_set(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("moved.nii.gz", "moved_labels.nii.gz", "notes.txt"):
        (out / name).write_text("old")
    assert main(arguments(pair_files, out, weights, "--force")) == 0
    assert not (out / "moved_labels.nii.gz").exists()
    assert (out / "notes.txt").read_text(encoding="utf-8") == "old"
    assert nib.load(out / "moved.nii.gz").shape == nib.load(pair_files.fixed).shape


def test_a_failed_check_keeps_the_outputs_and_says_4(
    pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = write_tiny_model(tmp_path / "wild", bend=3.0)
    assert main(arguments(pair_files, tmp_path / "out", wild)) == 4
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'out'}: FAIL, similarity ")
    last = said.err.splitlines()[-1]
    assert last.startswith("deformgan: error: ")
    assert "folds" in last
    record = json.loads((tmp_path / "out" / "registration.json").read_text(encoding="utf-8"))
    assert record["quality"]["passed"] is False
    assert (tmp_path / "out" / "moved.nii.gz").exists()


def test_a_failed_check_is_in_the_json_too(
    pair_files: PairFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = write_tiny_model(tmp_path / "wild", bend=3.0)
    assert main(arguments(pair_files, tmp_path / "out", wild, "--json")) == 4
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["exit_code"]) == ("quality", 4)
    assert answer["quality"]["reasons"]


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(COMMANDS["info"], "run", broken)
    assert main(["info", "--json"]) == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError: oops" in said.err
    assert "this is a bug" in said.err
    assert json.loads(said.out)["exit_code"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["regster"], "there is no command 'regster' — did you mean register?"),
        (["register"], "deformgan register needs -f/--fixed, -m/--moving and -o/--out"),
        (["register", "--nonsense"], "deformgan register has no --nonsense"),
        (
            ["evaluate", "-o", "out", "--patients", "a", "--method", "identity", "--patients=b"],
            "--patients is given more",
        ),
        ([*GIVEN, "--refin", "3"], "did you mean --refine-steps?"),
        ([*GIVEN, "--refine-steps", "abc"], "takes a whole number, not 'abc'"),
        ([*GIVEN, "--refine-steps", "1" + 30 * "0"], "refinement steps are not 0 to 1000000"),
        ([*GIVEN, "--threads", "100000"], "--threads 100000 is more than any gain"),
        ([*GIVEN, "--threads", "1000000000000"], "is more than any gain"),
        (
            [*GIVEN, "--transform", "afine"],
            "--transform takes rigid, affine, joint or deform, not 'afine' — did you mean",
        ),
        (["register", "-f"], "-f/--fixed needs a value"),
        (["convert", "a.txt"], "deformgan convert needs OUT"),
        (["cohort", "status"], "deformgan cohort status needs DIR"),
    ],
)
def test_wrong_usage_is_2_one_line_and_nothing_on_stdout(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("deformgan: error: ")
    assert said.err.count("\n") == 1
    assert says in said.err


def test_the_bare_command_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: deformgan" in capsys.readouterr().out


def test_wrong_usage_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", "--json", "--nonsense"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["exit_code"], answer["error"]) == (2, "deformgan register has no --nonsense")


def test_quiet_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(_: object, console: Console) -> None:
        warnings.warn("the header is odd", stacklevel=1)
        with console.progress() as progress:
            progress("first")
            progress("first: step 2")
            progress("second")
        console.result("done", {})

    monkeypatch.setattr(COMMANDS["info"], "run", speak)
    for _ in range(2):
        assert main(["info", "--quiet", "--log", str(tmp_path / "a.log")]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("done\ndone\n", "")
    lines = [line[20:] for line in (tmp_path / "a.log").read_text(encoding="utf-8").splitlines()]
    assert lines == 2 * ["warning: the header is odd", "first: 0.0 s", "second: 0.0 s", "done"]
    assert main(["info", "-v"]) == 0
    assert "deformgan: first: 0.0 s\ndeformgan: second: 0.0 s\n" in capsys.readouterr().err
    assert main(["info", "--log", str(tmp_path / "none" / "a.log")]) == 3


NOWHERE = [(">/dev/full", 3, "No space left"), (">&-", 3, "Bad file"), ("", 141, "")]


@pytest.mark.parametrize(("where", "code", "says"), NOWHERE)
def test_an_answer_that_goes_nowhere(where: str, code: int, says: str) -> None:
    if where and not Path("/dev/full").exists():
        pytest.skip("this system has none")
    read, write = os.pipe()
    os.close(read)
    # without a redirection its answer goes into a pipe that nobody reads
    command = f"exec {shlex.join([sys.executable, '-m', 'deformgan', '--help'])} {where}"
    done = subprocess.run(["sh", "-c", command], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert says in done.stderr


@pytest.mark.parametrize(("where", "code", "says"), NOWHERE)
def test_the_work_is_done_though_its_answer_goes_nowhere(tmp_path: Path, where: str, code: int, says: str) -> None:
    if where and not Path("/dev/full").exists():
        pytest.skip("this system has none")
    write_affine(tmp_path / "a.txt", np.eye(4))
    read, write = os.pipe()
    os.close(read)
    stdout = {">/dev/full": "/dev/full", ">&-": None, "": write}[where]
    ended, said = fork(["convert", "a.txt", "b.txt"], tmp_path, stdout=stdout).end()
    os.close(write)
    assert ended == code
    assert "Traceback" not in said
    assert says in said
    assert (tmp_path / "b.txt").exists()


@pytest.mark.parametrize("wait", [0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_at_once_is_one_line(wait: float) -> None:
    program = (
        "from deformgan.__main__ import main; print(flush=True); import sys; sys.argv = ['x', 'info']; sys.exit(main())"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in said
    assert said.count("\n") <= 1


def test_help_names_every_command_and_every_command_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert name in overview
        assert main([name, "--help"]) == 0
        assert f"usage: deformgan {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"deformgan {deformgan.__version__}\n"


def test_info_reports_versions_devices_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["environment"]["deformgan"] == deformgan.__version__
    assert answer["devices"]["cpu_threads"] >= 1
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert answer["environment"]["torch"] in text
    for name, checksum in answer["weights"].items():
        assert len(checksum) == 64
        assert name in text


def test_simulate_writes_cases_that_register_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deformgan.workshop.simulation.cases.load_anatomy", coarse_anatomy)
    small = ["--cases", "1", "--shape", "24", "28", "20", "--regime", "small", "--threads", "1", "--json"]
    assert main(["simulate", "-o", str(tmp_path / "cases"), *small]) == 0
    answer = json.loads(capsys.readouterr().out)
    folder = Path(answer["cases"][0]["folder"])
    assert folder == tmp_path / "cases" / "case_000"
    fixed, true = (deformgan.load_image(folder / f"{name}.nii.gz") for name in ("fixed", "moving_true"))
    assert fixed.grid == true.grid
    moved = deformgan.load_transform(folder / "true_warp.nii.gz").apply(
        deformgan.load_image(folder / "moving.nii.gz"), fixed.grid
    )
    inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    start = deformgan.load_image(folder / "moving.nii.gz").data
    assert np.abs(moved.data - true.data)[inside].mean() < 0.5 * np.abs(start - true.data)[inside].mean()
    assert main(["simulate", "-o", str(tmp_path / "cases"), *small]) == 2


@pytest.mark.parametrize("extra", [["--cases", "0"], ["--shape", "8", "8", "8"], ["--spacing", "-1"]])
def test_simulate_refuses_nonsense(tmp_path: Path, extra: list[str]) -> None:
    assert main(["simulate", "-o", str(tmp_path / "cases"), *extra]) == 2
    assert not (tmp_path / "cases").exists()


@contextmanager
def at_work(words: list[str], out: Path, hearing: Callable[[], None]) -> Iterator[subprocess.Popen[str]]:
    """A registration that would take very long, in its middle; no fork, whose threads would be those of other tests."""
    words[words.index("--refine-steps") + 1] = "100000"
    command = [sys.executable, "-m", "deformgan", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)
    try:
        until = time.monotonic() + 60
        while not (out.parent.is_dir() and list(out.parent.iterdir())) and time.monotonic() < until:
            time.sleep(0.02)
        assert [p.name[:11] for p in out.parent.iterdir()] == [".deformgan-"], "it is at work"
        time.sleep(1)
        yield process
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)]
)
def test_interrupted_in_the_middle_nothing_is_left(
    pair_files: PairFiles, tmp_path: Path, weights: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "results" / "out"
    with at_work(arguments(pair_files, out, weights), out, hear_all) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    assert "no unfinished file is left behind" in said
    assert not out.parent.exists()


@pytest.mark.slow
def test_under_nohup_it_outlives_the_terminal(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "results" / "out"
    with at_work(arguments(pair_files, out, weights), out, ignore_hang_up) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "no unfinished file is left behind" in said
    assert not out.parent.exists()


def test_interrupted_while_writing_old_results_survive(
    pair_files: PairFiles, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deformgan.output import registration

    out = tmp_path / "out"
    assert main(arguments(pair_files, out, weights)) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registration, "inverse_residual", interrupt)
    assert main(arguments(pair_files, out, weights, "--force")) == 130
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_reader_that_has_gone_is_no_bug() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "deformgan", "info"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_moved_image_of_a_phantom_agrees(
    pair_files: PairFiles, tmp_path: Path, weights: Path, phantom: Phantom
) -> None:
    assert main(arguments(pair_files, tmp_path / "out", weights)) == 0
    moved = nib.load(tmp_path / "out" / "moved.nii.gz").get_fdata()
    assert np.corrcoef(moved.ravel(), phantom.t1.ravel())[0, 1] > 0.95


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import deformgan.workshop.demo

    seen: dict[str, object] = {}

    def run_demo(out: Path, **options: object) -> dict[str, object]:
        seen.update(options, out=out)
        return {"quality": {"passed": True}}

    monkeypatch.setattr(deformgan.workshop.demo, "run_demo", run_demo)
    monkeypatch.setattr(deformgan.workshop.demo, "summary", lambda *_: "done")
    assert (
        main(["demo", "-o", str(tmp_path / "d"), "--refine-steps", "3", "--seed", "7", "--force", "--threads", "1"])
        == 0
    )
    seen.pop("progress")
    assert seen == {
        "out": tmp_path / "d",
        "model": "t1-t2",
        "refine_steps": 3,
        "device": "auto",
        "precision": "auto",
        "seed": 7,
        "force": True,
    }


def small_configuration(folder: Path) -> Path:
    """A file that names a network and leaves the rest as it is."""
    path = folder / "c.toml"
    path.write_text('name = "small"\n[network]\nkind = "unet"\n[loss]\nsimilarity = "ngf"\n')
    return path


def test_train_answers_with_the_last_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = pytest.importorskip("deformgan.workshop.training.loop")

    def train(config: Path, out: Path, progress: Callable[[int, int, dict[str, float]], None], minutes: float) -> Path:
        assert minutes == float("inf")
        progress(1, 2, {"t_loss": 3.0})
        progress(2, 2, {"t_loss": 0.125, "val": float("nan")})
        return out / "model"

    monkeypatch.setattr(loop, "train", train)
    words = ["train", str(small_configuration(tmp_path)), "-o", str(tmp_path / "run"), "--threads", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'run' / 'model'}: step 2 of 2, t_loss 0.125")
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["step"], answer["steps"], answer["t_loss"]) == (2, 2, 0.125)
    # the other processes of a distributed run are silent
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 0
    assert capsys.readouterr().out == ""


def test_train_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = pytest.importorskip("deformgan.workshop.training.loop")

    def train(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setattr(loop, "train", train)
    assert main(["train", str(small_configuration(tmp_path)), "-o", str(tmp_path / "run")]) == 2
    assert "pip install 'deformgan[train]'" in capsys.readouterr().err


def test_train_without_its_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.toml"), "-o", str(tmp_path / "run")]) == 3
    assert "none.toml" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_warnings_and_the_log_become_notes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(_: object, __: object) -> None:
        warnings.warn("the header is odd", stacklevel=1)
        logging.getLogger("deformgan.somewhere").info("a word")

    monkeypatch.setattr(COMMANDS["info"], "run", speak)
    assert main(["info"]) == 0
    assert capsys.readouterr().err == "deformgan: warning: the header is odd\ndeformgan: a word\n"


def test_a_full_disk_anywhere_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")

    monkeypatch.setattr(COMMANDS["info"], "run", fill)
    assert main(["info"]) == 3
    assert "cannot write some/file: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_too_little_memory_is_no_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill(*_: object) -> None:
        raise error

    monkeypatch.setattr(COMMANDS["info"], "run", fill)
    assert main(["info"]) == 3
    said = capsys.readouterr().err
    assert "not enough memory" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_whose_exception_is_lost_ends_the_command_all_the_same(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def lose(_: object, console: Console) -> None:
        with console.progress() as progress:
            progress("read")
            with suppress(BaseException):  # as in a callback of other people's code
                signal.raise_signal(number)
            progress("refine: step 2 of 9")

    monkeypatch.setattr(COMMANDS["info"], "run", lose)
    assert main(["info"]) == code
    assert "no unfinished file is left behind" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_amid_an_import_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interrupted_import.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(_: object, console: Console) -> None:
        importlib.import_module("interrupted_import")
        with console.progress() as progress:
            progress("read")

    monkeypatch.setattr(COMMANDS["info"], "run", load)
    assert main(["info"]) == 143
    assert sys.modules.pop("interrupted_import", None) is not None, "the import went on to its end"
    assert "ended by SIGTERM" in capsys.readouterr().err


def test_an_ending_that_was_lost_is_raised_again_by_progress() -> None:
    console = Console(quiet=True)
    with console.progress() as progress:
        progress("read")
        console.ending = Terminated(signal.SIGTERM)
        with pytest.raises(Terminated, match="SIGTERM"):
            progress("refine: step 2 of 9")
