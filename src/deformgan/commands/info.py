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
    """Show versions, devices, limits, and the shipped weights: contrasts, checksums, model cards."""

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

        from deformgan.models.load import card_of, load_model, shipped_models
        from deformgan.output.provenance import environment
        from deformgan.spatial.native import is_available
        from deformgan.spatial.native.cgroups import memory_bytes
        from deformgan.spatial.native.threads import available_cpus

        devices = {
            "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cpu_threads": torch.get_num_threads(),
            "native_kernels": is_available(),
        }
        memory = memory_bytes()
        limits = {
            "cpus": available_cpus(),
            "memory_gib": None if memory is None else round(memory / 2**30, 1),
        }
        models = {name: load_model(name) for name in shipped_models()}
        record: dict[str, Any] = {
            "environment": environment(),
            "devices": devices,
            "limits": limits,  # of the machine, or of the container or job that this process is in
            "weights": {name: model.sha256 for name, model in models.items()},
            "contrasts": {name: _contrasts(model.config) for name, model in models.items()},
            "model_cards": {name: str(card_of(name)) for name in (*models, *shipped_models("S"))},
        }
        console.result(_text(record), success(record))


def _contrasts(config: dict[str, Any]) -> list[str]:
    """Those that the weights were taught, the most frequent first."""
    training = config.get("training", {})
    shares: dict[str, float] = {}
    for part in training.get("parts", [training]):
        shares |= part.get("data", {}).get("contrasts", {})
    return sorted(shares, key=lambda name: -shares[name])


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
