"""One step of Adam (Kingma & Ba 2015); `deformgan.spatial.native.control` has the same in compiled code.

PyTorch's own optimiser imports its compiler first: a second that short runs feel.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adam(
    variable: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    rate: float | Tensor,
    step: int | Tensor,
    decays: tuple[float, float] = (0.9, 0.999),
) -> None:
    """Take one step downhill, in place.

    Args:
        variable, gradient: Of one shape.
        moments: Running means of the gradient and of its square, zeros before the first step; renewed in place.
        rate: Length of a step where the gradient keeps its sign; this and ``step`` numbers, or on a GPU scalars there.
        step: Counts from 1.
        decays: Of either moment.
    """
    for moment, value, decay in zip(moments, (gradient, gradient.square()), decays, strict=True):
        moment.mul_(decay).add_((1 - decay) * value)
    mean, square = (moment / (1 - decay**step) for moment, decay in zip(moments, decays, strict=True))
    variable.sub_(rate * (mean / (square.sqrt_() + 1e-8)))
