"""The commands and the code in README.md and docs/, as the tests of them need it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n)?(?P<indent> *)```(?P<kind>sh|bash|shell|console|python|py)\b[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
FENCE = re.compile(r"^ *```(?:sh|bash|shell|console|python|py)\b", re.MULTILINE)
INLINE = re.compile(r"`(deformgan [a-z]+ [^`]*)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind (``sh``, ``python``), its text, its line and why it is not run, if it is not."""

    kind: str
    text: str
    line: int
    why: str | None


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """Every block of commands or code."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(m["kind"], m["text"], text.count("\n", 0, m.start("kind")) + 1, m["why"]) for m in BLOCK.finditer(text)
    ]
    assert len(found) == len(FENCE.findall(text)), f"{page}: a block is not closed, or a marker is not right above it"
    return tuple(found)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of a shell script; continued lines are joined, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;", line.split(" # ")[0]):
            if part.strip() and not part.lstrip().startswith("#"):
                yield shlex.split(part.strip(), comments=True)


def our_lines() -> Iterator[tuple[str, list[str]]]:
    """Where each whole ``deformgan`` line stands, run or not, in blocks and in tables, and its arguments."""
    for page, name in zip(PAGES, NAMES, strict=True):
        for block in blocks(page):
            for words in commands(block.text) if block.kind != "python" else ():
                if words[0] in ("deformgan", "accelerate"):
                    yield f"{name}:{block.line}", words[words.index("deformgan") + 1 :]
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if name.endswith("from-other-tools.md") and line.startswith("|"):
                for text in INLINE.findall(line):
                    yield f"{name}:{number}", shlex.split(text)[1:]


def mentions() -> Iterator[tuple[str, str, str]]:
    """Where running text names an option of a command, that command and the option."""
    for page, name in zip(PAGES, NAMES, strict=True):
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for text in INLINE.findall(line):
                for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
                    yield f"{name}:{number}", text.split()[1], option
