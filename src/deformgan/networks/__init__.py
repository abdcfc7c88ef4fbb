"""The networks: T (the paper's U-Net and the default pyramid), G, D, and S, which knows anatomy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

_KINDS = {
    "pyramid": ("deformgan.networks.pyramid", "PyramidNetwork"),
    "unet": ("deformgan.networks.unet", "TransformationUNet"),
    "generator": ("deformgan.networks.unet", "Generator"),
    "anatomy": ("deformgan.networks.anatomy", "AnatomyNet"),
    "local-generator": ("deformgan.networks.local_generator", "LocalGenerator"),
    "discriminator": ("deformgan.networks.discriminator", "Discriminator"),
}


def build(config: dict[str, Any]) -> nn.Module:
    """The network a configuration names: ``{"kind": …, **constructor arguments}``, as saved beside its weights.

    Raises:
        ValueError: The kind is unknown.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"a network's kind is one of {', '.join(_KINDS)}, not {kind!r}")
    module, name = _KINDS[kind]
    return getattr(import_module(module), name)(**arguments)
