"""The structures that the kernels on features take, field by field as in ``c/convolution.c`` and ``c/mixing.c``."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p


class ConvolutionJob(Structure):
    """See ``convolution_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("in", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("added", c_void_p),
        ("slope", c_float),
        ("out", c_void_p),
        ("voxel", c_int64),
        ("channel", c_int64),
        ("tiles", c_int64),
        ("groups", c_int64),
        ("scratch", c_void_p),
        ("threads", c_int64),
    ]


class PackJob(Structure):
    """See ``pack_job``."""

    _fields_ = [("weights", c_void_p), ("outputs", c_int64), ("inputs", c_int64), ("out", c_void_p)]


class MixingJob(Structure):
    """See ``mixing_job``."""

    _fields_ = [
        ("count", c_int64),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("in", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("slope", c_float),
        ("out", c_void_p),
        ("chunk", c_int64),
        ("scratch", c_void_p),
        ("threads", c_int64),
    ]


class EnlargingJob(Structure):
    """See ``enlarging_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("coarse", c_int64 * 3),
        ("channels", c_int64),
        ("below", c_void_p * 3),
        ("above", c_void_p * 3),
        ("share", c_void_p * 3),
        ("in", c_void_p),
        ("added", c_void_p),
        ("out", c_void_p),
        ("threads", c_int64),
    ]
