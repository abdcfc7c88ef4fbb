"""T as an ONNX file, for programs that run networks without PyTorch.

The graph takes the two working-grid images and gives the displacement in voxels of its own grid; what else a program
has to know is in the file's metadata. Every file is run once under ONNX Runtime and compared with PyTorch before it is
kept.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deformgan import __version__
from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import atomic
from deformgan.models.load import Model, shipped_models
from deformgan.networks.base import reduced
from deformgan.spatial.grid import Shape
from deformgan.spatial.native.use import without_kernels

OPSET = 20  # the first whose GridSample takes volumes
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE_VOXELS = 1e-2  # between ONNX Runtime and PyTorch, in fp32
_SMALLEST_HALVED = 1024  # elements; biases and constants stay fp32
_LICENCE = "Apache-2.0"  # of the shipped weights


class _Exported(nn.Module):
    """What `Model.predict` computes, as one module."""

    def __init__(self, network: nn.Module, reduction: int) -> None:
        super().__init__()
        self.network, self.reduction = network, reduction

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network(reduced(fixed, self.reduction), reduced(moving, self.reduction))


def export_onnx(model: Model, path: str | Path, *, shape: Shape | None = None, fp16: bool = False) -> dict[str, Any]:
    """Write T as ``path``, atomically, after a comparison with PyTorch on a seeded pair.

    Args:
        model: On any device; exported for fp32 inputs of (1, 1, D, H, W) in [0, 1].
        path: Ends in ``.onnx``; replaced if it is there.
        shape: Voxels (D, H, W) the graph is fixed to; default: the grid the network was trained on.
        fp16: Keep the weights in half precision: half the size. All is computed in fp32 as before.

    Returns:
        The metadata of the file (values are text), with ``max_difference_voxels``, a number, as measured.

    Raises:
        UsageError: The extra packages are missing, another ending, a shape the network does not take, no folder.
        InputError: The file cannot be written, or what it computes is not what PyTorch does.
    """
    path = Path(path)
    shape = _checked(model, path, shape)
    module = _Exported(copy.deepcopy(model.network).cpu().float(), model.reduction)
    module = module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    pair = tuple(torch.rand(1, 1, *shape, generator=generator) for _ in range(2))
    graph, expected = _traced(module, pair)
    if fp16:
        _halve_weights(graph)
    metadata = _metadata(model, shape, tuple(expected.shape[2:]), fp16)
    _annotate(graph, metadata)
    with atomic(path) as partial:
        partial.write_bytes(graph.SerializeToString())
        difference = _difference(partial, pair, expected)
        if not fp16 and not difference <= TOLERANCE_VOXELS:
            raise InputError(
                f"under ONNX Runtime the network is {difference:.2g} voxels off",
                "install the versions of torch, onnxscript and onnxruntime in constraints.txt",
            )
    return {**metadata, "max_difference_voxels": difference}


def _traced(module: nn.Module, pair: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
    """The graph of a module, and what PyTorch says of the pair."""
    with _one_quiet_thread(), torch.no_grad():
        # first of all: tables that the network keeps are to hold numbers, not the exporter's symbols
        with without_kernels():
            expected = module(*pair)
        program = torch.onnx.export(
            module,
            pair,
            input_names=["fixed", "moving"],
            output_names=["displacement"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto, expected


def _checked(model: Model, path: Path, shape: Shape | None) -> Shape:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"an export needs {', '.join(missing)}", "pip install 'deformgan[onnx]'")
    if path.suffix != ".onnx":
        raise UsageError(f"cannot write {path}: unknown ending", "use .onnx")
    shape = model.grid_shape if shape is None else shape
    factor = 2 * model.reduction
    if any(n < 16 or n > 512 or n % factor for n in shape):
        raise UsageError(
            f"a network of this kind takes no {shape} voxels",
            f"give three multiples of {factor} from 16 to 512",
        )
    return shape


@contextlib.contextmanager
def _one_quiet_thread() -> Iterator[None]:
    """With more threads `warp` cuts volumes into as many blocks, and the exporter would write these down."""
    threads, logger = torch.get_num_threads(), logging.getLogger("torch.onnx")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself
            yield
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)


def _metadata(model: Model, shape: Shape, own: tuple[int, ...], fp16: bool) -> dict[str, str]:
    ratio = [a / b for a, b in zip(shape, own, strict=True)]
    return {
        "name": Path(model.name).name,
        "deformgan": __version__,
        "licence": _LICENCE if model.name in shipped_models() else "as chosen by whoever trained the weights",
        "weights_sha256": model.sha256,
        "weights_precision": "fp16" if fp16 else "fp32",
        "network": json.dumps(model.config["network"]),
        "input_shape": json.dumps(list(shape)),
        "input_spacing_mm": json.dumps([model.spacing] * 3),
        "input_normalisation": "per image: background 0, 99.8 % quantile of the foreground 1, clipped to [0, 1]",
        "input_axes": "RAS+: first axis to the right, second to the front, third upwards",
        "output_shape": json.dumps(list(own)),
        "output_spacing_mm": json.dumps([model.spacing * r for r in ratio]),
        "output_units": "voxels of the output grid, which has the extent of the input; channel order is axis order",
        "output_direction": "pull-back, fixed to moving: moved(x) = moving(x + u(x))",
    }


def _annotate(graph: Any, metadata: dict[str, str]) -> None:
    graph.producer_name, graph.producer_version = "deformgan", __version__
    del graph.metadata_props[:]
    for key, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    for node in graph.graph.node:  # stack traces of the exporter name folders of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]


def _halve_weights(graph: Any) -> None:
    """Large fp32 constants become fp16 with a cast before their use, which runtimes do once, when they load."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else None
        if array is None or array.size < _SMALLEST_HALVED:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype("float16"), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _difference(path: Path, pair: tuple[Tensor, ...], expected: Tensor) -> float:
    """Largest difference of a component of the displacement, in voxels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = {name: image.numpy() for name, image in zip(("fixed", "moving"), pair, strict=True)}
    got = torch.from_numpy(session.run(None, inputs)[0])
    return float((got - expected).abs().max())
