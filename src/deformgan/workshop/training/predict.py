"""How T is called in training: at the resolution of the pairs, every stage of it."""

from __future__ import annotations

from torch import Tensor, nn

from deformgan.networks.pyramid import PyramidNetwork, halve


def stage_fields(network: nn.Module, fixed: Tensor, moving: Tensor, scale: float = 1.0) -> list[Tensor]:
    """T's fields, coarse to fine; the last is the result.

    Args:
        network: T, possibly wrapped for several GPUs. A pyramid gives a field for each stage, others one.
        fixed, moving: (B, 1, D, H, W) in [0, 1].
        scale: Resolution of the images relative to the working grid: 1, 0.5 or 0.25. A pyramid halves images of scale 1
            and takes those of scale 0.5 as they are; other networks take any.

    Returns:
        Each (B, 3, d, h, w) in voxels of its own grid, over the extent of ``fixed``.
    """
    bare = getattr(network, "module", network)
    if not isinstance(bare, PyramidNetwork):
        return [network(fixed, moving)]
    if scale == 1:
        fixed, moving = halve(fixed), halve(moving)
    return list(network(fixed, moving, halved=True))
