"""Derivatives against finite differences, in a fraction of the time `torch.autograd.gradcheck` takes as it comes."""

from __future__ import annotations

from functools import partial

import torch

# along random directions instead of one entry after the other. PyTorch's own tolerances would let a wrong derivative of
# a single entry pass then, since the absolute one grows with the number of entries
derivatives_agree = partial(torch.autograd.gradcheck, fast_mode=True, atol=1e-8, rtol=1e-5)
