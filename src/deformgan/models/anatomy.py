"""S as it is used: loaded, checked and run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from deformgan.errors import InputError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.models.device import computing_in
from deformgan.models.load import MOST_BYTES, fitting_network, weights_folder


@dataclass(frozen=True)
class AnatomyModel:
    """The network that knows anatomy in any contrast.

    Args:
        network: S, in evaluation mode.
        structures: What it tells apart, in the order of its channels; the first is the background, the second what
            is outside the brain.
        shape: Voxels of the scans it was taught with.
        spacing: Their size in millimetres.
        name: The name or path it was loaded by.
        sha256: Of the weights file.
    """

    network: nn.Module
    structures: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing: float
    name: str
    sha256: str

    @torch.inference_mode()
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run S.

        Args:
            image: (1, 1, D, H, W) in [0, 1] on a grid along the world axes (RAS+) of S's spacing; even sizes.

        Returns:
            The share of each structure in every block of 2×2×2 voxels, (1, S, D/2, H/2, W/2), and the probability that
            a voxel is brain, (1, 1, D, H, W); both float32 on the CPU.
        """
        device = next(self.network.parameters()).device
        with computing_in("auto", device):
            structures, mask = self.network(image.to(device))
        return structures.float().softmax(1).cpu(), mask.float().sigmoid().cpu()


def load_anatomy_model(name: str | Path, device: str | torch.device = "cpu") -> AnatomyModel:
    """Load S by the name of shipped weights or the path of a folder that ``deformgan train`` wrote.

    Raises:
        UsageError: There is nothing of that name.
        InputError: The files are damaged, or are those of another network.
    """
    folder = weights_folder(name, "S")
    try:
        config = parse_json(read_small(folder / "config.json"))
        data = read_small(folder / "model.safetensors", MOST_BYTES)
        state = load(data)
        network = fitting_network(config["network"], state, "S")
        network.load_state_dict(state)
        if not all(bool(torch.isfinite(t).all()) for t in state.values()):
            raise ValueError("weights are not finite")
        structures, grid = tuple(config["structures"]), config["grid"]
        if len(structures) != network.labels or not all(isinstance(name, str) for name in structures):
            raise ValueError("the structures are not those of the network")
        shape, spacing = tuple(int(n) for n in grid["shape"]), float(grid["spacing"])
        if len(shape) != 3 or not all(0 < n <= 512 for n in shape) or not 0.1 < spacing < 20:
            raise ValueError("there can be no such grid")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the weights in {folder} are damaged: {reason}", "install or train them anew") from error
    network = network.eval().to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return AnatomyModel(network, structures, shape, spacing, str(name), hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]
