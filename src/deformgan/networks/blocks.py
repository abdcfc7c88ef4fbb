"""The convolution blocks the U-Nets and the discriminator are made of.

They are built to be fast where the product runs, on a CPU: activations stay in the channels-last layout (in which bf16
convolutions are fastest), activation functions work in place, and normalisation by instance is a `GroupNorm` with one
channel a group, because PyTorch's `InstanceNorm3d` leaves that layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.spatial.field import interpolated
from deformgan.spatial.native import convolution as native
from deformgan.spatial.native.use import usable

_LANES = 8  # input channels from which on the kernels are faster than oneDNN
_UNFOLDED = 20480  # rows of an input; PyTorch gives only larger ones to oneDNN
SLOPE = 0.2  # of every leaky ReLU
GROUP_CHANNELS = 16  # of the "group" normalisation; so many that even a single voxel has a variance


def channels_last(x: Tensor) -> Tensor:
    """(B, C, D, H, W) in the channels-last memory layout, also where C = 1 leaves the layout open to the backend."""
    if x.shape[1] == 1:
        # with one channel `contiguous` sees nothing to do and the convolution would answer channels-first
        return x.squeeze(1).contiguous().unsqueeze(-1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last_3d)


def enlarged(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, C, d, h, w) → (B, C, *shape), trilinear."""
    if x.device.type == "cuda":  # whose own kernel has a thread for each voxel, whatever the number of channels
        return interpolated(x, shape)
    return F.interpolate(x, size=shape, mode="trilinear", align_corners=False)


def normalisation(kind: str, channels: int) -> nn.Module:
    """A normalisation layer over (B, channels, D, H, W).

    Args:
        kind: ``none``; ``instance`` (every channel of every sample for itself); ``group`` (16 channels together, or
            all where 16 does not divide their number: the relative strengths of a group's channels survive).
        channels: Channels of the input.

    Raises:
        ValueError: ``kind`` is none of these.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "instance":
        return _GroupNorm(channels, channels)
    if kind == "group":
        return _GroupNorm(1 if channels % GROUP_CHANNELS else channels // GROUP_CHANNELS, channels)
    raise ValueError(f"norm is none, instance or group, not {kind!r}")


class _GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, except that a group of one voxel and one channel becomes its bias and is not an error.

    Small images shrink to one voxel at the deepest level of a U-Net, and networks work at any size.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in the base class
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


class Convolution(nn.Conv3d):
    """`nn.Conv3d` that is fast where no gradient is wanted, and whose gradients can be trusted in bf16 at any size."""

    _packed: tuple[Tensor, int, int, Tensor] | None = None  # of which weights, and these as the kernels take them

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in the base class
        if self._compiled(input):
            return native.convolve(input, self._for_kernels(), self.bias)  # type: ignore[arg-type]
        if self._mixes(input):
            return self._mixed(input)
        if max(input.shape[2:]) > 2:
            return self._by_onednn(input) if self._small(input) else super().forward(input)
        # oneDNN's bf16 weight gradient of a 2³ volume is uninitialised memory (PyTorch 2.13, AVX512-BF16 without AMX)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())

    def activated(self, x: Tensor, slope: float = 1.0, added: Tensor | None = None, planar: bool = False) -> Tensor:
        """The convolution, a leaky ReLU of this slope, and what is added to it, in one go where that can be.

        Args:
            x: (B, inputs, D, H, W).
            slope: 1 for no activation.
            added: Of the result's shape.
            planar: Whether the result had better lie channel by channel.
        """
        if self._compiled(x):
            how = {"slope": slope, "added": added, "planar": planar}
            return native.convolve(x, self._for_kernels(), self.bias, **how)  # type: ignore[arg-type]
        x = self(x)
        x = x if slope == 1 else F.leaky_relu(x, slope)
        return x if added is None else x + added

    def _compiled(self, x: Tensor) -> bool:
        """Whether the kernels compute it: 3³ weights, stride 1, single precision, and channels that fill a vector."""
        plain = self.kernel_size == (3, 3, 3) and self.stride == self.dilation == self.padding == (1, 1, 1)
        if not plain or self.groups != 1 or self.padding_mode != "zeros" or self.in_channels < _LANES:
            return False
        if self.bias is None or self.weight.is_inference() or _autocast() or not x.numel():
            return False
        return usable(x[:1], self.weight[:1], self.bias[:1])

    def _for_kernels(self) -> Tensor:
        """The weights, prepared once for as long as they stay what they are."""
        weight = self.weight
        of = (weight, weight._version, weight.data_ptr())
        if self._packed is None or self._packed[0] is not weight or self._packed[1:3] != of[1:]:
            self._packed = (*of, native.pack(weight))
        return self._packed[3]

    def _mixes(self, x: Tensor) -> bool:
        """Whether it is a matrix product, for which PyTorch's convolution copies the input before and after."""
        plain = self.kernel_size == self.stride == (1, 1, 1) and self.padding == (0, 0, 0) and self.groups == 1
        return plain and self.bias is not None and usable(x[:1], self.weight[:1], self.bias[:1]) and not _autocast()

    def _mixed(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        if x.is_contiguous():
            return (weight @ x.flatten(2) + self.bias[:, None]).unflatten(2, x.shape[2:])  # type: ignore[index]
        return F.linear(x.movedim(1, -1), weight, self.bias).movedim(-1, 1)

    def _small(self, x: Tensor) -> bool:
        """Whether PyTorch would unfold the input into a matrix though oneDNN takes half the time (PyTorch 2.13)."""
        if self.kernel_size == (1, 1, 1) or x.shape[:-1].numel() > _UNFOLDED or torch.is_grad_enabled():
            return False
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not _autocast()
        return plain and torch.backends.mkldnn.enabled and not torch.compiler.is_compiling()

    def _by_onednn(self, x: Tensor) -> Tensor:
        how = self.padding, self.stride, self.dilation, self.groups
        return torch.mkldnn_convolution(channels_last(x), self.weight, self.bias, *how)  # type: ignore[attr-defined]


class Layers(nn.Sequential):
    """`nn.Sequential` in which a convolution takes the leaky ReLU behind it along."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in the base class
        layers, x = list(self), input
        for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
            if isinstance(layer, Convolution) and isinstance(after, nn.LeakyReLU):
                x = layer.activated(x, after.negative_slope)
            elif not (isinstance(layer, nn.LeakyReLU) and isinstance(before, Convolution)):
                x = layer(x)
        return x


class ConvBlock(nn.Sequential):
    """3³ convolution, normalisation, leaky ReLU: (B, inputs, n…) → (B, outputs, ⌈n / stride⌉…)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, norm: str = "none") -> None:
        convolution = Convolution(inputs, outputs, 3, stride, padding=1)
        nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        super().__init__(convolution, normalisation(norm, outputs), nn.LeakyReLU(SLOPE, inplace=True))


class UpBlock(nn.Module):
    """One decoder level: coarse features are doubled in size, joined with the skip, and pass two `ConvBlock`.

    Args:
        coarse: Channels that come from below.
        skip: Channels of the skip connection, and of the output.
        norm: See `normalisation`.
    """

    def __init__(self, coarse: int, skip: int, norm: str = "none") -> None:
        super().__init__()
        # mixing channels before doubling costs an eighth of doing it after, and halves what is doubled
        self.reduce = nn.Conv3d(coarse, skip, 1)
        self.convolutions = nn.Sequential(ConvBlock(2 * skip, skip, norm=norm), ConvBlock(skip, skip, norm=norm))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, coarse, ⌈n/2⌉…) and (B, skip, n…) → (B, skip, n…)."""
        d, h, w = skip.shape[2:]
        # voxel i of a strided convolution sits on voxel 2 i: doubling and cutting the end keeps any size in register
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="nearest")[:, :, :d, :h, :w]
        return self.convolutions(torch.cat([x, skip], 1))
