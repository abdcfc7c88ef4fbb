"""Wrong usage in one line, as every other error: what tyro says in a box, and the option or command that was meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import get_type_hints

from deformgan.errors import UsageError

_KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path"}
_FRAME = "│╭╮╰╯─|+ "


def unknown_command(word: str, commands: Collection[str]) -> UsageError:
    """That there is no such command, and which may have been meant."""
    return UsageError(f"there is no command {word!r}", f"{_meant(word, commands)}deformgan --help lists them")


def usage_error(said: str, prog: str) -> UsageError:
    """What the parser said, as one message and hint.

    Args:
        said: The parser's message, in a box of any width.
        prog: The command as it was called, for the hint.
    """
    lines = [line.strip(_FRAME) for line in said.splitlines() if any(map(str.isalnum, line))]
    text = " ".join(line for line in lines if line)
    help_hint = f"{prog} --help lists the options"
    if found := re.search(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?),?\)", text):
        word, option, choices = found[1], found[2], re.findall(r"'(.*?)'", found[3])
        return UsageError(f"{option} takes {_listed(choices)}, not {word!r}", f"{_meant(word, choices)}{help_hint}")
    if found := re.search(r"Error parsing (\S+): (.*?) from \[(.*?)\]", text):
        kinds = [name for key, name in _KINDS.items() if key in found[2]]
        wanted = kinds[0] if kinds else "something else"
        return UsageError(f"{found[1]} takes {wanted}, not {found[3]}", help_hint)
    if found := re.search(r"Error parsing (\S+): (invalid literal|could not convert).*?: ('.*?')", text):
        wanted = _KINDS["INT" if found[2].startswith("invalid") else "FLOAT"]
        return UsageError(f"{found[1]} takes {wanted}, not {found[3]}", help_hint)
    if found := re.search(r"Missing value for argument '(.*?)'", text):
        return UsageError(f"{found[1]} needs a value", help_hint)
    if found := re.search(r"Unrecognized options?: (.*?)(?= Perhaps you meant| Available| For full| ─|$)", text):
        similar = re.findall(r"--[a-z][a-z-]+", text.partition("Perhaps you meant")[2].partition("For full")[0])
        meant = f"did you mean {similar[0]}? " if similar else ""
        return UsageError(f"{prog} has no {found[1].rstrip(_FRAME)}", f"{meant}{help_hint}")
    if "Missing from" in text:
        names = [name for line in lines if (name := _option(line))]
        return UsageError(f"{prog} needs {_listed(names, 'and')}", help_hint)
    return UsageError(re.sub(r"\s+", " ", text.partition("For full")[0]).strip(_FRAME), help_hint)


def refuse_repeated(arguments: Sequence[str], kind: type, prog: str) -> None:
    """Raise `UsageError` where an option that takes a list is given twice: the parser keeps the last list alone."""
    for option, hint in get_type_hints(kind, include_extras=True).items():
        declared = str(hint)
        if "tuple[" not in declared or "AppendAction" in declared or "Positional" in declared:
            continue
        names = {f"--{option.replace('_', '-')}", *re.findall(r"['\"](--?[a-z][\w-]*)['\"]", declared)}
        given = [word.partition("=")[0] for word in arguments]
        if sum(word in names for word in given) > 1:
            name = next(word for word in given if word in names)
            raise UsageError(
                f"{name} is given more than once", f"list its values after one {name}; {prog} --help lists the options"
            )


def _option(line: str) -> str:
    """The option or argument that a line of the list of missing ones begins with; empty for its explanation."""
    found = re.fullmatch(r"(-\w) [\w|]+, (--[\w-]+) [\w|]+|(--[\w-]+)(?: [\w|]+)?|([A-Z][A-Z\[\], .]*)", line)
    return "" if found is None else found[3] or found[4] or f"{found[1]}/{found[2]}"


def _meant(word: str, choices: Collection[str]) -> str:
    near = get_close_matches(word, list(choices), 1)
    return f"did you mean {near[0]}? " if near else ""


def _listed(words: list[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
