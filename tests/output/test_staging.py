"""Two writers, killed runs and names: who comes second loses nothing of the first one's, and left-overs go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deformgan.errors import UsageError
from deformgan.io.atomic import atomic, open_to_append
from deformgan.output.folder import staged_files, staged_folder
from deformgan.output.staging import PREFIX, hidden_folder, undisturbed


def test_the_second_run_into_a_new_folder_loses_and_the_first_keeps_all(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(text: str, *, beaten: bool) -> None:
        with staged_folder(out, ["a", "b"]) as staged:
            for name in ("a", "b"):
                (staged / name).write_text(text)
            if beaten:
                write("first", beaten=False)

    with pytest.raises(UsageError, match="already holds a"):
        write("second", beaten=True)
    assert {p.name: p.read_text(encoding="utf-8") for p in out.iterdir()} == {"a": "first", "b": "first"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_second_file_loses_and_takes_back_what_it_wrote(tmp_path: Path) -> None:

    def write() -> None:
        with staged_files([tmp_path / "a", tmp_path / "b"]) as staged:
            for path in staged:
                path.write_text("second")
            (tmp_path / "b").write_text("first")

    with pytest.raises(UsageError, match="b is there"):
        write()
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {"b": "first"}


def test_one_place_by_two_names_is_one_place(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for other in (tmp_path / "d" / ".." / "d" / "y", tmp_path / "link" / "y"):
        with pytest.raises(UsageError, match="same name"), staged_files([tmp_path / "d" / "y", other]):
            pass


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from deformgan.output.staging import hidden_folder\n"
        "with hidden_folder(Path(sys.argv[1])) as one:\n"
        "    (one / 'half').write_text('x'); print(flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    alive = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    for process in (killed, alive):
        assert process.stdout is not None
        process.stdout.readline()
    killed.kill()
    killed.wait()
    (tmp_path / f"{PREFIX}{killed.pid}-abc.partial").write_text("half")
    try:
        with hidden_folder(tmp_path):
            left = {p.name.split("-")[1] for p in tmp_path.iterdir()}
        assert left == {str(alive.pid), str(os.getpid())}
    finally:
        alive.kill()
        alive.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_wait_until_the_set_is_whole(number: signal.Signals) -> None:
    seen: list[str] = []
    before = signal.signal(number, lambda *_: seen.append("told"))
    try:
        with undisturbed():
            signal.raise_signal(number)
            seen.append("done")
    finally:
        signal.signal(number, before)
    assert seen == ["done", "told"]


def test_a_signal_that_is_ignored_hides_none_that_ends() -> None:
    seen: list[str] = []
    before = {signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: seen.append("told"))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            seen.append("done")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert seen == ["done", "told"]


@pytest.mark.parametrize("length", [200, 235, 254, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    target = tmp_path / ("n" * (length - 4) + ".txt")
    with atomic(target) as partial:
        partial.write_text("whole")
    with staged_files([target], force=True) as (staged,):
        staged.write_text("again")
    assert [p.read_text(encoding="utf-8") for p in tmp_path.iterdir()] == ["again"]


def test_lines_are_not_added_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "theirs")
    with open_to_append(tmp_path / "metrics.jsonl") as file:
        file.write("ours")
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "kept"
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == "ours"
