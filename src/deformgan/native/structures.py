"""The structures that the kernels take, field by field as in ``c/similarity.c`` and ``c/control.c``."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

AXIS = ("below", "above", "t", "first", "last")


class AxisMap(Structure):
    """Linear interpolation along an axis, and its transpose."""

    _fields_ = [(name, c_void_p) for name in AXIS]


class SimilarityJob(Structure):
    """See ``similarity_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("padded", c_int64 * 3),
        ("coarse", c_int64 * 3),
        ("directions", c_void_p),
        ("moving", c_void_p),
        ("spans", c_void_p),
        ("reach", c_void_p),
        ("axes", AxisMap * 3),
        ("scale", c_float * 3),
        ("floor", c_float),
        ("field", c_void_p),
        ("gradient", c_void_p),
        ("lines", c_void_p),
        ("rows", c_void_p),
        ("totals", c_void_p),
        ("scratch", c_void_p),
        ("chunk", c_int64),
        ("threads", c_int64),
    ]


class ControlJob(Structure):
    """See ``control_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("smoothing", c_int64),
        ("ratio", c_float * 3),
        ("reach", c_float),
        ("points", c_void_p),
        ("affine", c_void_p),
        ("field", c_void_p),
        ("to_points", c_void_p),
        ("to_affine", c_void_p),
        ("work", c_void_p),
        ("threads", c_int64),
    ]
