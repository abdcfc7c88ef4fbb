"""``deformgan info``: what a bug report needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Json, Messages


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show versions, devices and the shipped weights with their checksums."""

    schema: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show the JSON Schema of registration.json instead."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Collect and answer."""
        if self.schema:
            from deformgan.output.provenance import schema

            console.result(json.dumps(schema(), indent=2, ensure_ascii=False), success({"schema": schema()}))
            return
        import torch

        from deformgan.models.load import load_model, shipped_models
        from deformgan.output.provenance import environment
        from deformgan.spatial.native import is_available

        devices = {
            "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cpu_threads": torch.get_num_threads(),
            "native_kernels": is_available(),
        }
        weights = {name: load_model(name).sha256 for name in shipped_models()}
        record: dict[str, Any] = {"environment": environment(), "devices": devices, "weights": weights}
        console.result(_text(record), success(record))


def _text(record: dict[str, Any]) -> str:
    lines = []
    for title, entries in record.items():
        lines.append(title)
        width = max((len(name) for name in entries), default=0)
        lines += [f"  {name:{width}}  {_value(value)}" for name, value in entries.items()] or ["  none"]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not installed" if value is None else str(value)
