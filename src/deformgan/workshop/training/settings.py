"""Settings out of TOML files and saved records: frozen dataclasses, every key and type checked."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from deformgan.errors import InputError, UsageError
from deformgan.io.untrusted import read_small

T = TypeVar("T")

_MOST_WHOLE = 2**63


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        InputError: The file is missing or is not TOML.
    """
    path = Path(path)
    try:
        return tomllib.loads(read_small(path).decode("utf-8").replace("\r\n", "\n"))
    except OSError as error:
        raise InputError(
            f"cannot read the configuration {path}: {error.strerror}", "give the path of a .toml file"
        ) from error
    except (ValueError, RecursionError) as error:  # TOML's own errors are of the first kind
        raise InputError(f"{path} is not a TOML file: {error}", "correct the line it names") from error


def read_settings(cls: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass of settings out of plain values, its inner dataclasses too.

    Args:
        where: What messages call it.

    Raises:
        UsageError: A key is unknown or missing, or a value is of the wrong type.
    """
    hints = get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise UsageError(f"{where} has no setting {', '.join(sorted(unknown))}", f"it knows {', '.join(hints)}")
    if lacking := [name for name in _needed(cls) if name not in values]:
        raise UsageError(f"{where} is incomplete: it lacks {', '.join(lacking)}", "add the missing setting")
    arguments = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = read_settings(hint, value, f"{where}, {key}")  # type: ignore[arg-type]
        elif isinstance(value, dict) and (inner := _many(hint, dict)):
            value = {
                k: read_settings(inner, v, f"{where}, {k}") if isinstance(v, dict) else v for k, v in value.items()
            }
        elif isinstance(value, list | tuple) and (inner := _many(hint, tuple)):
            value = tuple(read_settings(inner, v, f"{where}, {key}") if isinstance(v, dict) else v for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hint):
            raise UsageError(
                f"{where}: {key} cannot be {value!r}",
                f"its type is {hint.__name__ if isinstance(hint, type) else hint}",
            )
        arguments[key] = value
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}", "add the missing setting") from error


def _many(hint: Any, of: type) -> Any:
    """The dataclass of which a setting holds many, in a dict by name or in a tuple; None where it holds none."""
    inner = [one for one in get_args(hint) if dataclasses.is_dataclass(one)]
    return inner[0] if get_origin(hint) is of and inner else None


def _needed(cls: type) -> list[str]:
    absent = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is absent and f.default_factory is absent]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type; whole numbers pass for ``float``, but nothing passes for another."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind is tuple:
        each = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_MOST_WHOLE <= value < _MOST_WHOLE
    return hint is Any or isinstance(value, hint)
