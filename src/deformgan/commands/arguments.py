"""One name for one thing: Python's arguments as options, and the options of the release before.

Errors of the package name an argument in backticks, as Python has it: `fixed_mask`, `transform="joint"`, `force=True`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

# until 0.2.0; they work for one release more and are not in the help
RENAMED = {"--weights": "--model", "--refine": "--refine-steps", "--points": "--moving-points"}
_ARGUMENT = re.compile(r"`([a-z]\w*)(?:=(?:\"([\w.-]+)\"|([\w.-]+)))?`")


def as_options(text: str, command: type) -> str:
    """A message of the package with the arguments that it names as options of the command: ``--fixed-mask``."""
    known = option_names(command)

    def option(found: re.Match[str]) -> str:
        name = _option(found[1])
        value = found[2] or found[3] or "True"
        return found[0] if name not in known else name if value == "True" else f"{name} {value}"

    return _ARGUMENT.sub(option, text)


def renewed(words: Sequence[str], command: type) -> tuple[list[str], list[str]]:
    """The words after a command with options of the release before as they are called now, and a sentence on each."""
    known, out, notes = option_names(command), [], []
    for word in words:
        option, equals, value = word.partition("=")
        new = RENAMED.get(option)
        if new in known and option not in known:
            notes.append(f"{option} is now called {new}; the old name goes with the next release")
            word = f"{new}{equals}{value}"
        out.append(word)
    return out, list(dict.fromkeys(notes))


def option_names(command: type) -> set[str]:
    """The long options of a command's dataclass, those of its groups among them."""
    names = set()
    for one in fields(command):
        group: Any = one.default_factory
        names |= option_names(group) if isinstance(group, type) else {_option(one.name)}
    return names


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
