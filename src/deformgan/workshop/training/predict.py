"""How T is called in training: at the resolution of the pairs, every stage of it."""

from __future__ import annotations

from torch import Tensor, nn

from deformgan.networks.base import TransformationNetwork, reduced


class Staged(nn.Module):
    """T as a launcher wraps it for several GPUs: its forward gives the fields of all stages."""

    def __init__(self, network: TransformationNetwork) -> None:
        super().__init__()
        self.network, self.first_field = network, network.first_field

    def forward(self, fixed: Tensor, moving: Tensor, scale: float = 1.0) -> list[Tensor]:
        """As `stage_fields`."""
        factor = max(1, round(scale * self.network.input_reduction))
        return self.network.stages(reduced(fixed, factor), reduced(moving, factor))


def stage_fields(network: nn.Module, fixed: Tensor, moving: Tensor, scale: float = 1.0) -> list[Tensor]:
    """T's fields, coarse to fine; the last is the result.

    Args:
        network: T, or a `Staged` one, possibly wrapped for several GPUs.
        fixed, moving: (B, 1, D, H, W) in [0, 1].
        scale: Resolution of the images relative to the working grid: 1, 0.5 or 0.25. For a network that reduces its
            images by itself those of a finer resolution are reduced here; other networks take any.

    Returns:
        Each (B, 3, d, h, w) in voxels of its own grid, over the extent of ``fixed``.
    """
    staged = Staged(network) if isinstance(network, TransformationNetwork) else network
    return staged(fixed, moving, scale)
