"""Run the command on every bad input and write down what it said."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from bad_input import corrupt
from deformgan.commands.main import main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bad-input.md"
# no refusal here is one of brains in heads, which would be looked for in every noise
_QUICK = ["--refine-steps", "0", "--brain", "whole", "--threads", "1"]
_PAIR = ["-f", "fixed.nii.gz", "-m", "moving.nii.gz", "--model", "weights", *_QUICK]
REGISTER = ["register", *_PAIR, "-o", "out/new"]
APPLY = ["apply", "-t", "affine.txt", "-r", "fixed.nii.gz"]
TRAIN = ["train", "settings.toml", "--data", "data", "-o", "out/run"]
_INTRODUCTION = """# Bad input, and what is said to it

Each line below was printed by the command: `python tests/bad_input` makes the page, and a test compares it with what
the command says today. Whatever the input, the exit code is 2 or 3, stdout stays empty, stderr has one line with the
cause, a dash and the hint (warnings and stages may come before it), and nothing is left in the output folder. An
option that there is not, or a value that an option cannot have, is refused with code 2 and a line on how to get help.
[The command](command.md) has the exit codes, [Untrusted files](untrusted-files.md) the limits.

"""


@dataclass(frozen=True)
class Section:
    """A role that a file plays.

    Args:
        title: Of its table.
        targets: The files (or folders) that are corrupted in turn; what is said of each is the same but for its name.
        command: That reads them.
        corruptions: In the order of the table.
    """

    title: str
    targets: tuple[str, ...]
    command: list[str]
    corruptions: tuple[corrupt.Corruption, ...]


SECTIONS = (
    Section("Fixed or moving image", ("fixed.nii.gz", "moving.nii.gz"), REGISTER, corrupt.IMAGES),
    Section(
        "Fixed or moving image, with `--transform deform`",
        ("fixed.nii.gz", "moving.nii.gz"),
        [*REGISTER, "--transform", "deform"],
        corrupt.PLACES,
    ),
    Section("Moving labels", ("labels.nii.gz",), [*REGISTER, "--moving-labels", "labels.nii.gz"], corrupt.LABELS),
    Section("Points", ("points.csv",), [*REGISTER, "--moving-points", "points.csv"], corrupt.POINTS),
    Section("Affine transform", ("affine.txt",), [*APPLY, "moving.nii.gz", "out/moved.nii.gz"], corrupt.AFFINES),
    Section(
        "Displacement field",
        ("warp.nii.gz",),
        ["apply", "-t", "warp.nii.gz", "-r", "fixed.nii.gz", "moving.nii.gz", "out/moved.nii.gz"],
        corrupt.FIELDS,
    ),
    Section("Weights", ("weights",), REGISTER, corrupt.MODELS),
    Section("Settings of a training", ("settings.toml",), TRAIN, corrupt.SETTINGS),
    Section("`registration.json`", ("results/registration.json",), ["report", "results"], corrupt.RECORDS),
)


@dataclass(frozen=True)
class Answer:
    """What the command did.

    Args:
        code: Its exit code.
        out, err: What it wrote.
        left: Names of what is in the output folder afterwards.
    """

    code: int
    out: str
    err: str
    left: tuple[str, ...]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root, so act as nobody for a while; the same for everybody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def ask(command: list[str], home: Path, *, nobody: bool = False) -> Answer:
    """Run the command in ``home``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = {path.name for path in (home / "out").rglob("*")}
    who = as_nobody() if nobody else contextlib.nullcontext()
    with contextlib.chdir(home), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), who:
        code = main(command)
    left = tuple(sorted(path.name for path in (home / "out").rglob("*") if path.name not in before))
    return Answer(code, out.getvalue(), err.getvalue(), left)


@cache
def _template() -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory()
    corrupt.furnish(Path(made.name))
    (Path(made.name) / "out").mkdir()
    return made  # gone at the end of the process


def _sound() -> Path:
    return Path(_template().name)


@contextlib.contextmanager
def furnished() -> Iterator[Path]:
    """A folder with a sound pair and all that goes with it, open to everybody."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shutil.copytree(_sound(), home, dirs_exist_ok=True)
        for path in (home, *home.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o644)
        yield home


def refused(answer: Answer) -> str:
    """The one line that was said, its cause and hint, if the refusal was as it should be.

    Raises:
        AssertionError: another exit code, more than a line, no hint, or something left behind.
    """
    assert answer.code in (2, 3), f"exit code {answer.code}: {answer.err}"
    assert answer.out == "", answer.out
    lines = [
        line for line in answer.err.splitlines() if not re.match(r"deformgan: (warning: |[\w ]+: [\d.]+ s$)", line)
    ]
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("deformgan: error: "), lines
    assert " — " in lines[0], f"no hint: {lines[0]}"
    assert len(lines[0]) < 600, f"too long: {lines[0]}"
    assert answer.left == (), answer.left
    return lines[0].removeprefix("deformgan: error: ")


def rows(section: Section) -> Iterator[tuple[str, int, str]]:
    """What was bad, the exit code and the line, for each way to corrupt the files of a section."""
    for one in section.corruptions:
        said = []
        for target in section.targets:
            with furnished() as home:
                one(home / target)
                answer = ask(section.command, home, nobody=one is corrupt.forbidden)
                line = refused(answer)
                for other in section.targets if len(section.targets) > 1 else ():
                    line = line.replace(other, "IMAGE")
                said.append((answer.code, line))
        # checksums differ from file to file
        assert len({(code, re.sub(r"\d{6,}", "", line)) for code, line in said}) == 1, said
        yield (one.__doc__ or "").strip(), *said[0]


def _full_disk() -> contextlib.AbstractContextManager[object]:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return mock.patch("deformgan.io.atomic._write_all", side_effect=full)


Prepare = Callable[[Path], object]
OUTPUTS: tuple[tuple[str, list[str], Prepare], ...] = (
    ("results are there", [*REGISTER[:-1], "results"], lambda home: (home / "results" / "warp.nii.gz").touch()),
    ("the output folder is a file", [*REGISTER[:-1], "points.csv"], lambda home: None),
    ("the output folder is below a file", [*REGISTER[:-1], "points.csv/new"], lambda home: None),
    ("the output folder may not be written to", REGISTER, lambda home: (home / "out").chmod(0o555)),
    ("the disk is full", REGISTER, lambda home: None),
    ("an input as the output", [*APPLY, "moving.nii.gz", "moving.nii.gz"], lambda home: None),
    ("the same output twice", [*APPLY, *["moving.nii.gz", "out/a.nii.gz"] * 2], lambda home: None),
    ("an output of an unknown ending", [*APPLY, "moving.nii.gz", "out/a.png"], lambda home: None),
    ("an output in a folder that is not there", [*APPLY, "moving.nii.gz", "none/a.nii.gz"], lambda home: None),
    ("a transform of an unknown ending", ["convert", "affine.txt", "out/a.xyz"], lambda home: None),
    ("no pairs", [*APPLY, "moving.nii.gz"], lambda home: None),
    ("no transform", ["apply", "-r", "fixed.nii.gz", "moving.nii.gz", "out/a.nii.gz"], lambda home: None),
    ("unknown weights", [*REGISTER, "--model", "none"], lambda home: None),
    ("`--refine-steps -1`", [*REGISTER, "--refine-steps", "-1"], lambda home: None),
    ("`--threads 0`", [*REGISTER, "--threads", "0"], lambda home: None),
)


def output_rows() -> Iterator[tuple[str, int, str]]:
    """As `rows`, for outputs and options."""
    for what, command, prepare in OUTPUTS:
        with furnished() as home:
            prepare(home)
            full = _full_disk() if what == "the disk is full" else contextlib.nullcontext()
            with full:
                answer = ask(command, home, nobody="may not" in what)
            yield what, answer.code, refused(answer)


def page() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    tables = [(section.title, rows(section)) for section in SECTIONS]
    for title, table in (*tables, ("Outputs and options", output_rows())):
        parts.append(f"## {title}\n\n| bad | code | what is said |\n|---|---:|---|\n")
        for what, code, line in table:
            cause, _, hint = line.replace("|", "\\|").replace("<", "&lt;").partition(" — ")
            parts.append(f"| {what} | {code} | {cause} — *{hint}* |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"
