"""An untrained network on a tiny grid: the whole product in milliseconds, its maps nearly the identity."""

from __future__ import annotations

from pathlib import Path

import torch

from deformgan.models.load import save_model
from deformgan.networks import build

CONFIG = {
    "network": {"kind": "unet", "widths": [4, 8]},
    "grid": {"shape": [32, 36, 28], "spacing": 5.0},
}


GENERATOR = {"kind": "generator", "widths": [4, 8]}


def write_tiny_model(folder: Path, *, bend: float = 0.0, generator: bool = False) -> Path:
    """Save the network as `load_model` reads it.

    Args:
        bend: Standard deviation given to the last layer's weights: a larger one makes a wild field.
        generator: With a G beside T, both as if trained on images of half resolution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = build(CONFIG["network"])
        if bend:
            *_, last = (m for m in network.modules() if isinstance(m, torch.nn.Conv3d))
            torch.nn.init.normal_(last.weight, 0, bend)
        translator = build(GENERATOR)
    if generator:
        save_model(folder, network, {**CONFIG, "generator": GENERATOR, "scale": 0.5}, translator)
    else:
        save_model(folder, network, CONFIG)
    return folder


def write_weights(folder: Path, shape: tuple[int, int, int] = (32, 32, 32), seed: int = 4, bend: float = 0.05) -> Path:
    """Weights for a grid of this shape and 4 mm, whose field is not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(CONFIG["network"])
        *_, last = (m for m in network.modules() if isinstance(m, torch.nn.Conv3d))
        torch.nn.init.normal_(last.weight, 0, bend)
    save_model(folder, network, {**CONFIG, "grid": {"shape": list(shape), "spacing": 4.0}})
    return folder
