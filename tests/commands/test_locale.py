"""Where the locale has no letter for what is said, or a file's name is no UTF-8, its code is said instead."""

from __future__ import annotations

import json
import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from deformgan.commands.console import Console
from deformgan.commands.main import COMMANDS, main

ENCODINGS = ("ascii", "utf-8")
# what Python makes of the byte 0xff in a file's name
NAMELESS = "scan\udcff.nii.gz"


def listen(encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[BytesIO, BytesIO]:
    """What will reach stdout and stderr, both of an encoding, as strict as stdout is by itself."""
    made = (BytesIO(), BytesIO())
    for name, stream in zip(("stdout", "stderr"), made, strict=True):
        monkeypatch.setattr(sys, name, TextIOWrapper(stream, encoding=encoding))
    return made


def in_ascii(stream: BytesIO) -> str:
    return stream.getvalue().decode().encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["register", "--help"], ["info"], ["info", "--json"]])
def test_answers_arrive(words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = listen(encoding, monkeypatch)
    assert main(words) == 0
    assert len(in_ascii(streams[0])) > 10
    assert streams[1].getvalue() == b""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_line_arrives(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = listen(encoding, monkeypatch)

    def speak(_: object, console: Console) -> None:
        console.note(f"{NAMELESS} → read")
        console.result(f"{NAMELESS} → done", {"path": NAMELESS})

    monkeypatch.setattr(COMMANDS["info"], "run", speak)
    assert main(["info"]) == 0
    assert in_ascii(streams[0]) == "scan\\udcff.nii.gz \\u2192 done\n"
    assert in_ascii(streams[1]) == "deformgan: scan\\udcff.nii.gz \\u2192 read\n"
    assert main(["info", "--json", "-q"]) == 0
    assert json.loads(in_ascii(streams[0]).splitlines()[-1]) == {"path": NAMELESS}


def test_the_log_takes_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(COMMANDS["info"], "run", lambda _, console: console.note(f"{NAMELESS} → read"))
    log = tmp_path / NAMELESS
    try:
        log.touch()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert main(["info", "-q", "--log", os.fspath(log)]) == 0
    assert log.read_text(encoding="utf-8").endswith("scan\\udcff.nii.gz → read\n")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mistake_is_said(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    streams = listen(encoding, monkeypatch)
    words = ["register", "-f", str(tmp_path / NAMELESS), "-m", "m.nii", "-o", str(tmp_path / "out")]
    assert main(words) == 3
    assert "does not exist \\u2014 check the path\n" in in_ascii(streams[1])
