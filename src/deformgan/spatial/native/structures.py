"""The structures that the kernels take, field by field as in the files in ``c``."""

from __future__ import annotations

from ctypes import Structure, c_double, c_float, c_int64, c_void_p

AXIS = ("below", "above", "t", "first", "last")


class AxisMap(Structure):
    """Linear interpolation along an axis, and its transpose."""

    _fields_ = [(name, c_void_p) for name in AXIS]


class CoarseField(Structure):
    """See ``coarse_field`` in ``c/field.h``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("coarse", c_int64 * 3),
        ("axes", AxisMap * 3),
        ("scale", c_float * 3),
        ("values", c_void_p),
        ("lines", c_void_p),
        ("target", c_int64 * 3),
        ("offset", c_float),
    ]


class SimilarityJob(Structure):
    """See ``similarity_job``."""

    _fields_ = [
        ("field", CoarseField),
        ("directions", c_void_p),
        ("moving", c_void_p),
        ("spans", c_void_p),
        ("reach", c_void_p),
        ("floor", c_float),
        ("gradient", c_void_p),
        ("rows", c_void_p),
        ("totals", c_void_p),
        ("scratch", c_void_p),
        ("chunk", c_int64),
        ("threads", c_int64),
    ]


class WarpJob(Structure):
    """See ``warp_job``."""

    _fields_ = [
        ("field", CoarseField),
        ("image", c_void_p),
        ("out", c_void_p),
        ("channels", c_int64),
        ("last", c_int64),
        ("scratch", c_void_p),
        ("chunk", c_int64),
        ("threads", c_int64),
        ("spans", c_void_p),
    ]


class PointsJob(Structure):
    """See ``points_job``."""

    _fields_ = [
        ("image", c_void_p),
        ("shape", c_int64 * 3),
        ("channels", c_int64),
        ("at", c_void_p),
        ("count", c_int64),
        ("out", c_void_p),
        ("threads", c_int64),
    ]


class ShiftJob(Structure):
    """See ``shift_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("channels", c_int64),
        ("factor", c_int64),
        ("fixed", c_void_p),
        ("padded", c_void_p),
        ("scale", c_float),
        ("squared", c_int64),
        ("out", c_void_p),
        ("scratch", c_void_p),
    ]


class MatchJob(Structure):
    """See ``match_job``."""

    _fields_ = [
        ("logits", c_void_p),
        ("shape", c_int64 * 3),
        ("out", c_void_p),
        ("rows", c_int64),
        ("scratch", c_void_p),
    ]


class BlockMatchingJob(Structure):
    """See ``block_matching_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("reach", c_int64),
        ("radius", c_int64),
        ("count", c_int64),
        ("close", c_int64),
        ("ours", c_void_p),
        ("theirs", c_void_p),
        ("shares", c_void_p),
        ("steps", c_void_p),
        ("lengths", c_void_p),
        ("sharpness", c_float),
        ("out", c_void_p),
        ("chunk", c_int64),
        ("scratch", c_void_p),
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


class CorrelationJob(Structure):
    """See ``correlation_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("threads", c_int64),
        ("fixed", c_void_p),
        ("moved", c_void_p),
        ("weight", c_void_p),
        ("factor", c_float),
        ("gradient", c_void_p),
        ("work", c_void_p),
        ("totals", c_void_p),
        ("radius", c_int64),
        ("epsilon", c_float),
        ("chunk", c_int64),
        ("scratch", c_void_p),
        ("rows", c_void_p),
        ("strips", c_void_p),
        ("near", c_void_p),
    ]


class HistogramJob(Structure):
    """See ``histogram_job``."""

    _fields_ = [
        ("fixed", c_void_p),
        ("moved", c_void_p),
        ("weight", c_void_p),
        ("n", c_int64),
        ("bins", c_int64),
        ("parts", c_int64),
        ("counts", c_void_p),
        ("table", c_void_p),
        ("factor", c_float),
        ("gradient", c_void_p),
    ]


class LineMap(Structure):
    """Linear interpolation along an axis, as in ``c/grids.c``."""

    _fields_ = [(name, c_void_p) for name in ("below", "above", "t")]


class ResampleJob(Structure):
    """See ``resample_job``."""

    _fields_ = [
        ("values", c_void_p),
        ("strides", c_int64 * 3),
        ("size", c_int64),
        ("channels", c_int64),
        ("axes", LineMap * 3),
        ("shape", c_int64 * 3),
        ("same", c_int64),
        ("matrix", c_void_p),
        ("plane", c_void_p),
        ("steps", c_void_p),
        ("rounding", c_float),
        ("out", c_void_p),
        ("apart", c_int64),
        ("scratch", c_void_p),
        ("threads", c_int64),
    ]


class JacobianJob(Structure):
    """See ``jacobian_job``."""

    _fields_ = [
        ("field", c_void_p),
        ("shape", c_int64 * 3),
        ("base", c_float * 9),
        ("factor", c_float),
        ("out", c_void_p),
        ("threads", c_int64),
    ]


class InvertJob(Structure):
    """See ``invert_job``."""

    _fields_ = [
        ("field", c_void_p),
        ("source", c_int64 * 3),
        ("shape", c_int64 * 3),
        ("place", c_double * 12),
        ("scale", c_float * 9),
        ("iterations", c_int64),
        ("tolerance", c_float),
        ("slack", c_float),
        ("out", c_void_p),
        ("miss", c_void_p),
        ("threads", c_int64),
    ]


class ComposeJob(Structure):
    """See ``compose_job``."""

    _fields_ = [
        ("field", c_void_p),
        ("update", c_void_p),
        ("shape", c_int64 * 3),
        ("usual", c_float),
        ("most", c_float),
        ("near", c_int64),
        ("out", c_void_p),
        ("length", c_void_p),
        ("threads", c_int64),
    ]


class InformationJob(Structure):
    """See ``information_job``."""

    _fields_ = [
        ("shape", c_int64 * 3),
        ("points", c_int64),
        ("maps", c_int64),
        ("parts", c_int64),
        ("threads", c_int64),
        ("at", c_void_p),
        ("fixed", c_void_p),
        ("volume", c_void_p),
        ("excluded", c_void_p),
        ("needed", c_double),
        ("matrices", c_void_p),
        ("scores", c_void_p),
        ("slope", c_void_p),
        ("scratch", c_void_p),
    ]
