"""A short run of tests/fuzz, and that it would notice a reader that crashes, hangs, swells or lets an error through."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path
from typing import Any

import pytest

from deformgan.errors import InputError
from deformgan.spatial.grid import Grid
from fuzz import harness
from fuzz.kinds import Kind, sound

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc as Linux has them")


@pytest.mark.slow
@linux
def test_nothing_but_our_own_errors_comes_back() -> None:
    tallies = harness.run(1500, seed=7)
    assert {key: tally.findings for key, tally in tallies.items() if tally.findings} == {}
    assert sum(sum(tally.counts.values()) for tally in tallies.values()) == 1500
    for key, tally in tallies.items():
        assert tally.counts["ok"] + tally.counts["ours"] == sum(tally.counts.values())
        assert tally.counts["ok"], f"{key}: everything was refused, so nothing behind the first check was reached"
        assert tally.counts["ours"], f"{key}: nothing was refused, so nothing was corrupted"


def _swell(path: Path, _: Any) -> None:
    with mmap(-1, 64 << 20, flags=MAP_PRIVATE | MAP_ANONYMOUS) as pages:  # what is freed elsewhere is not taken for it
        for start in range(0, len(pages), PAGESIZE):
            pages[start] = 1


def _too_much(path: Path, _: Any) -> None:
    bytearray(8 << 30)


def _refuse(path: Path, _: Any) -> None:
    raise InputError("no", "never mind")


def _stumble(path: Path, _: Any) -> None:
    raise KeyError("odd")


def _crash(path: Path, _: Any) -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def _sleep(path: Path, _: Any) -> None:
    time.sleep(30)


def _spin(path: Path, _: Any) -> None:
    while True:
        pass


def _deaf(path: Path, _: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(30)


READERS: list[tuple[Callable[[Path, Any], Any], str]] = [
    (lambda path, _: path.read_bytes(), "ok"),
    (_refuse, "ours"),
    (_stumble, "other"),
    (lambda path, _: Grid((0, 1, 1), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "other"),
    (_crash, "crash"),
    (_sleep, "hang"),
    (_spin, "hang"),
    (_deaf, "hang"),
    (_swell, "memory"),
    (_too_much, "memory"),
]


@linux
@pytest.mark.parametrize(("read", "outcome"), READERS)
def test_every_outcome_is_told_apart(
    read: Callable[[Path, Any], Any], outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "HANG_S", 0.5)
    monkeypatch.setattr(harness, "WAIT_S", 2.0)
    monkeypatch.setattr(harness, "DEAF_S", 3.0)
    monkeypatch.setattr(harness, "GROWTH_MB", 32.0)
    number = iter(range(9))

    def read_second(path: Path, rng: Any) -> Any:  # the first is what the memory is compared with
        return read(path, rng) if next(number) else None

    kind = Kind(1, [("a.bin", b"abc")], lambda data, _: data, read_second)
    tally = harness.run_kind("planted", kind, seed=1, inputs=2, folder=tmp_path)
    assert tally.counts == ({"ok": 2} if outcome == "ok" else {"ok": 1, outcome: 1})
    assert [finding["as"] for finding in tally.findings] == ([] if outcome in ("ok", "ours") else [outcome])


def test_a_bug_of_the_fuzzer_is_none_of_a_reader(tmp_path: Path) -> None:
    def broken(data: bytes, rng: Any) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        harness.run_kind("broken", Kind(1, [("a", b"")], broken, lambda path, _: None), 1, 1, tmp_path)


def test_an_input_is_the_same_again() -> None:
    kind = Kind(1, [("a", bytes(range(256)))], lambda data, rng: rng.randbytes(8) + data, lambda path, _: None)
    first, again, other = (harness.corrupted(kind, "k", 1, n)[:2] for n in (3, 3, 4))
    assert first == again != other


def test_what_is_not_sound_is_told() -> None:
    sound(Grid((2, 2, 2), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    with pytest.raises(AssertionError):
        sound(Grid((0, 2, 2), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
