"""``deformgan export``: T as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Force, Json, Messages, ModelName
from deformgan.output.folder import staged_files


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a network as ONNX, for programs without PyTorch.

    The file is compared with PyTorch under ONNX Runtime before it is kept. Grid, normalisation, units and direction are in its metadata. Needs the extra: pip install 'deformgan[onnx]'.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.onnx")]
    """The file to write."""
    model: ModelName = "t1-t2"
    shape: Annotated[
        tuple[int, int, int] | None, tyro.conf.arg(metavar="D H W", help_behavior_hint="(default: the trained grid)")
    ] = None
    """Voxels of the images."""
    fp16: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep the weights in half precision: half the size; computed in fp32 as before."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Export, compare, answer.

        Raises:
            UsageError: The extra is missing, FILE is in the way, or a shape that the network does not take.
            InputError: The weights are damaged, FILE cannot be written, or it does not compute what PyTorch does.
        """
        from deformgan.models.load import load_model
        from deformgan.models.onnx_export import export_onnx

        with staged_files([self.out], force=self.force) as (staged,), console.progress() as progress:
            progress("exporting")
            record = export_onnx(load_model(self.model), staged, shape=self.shape, fp16=self.fp16)
        line = f"{self.out}: within {record['max_difference_voxels']:.1e} voxels of PyTorch under ONNX Runtime"
        console.result(line, success({"out": str(self.out), **record}))
