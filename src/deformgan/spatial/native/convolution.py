"""What T's local stage and other networks compute on features, in compiled code: convolutions, mixing, enlarging.

The counterparts in PyTorch are in `deformgan.networks`: `blocks` and `local_stage`. Features are channels last; a
convolution takes a batch, the rest one volume. No derivative goes through them.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_int64
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.native.feature_structures import ConvolutionJob, EnlargingJob, MixingJob, PackJob
from deformgan.spatial.native.fields import axis_map
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.threads import native_threads

_BLOCK, _POINTS, _SPARE, _VOXELS = 16, 64, 16, 96  # as in c/lanes.h, c/convolution.c and c/mixing.c
_TILES = 12  # of 2³ voxels, taken at a time: their points fit the second-level cache
_PARTS = 4  # of the work for each thread: one that is held up leaves the rest to the others


def _filled(channels: int) -> int:
    return channels + -channels % _BLOCK


def _last(image: Tensor) -> Tensor:
    return image.detach().contiguous(memory_format=torch.channels_last_3d)


def _point(job: Structure, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        setattr(job, name.rstrip("_"), None if tensor is None else tensor.data_ptr())


def pack(weight: Tensor, level: int | None = None) -> Tensor:
    """Weights (outputs, inputs, 3, 3, 3) as `convolve` takes them: Winograd's transform of each 3³, 64 numbers."""
    outputs, inputs, *kernel_size = weight.shape
    if kernel_size != [3, 3, 3] or weight.dtype != torch.float32 or not weight.numel():
        raise ValueError(f"weights are (outputs, inputs, 3, 3, 3) float32, not {tuple(weight.shape)} {weight.dtype}")
    source, out = weight.detach().contiguous(), torch.empty(_filled(outputs) * _POINTS * _filled(inputs))
    job = PackJob(outputs=outputs, inputs=inputs)
    _point(job, weights=source, out=out)
    kernel("dg_pack", None, level)(byref(job), c_int64(native_threads(out.numel())))
    return out


def convolve(
    image: Tensor,
    packed: Tensor,
    bias: Tensor,
    *,
    slope: float = 1.0,
    added: Tensor | None = None,
    planar: bool = False,
    level: int | None = None,
) -> Tensor:
    """A 3³ convolution with stride 1 and padding 1, and what follows it.

    Args:
        image: (B, inputs, D, H, W) float32.
        packed: The weights, from `pack`.
        bias: (outputs,).
        slope: What a result below 0 is multiplied with, as by a leaky ReLU; 1 for none.
        added: (B, outputs, D, H, W), added after that.
        planar: Whether the result lies channel by channel; default: channels last.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (B, outputs, D, H, W).
    """
    batch, inputs, *shape = image.shape
    outputs, wanted = len(bias), (batch, len(bias), *shape)
    if image.ndim != 5 or not image.numel() or packed.numel() != _filled(outputs) * _POINTS * _filled(inputs):
        raise ValueError(f"these weights are not for {tuple(image.shape)} → {wanted}")
    if added is not None and tuple(added.shape) != wanted:
        raise ValueError(f"what is added is {wanted}, not {tuple(added.shape)}")
    layout = torch.contiguous_format if planar else torch.channels_last_3d
    source, out = _last(image), torch.empty(wanted, memory_format=layout)
    other = None if added is None else added.detach().contiguous(memory_format=layout)
    padded = F.pad(bias.detach(), (0, -outputs % _BLOCK))
    job = ConvolutionJob(inputs=inputs, outputs=outputs, slope=slope, tiles=_TILES)
    job.shape[:], job.threads = tuple(shape), native_threads(prod(shape) * outputs)
    job.voxel, job.channel = (1, prod(shape)) if planar else (outputs, 1)
    groups = -(-prod(-(-n // 2) for n in shape) // _TILES)
    job.groups = -(-groups // (1 if job.threads == 1 else _PARTS * job.threads))
    room = _POINTS * (_TILES * (_filled(inputs) + _BLOCK) + 2 * _SPARE) + _filled(inputs)
    scratch = torch.empty(-(-groups // job.groups) * room)
    run = kernel("dg_convolve", None, level)
    _point(job, weights=packed, bias=padded, scratch=scratch)
    for n in range(batch):
        _point(job, in_=source[n], out=out[n], added=None if other is None else other[n])
        run(byref(job))
    return out


def mix(image: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0, level: int | None = None) -> Tensor:
    """Channels mixed voxel by voxel, as by a 1³ convolution.

    Args:
        image: (1, inputs, D, H, W) float32, channel by channel in memory.
        weight: (outputs, inputs, …) of a 1³ convolution.
        bias: (outputs,).
        slope: As for `convolve`.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (1, outputs, D, H, W), channels last.
    """
    (outputs, inputs), shape = weight.shape[:2], image.shape[2:]
    if tuple(image.shape[:2]) != (1, inputs) or weight.numel() != outputs * inputs or not image.numel():
        raise ValueError(f"cannot mix {tuple(image.shape)} with weights {tuple(weight.shape)}")
    source, out = image.detach().contiguous(), torch.empty(1, outputs, *shape, memory_format=torch.channels_last_3d)
    rows = F.pad(weight.detach().reshape(outputs, inputs), (0, 0, 0, -outputs % _BLOCK))
    packed = rows.unflatten(0, (-1, _BLOCK)).transpose(1, 2).contiguous()
    padded = F.pad(bias.detach(), (0, -outputs % _BLOCK))
    job = MixingJob(count=prod(shape), inputs=inputs, outputs=outputs, slope=slope)
    job.threads = native_threads(source.numel())
    parts = 1 if job.threads == 1 else _PARTS * job.threads
    job.chunk = -(-job.count // (parts * _VOXELS)) * _VOXELS
    scratch = torch.empty(-(-job.count // job.chunk) * _VOXELS * (inputs + _BLOCK))
    _point(job, in_=source, weights=packed, bias=padded, out=out, scratch=scratch)
    kernel("dg_mix", None, level)(byref(job))
    return out


def add_enlarged(features: Tensor, coarse: Tensor, level: int | None = None) -> Tensor:
    """Features and coarser ones, interpolated linearly over the same extent, summed.

    Args:
        features: (1, C, D, H, W) float32.
        coarse: (1, C, d, h, w).
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (1, C, D, H, W), channels last.
    """
    fine, own = tuple(features.shape), tuple(coarse.shape)
    if fine[:2] != own[:2] or fine[0] != 1 or not min(*fine, *own):
        raise ValueError(f"cannot add {own}, enlarged, to {fine}")
    one, other = _last(features), _last(coarse)
    out = torch.empty_like(one)
    job = EnlargingJob(channels=fine[1], threads=native_threads(out.numel()))
    job.shape[:], job.coarse[:] = fine[2:], own[2:]
    maps = [axis_map(a, b) for a, b in zip(own[2:], fine[2:], strict=True)]
    for axis, (below, above, share, *_) in enumerate(maps):
        job.below[axis], job.above[axis], job.share[axis] = (a.ctypes.data for a in (below, above, share))
    _point(job, in_=other, added=one, out=out)
    kernel("dg_add_enlarged", None, level)(byref(job))
    return out
