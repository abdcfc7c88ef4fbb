"""registration.json against its published schema, and more strictly: every field that is written is described there."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from deformgan.output.provenance import schema


def closed(part: Any) -> Any:
    """A schema whose objects hold the fields it names and no others; those that name none are left open."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    inner = {key: closed(one) for key, one in part.items()}
    if part.get("type") == "object" and "properties" in part:
        inner.setdefault("additionalProperties", False)
    return inner


@cache
def validator() -> Draft202012Validator:
    """Of the closed schema, dates checked too."""
    return Draft202012Validator(closed(schema()), format_checker=FormatChecker())


def complaints(record: dict[str, Any]) -> list[str]:
    """What is wrong with a record: where, and why."""
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(record)]


def check(record: dict[str, Any]) -> None:
    """Fail the test unless the record is as registration.schema.json says."""
    found = complaints(record)
    assert not found, "registration.schema.json (and docs/reference/registration-json.md) say otherwise:\n" + "\n".join(
        found
    )
