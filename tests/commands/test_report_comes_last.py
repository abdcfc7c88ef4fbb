"""``register`` answers once its results are whole, and draws the page afterwards."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PairFiles
from tiny import write_tiny_model

from deformgan.commands import console as console_module
from deformgan.commands import register as register_module
from deformgan.commands.console import Console, UnansweredError
from deformgan.commands.main import main
from deformgan.commands.register import _add_report
from deformgan.errors import InputError
from deformgan.output.folder import OUTPUTS, REPORT
from deformgan.output.registration import record_text
from deformgan.output.report import page

RECORD = {"quality": {"passed": True}, "timings": {"total": 1.5}}
WHOLE = set(OUTPUTS) - {REPORT, "moved_labels.nii.gz", "moved_points.csv", "uncertainty.nii.gz"}

Draw = Callable[[Path], None]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Draw], None]:
    """Sets what draws the page, given the path it writes to."""
    return lambda draw: monkeypatch.setattr(page, "report_of", lambda _found, _record, path, _pictures: draw(path))


@pytest.fixture
def words(pair_files: PairFiles, tmp_path: Path) -> list[str]:
    weights = write_tiny_model(tmp_path / "tiny")
    given = ["-f", str(pair_files.fixed), "-m", str(pair_files.moving), "-o", str(tmp_path / "out")]
    return ["register", *given, "--model", str(weights), "--refine-steps", "0", "--threads", "1"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of results without its page."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "registration.json").write_text(record_text(RECORD), encoding="utf-8")
    return folder


def add_report(out: Path, **how: Any) -> None:
    _add_report(Console(**how), out, SimpleNamespace(), RECORD)  # type: ignore[arg-type]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_answer_is_given_and_the_old_page_gone_when_the_page_is_drawn(
    words: list[str], tmp_path: Path, drawing: Callable[[Draw], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out, seen = tmp_path / "out", []
    out.mkdir()
    (out / REPORT).write_text("of older results")

    def draw(path: Path) -> None:
        seen.append((capsys.readouterr().out, {name for name in files(out) if not name.startswith(".")}))
        path.write_text("new")

    drawing(draw)
    assert main([*words, "--force"]) == 0
    ((answer, there),) = seen
    assert answer.startswith(f"{out}: ")
    assert answer.endswith(f"report {out / REPORT}\n")
    assert there == WHOLE
    assert capsys.readouterr().out == ""
    assert files(out) == WHOLE | {REPORT}
    assert (out / REPORT).read_text() == "new"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_meanwhile_leaves_the_results_and_no_page(
    words: list[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    drawing: Callable[[Draw], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def draw(path: Path) -> None:
        path.write_text("half of a pa")
        signal.raise_signal(number)

    drawing(draw)
    assert main(words) == code
    assert files(tmp_path / "out") == WHOLE
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert f"`deformgan report {tmp_path / 'out'}` writes it" in said.err


def test_a_page_that_cannot_be_drawn_spoils_no_results(
    words: list[str], tmp_path: Path, drawing: Callable[[Draw], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(path: Path) -> None:
        path.write_text("half of a pa")
        raise ValueError("no such colour")

    drawing(draw)
    assert main([*words, "--quiet"]) == 0
    assert files(tmp_path / "out") == WHOLE
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'out'}: ")
    (line,) = said.err.splitlines()
    assert "warning: " in line
    assert "ValueError: no such colour" in line
    assert f"`deformgan report {tmp_path / 'out'}` writes it" in line


@pytest.mark.parametrize("most", [0, 1 << 25])
def test_pictures_that_cannot_be_drawn_spoil_no_results(
    words: list[str], tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether they are drawn beside the writing or, as those of large images, after it."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(register_module, "_MOST_BESIDE", most)
    monkeypatch.setattr(page, "draw", broken)
    assert main([*words[:-1], "2", "--quiet"]) == 0
    assert files(tmp_path / "out") == WHOLE
    assert "ValueError: no such colour" in capsys.readouterr().err


def test_where_nobody_reads_the_answer_the_page_is_drawn_all_the_same(
    words: list[str], tmp_path: Path, drawing: Callable[[Draw], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: str) -> None:
        raise UnansweredError(OSError(errno.EPIPE, os.strerror(errno.EPIPE)))

    monkeypatch.setattr(console_module, "_answer", gone)
    drawing(lambda path: path.write_text("new"))
    assert main(words) == 141
    assert files(tmp_path / "out") == WHOLE | {REPORT}


@pytest.mark.parametrize("error", [InputError("the disk is full", "free some"), MemoryError("out of memory")])
def test_errors_are_told_with_what_to_do(
    out: Path, error: Exception, drawing: Callable[[Draw], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(_: Path) -> None:
        raise error

    drawing(draw)
    add_report(out)
    assert files(out) == {"registration.json"}
    assert f"{error}; `deformgan report {out}` writes it" in capsys.readouterr().err


def test_a_page_of_results_that_were_replaced_is_dropped(
    out: Path, drawing: Callable[[Draw], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(path: Path) -> None:
        path.write_text("of the old results")
        (out / "registration.json").write_text(record_text({**RECORD, "timings": {"total": 1.6}}), encoding="utf-8")

    drawing(draw)
    add_report(out)
    assert files(out) == {"registration.json"}
    assert "other results by now" in capsys.readouterr().err
