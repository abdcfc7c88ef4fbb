"""The networks by name: T (the paper's U-Net and the default pyramid), G, D, and S, which knows anatomy."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from torch import nn

Role = Literal["T", "G", "D", "S"]

# what a configuration calls it: what it is for, the module here, the class in it
KINDS: dict[str, tuple[Role, str, str]] = {
    "pyramid": ("T", "pyramid", "PyramidNetwork"),
    "unet": ("T", "unet", "TransformationUNet"),
    "generator": ("G", "generator", "Generator"),
    "local-generator": ("G", "local_generator", "LocalGenerator"),
    "discriminator": ("D", "discriminator", "Discriminator"),
    "anatomy": ("S", "anatomy", "AnatomyNet"),
}


def network_class(kind: object, role: Role | None = None) -> type[Any]:
    """The class of a kind of network; its module is loaded now.

    Raises:
        ValueError: There is no such kind, or it is not for ``role``.
    """
    known = {name: place for name, place in KINDS.items() if role in (None, place[0])}
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"the kind of {role or 'a network'} is one of {', '.join(known)}, not {kind!r}")
    _, module, name = known[kind]
    return getattr(import_module(f"{__name__}.{module}"), name)


def build(config: dict[str, Any], role: Role | None = None) -> nn.Module:
    """The network a configuration names: ``{"kind": …, **constructor arguments}``, as saved beside its weights.

    Raises:
        ValueError: The kind is unknown, or it is not for ``role``.
    """
    arguments = dict(config)
    return network_class(arguments.pop("kind", None), role)(**arguments)
