"""A folder of results is whole or not there."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import unwritable
from deformgan.output.folder import staged_files, staged_folder, undisturbed

NAMES = ("a.txt", "b.txt", "record.json")


def fill(folder: Path, *names: str, text: str = "new") -> None:
    for name in names:
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir()}


def test_a_new_folder_appears_whole_and_readable(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged_folder(out, NAMES) as folder:
        fill(folder, "a.txt")
        assert not out.exists()
    assert contents(out) == {"a.txt": "new"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    expected = tmp_path / "plain"
    expected.mkdir()
    assert out.stat().st_mode == expected.stat().st_mode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), staged_folder(tmp_path / "deep" / "out", NAMES) as folder:  # noqa: PT012
        fill(folder, "a.txt")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_old_results_survive_a_failed_forced_run(tmp_path: Path) -> None:
    fill(tmp_path, *NAMES, text="old")
    with pytest.raises(ValueError, match="late"), staged_folder(tmp_path, NAMES, force=True) as folder:  # noqa: PT012
        fill(folder, *NAMES)
        raise ValueError("late")
    assert contents(tmp_path) == dict.fromkeys(NAMES, "old")


def test_a_forced_run_replaces_the_set_and_only_the_set(tmp_path: Path) -> None:
    fill(tmp_path, *NAMES, "mine.txt", text="old")
    with staged_folder(tmp_path, NAMES, force=True, last="record.json") as folder:
        fill(folder, "a.txt", "record.json")
    assert contents(tmp_path) == {"a.txt": "new", "record.json": "new", "mine.txt": "old"}


def test_a_crash_while_moving_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *NAMES, text="old")

    def stop(*_: object) -> None:
        raise OSError(errno.EIO, "stopped")

    monkeypatch.setattr(os, "replace", stop)
    with (
        pytest.raises(InputError, match="stopped"),
        staged_folder(tmp_path, NAMES, force=True, last="record.json") as f,
    ):
        fill(f, *NAMES)
    assert not (tmp_path / "record.json").exists()


def test_results_in_the_way_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", text="old")
    with pytest.raises(UsageError, match=r"already holds b\.txt.*`force=True`"), staged_folder(tmp_path, NAMES):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"b.txt": "old"}


def test_other_files_in_the_folder_are_no_obstacle(tmp_path: Path) -> None:
    fill(tmp_path, "mine.txt", text="old")
    with staged_folder(tmp_path, NAMES) as folder:
        fill(folder, "a.txt")
    assert contents(tmp_path) == {"a.txt": "new", "mine.txt": "old"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    fill(tmp_path, "out", text="old")
    with pytest.raises(UsageError, match="not a folder"), staged_folder(tmp_path / "out", NAMES):
        pytest.fail("the block must not run")


def test_a_parent_that_is_a_file_is_unusable(tmp_path: Path) -> None:
    fill(tmp_path, "out", text="old")
    with pytest.raises(InputError, match="cannot write"), staged_folder(tmp_path / "out" / "deep", NAMES):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"out": "old"}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "cannot write")],
)
def test_the_refusals_of_the_system_are_explained(number: int, words: str) -> None:
    error = unwritable(Path("out"), OSError(number, os.strerror(number)))
    assert words in str(error)
    assert error.hint
    assert error.exit_code == 3


def test_ctrl_c_waits_for_the_end_of_a_short_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_files_move_into_place_together(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    targets = [tmp_path / "a.txt", tmp_path / "other" / "b.txt"]
    with staged_files(targets) as staged:
        assert [p.name for p in staged] == ["a.txt", "b.txt"]
        for path in staged:
            path.write_text("new")
        assert not any(target.exists() for target in targets)
    assert [target.read_text(encoding="utf-8") for target in targets] == ["new", "new"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "b.txt", "other"]


def test_files_survive_a_failure_together(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", text="old")
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(KeyboardInterrupt), staged_files(targets, force=True) as staged:  # noqa: PT012
        staged[0].write_text("new")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"a.txt": "old"}


def test_files_in_the_way_and_folders_that_are_missing(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", text="old")
    for target, words in ((tmp_path / "a.txt", "is there"), (tmp_path / "none" / "a.txt", "not a folder")):
        with pytest.raises(UsageError, match=words), staged_files([target]):
            pytest.fail("the block must not run")
    with staged_files([tmp_path / "a.txt"], force=True) as staged:
        staged[0].write_text("new")
    assert contents(tmp_path) == {"a.txt": "new"}


def test_a_folder_that_somebody_used_meanwhile_stays_and_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the real one"), staged_folder(tmp_path / "new" / "out", ["a"]):  # noqa: PT012
        (tmp_path / "new" / "theirs").write_text("x")
        raise ValueError("the real one")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["theirs"]
