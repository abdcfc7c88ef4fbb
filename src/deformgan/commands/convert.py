"""``deformgan convert``: a transform from one tool's format to another's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Force, Json, Messages, Threads
from deformgan.commands.transforms import INVERSE, FileFormat, Geometry, load
from deformgan.errors import UsageError
from deformgan.output.folder import staged_files
from deformgan.transforms.formats import bids

if TYPE_CHECKING:
    from deformgan.spatial.grid import Grid

Name = Annotated[
    FileFormat | None,
    tyro.conf.arg(metavar=f"{{{','.join(get_args(FileFormat))}}}", help_behavior_hint="(default: by the file)"),
]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a transform for another tool: ITK, ANTs, Slicer, FSL or FreeSurfer.

    The endings say from what to what. Fields: .nii.gz (ITK, or FSL with --to-format fsl), .h5 (ITK composite), .mgz (FreeSurfer). Affines: .txt and .tfm (ITK), .mat (--to-format itk for ANTs, fsl for FLIRT), .lta (FreeSurfer). FSL and FreeSurfer want to know the two images.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN[,inverse]", help_behavior_hint="")]
    """The transform; ",inverse" after the name turns it round."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
    """The file to write."""
    fixed: Geometry = None
    """The image that the transform brings others to; fields get its grid. Only its geometry is read."""
    moving: Geometry = None
    """The image that is brought there."""
    from_format: Name = None
    """What IN is, where it does not say so itself (4-D .nii.gz of FSL)."""
    to_format: Name = None
    """What OUT becomes, where its ending leaves a choice."""
    affine_part: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Write the affine map nearest to the whole one."""
    force: Force = False
    json: Json = False
    messages: Messages = field(default_factory=Messages)
    compute: Threads = field(default_factory=Threads)

    def run(self, console: Console) -> None:
        """Read, write, answer.

        Raises:
            UsageError: A geometry is missing, OUT cannot hold a field, or BIDS names that contradict each other.
            InputError: IN cannot be used.
        """
        from deformgan.transforms.formats import exchange

        kind = exchange.target(self.target, self.to_format).name
        spaces = self._spaces()
        self.compute.set_threads()
        with staged_files([self.target], force=self.force) as (staged,):
            fixed, moving = self._grid(self.fixed), self._grid(self.moving)
            transform = load(self.source, {"fixed": lambda: fixed, "moving": lambda: moving}, self.from_format)
            if self.affine_part:
                transform = transform.nearest_affine(fixed)
            transform.save(staged, fixed, moving=moving, file_format=self.to_format)
        of = "affine" if transform.disp_mm is None else "field"
        if transform.residual_mm is not None:
            console.note(f"the field was inverted to {transform.residual_mm:.3f} mm")
        line = f"{self.target}: {of}, {kind}" + (f", from {spaces['from']} to {spaces['to']}" if spaces else "")
        console.result(line, success({"out": str(self.target), "format": kind, "map": of, **spaces}))

    @staticmethod
    def _grid(image: Path | None) -> Grid | None:
        from deformgan.io.image import load_grid

        return None if image is None else load_grid(image)

    def _spaces(self) -> dict[str, Any]:
        """What a BIDS name of OUT promises; it should not be the opposite of what IN's name says."""
        if not bids.is_xfm(self.target):
            return {}
        out = bids.parse(self.target)
        path = self.source.removesuffix(INVERSE)
        if bids.is_xfm(path):
            name = bids.parse(path)
            name = name.inverse() if self.source.endswith(INVERSE) else name
            if (name.source, name.target) == (out.target, out.source):
                hint = f"convert {path}{'' if self.source.endswith(INVERSE) else INVERSE}, or change the name"
                raise UsageError(f"{self.target} is named the other way round from {self.source}", hint)
        return {"from": out.source, "to": out.target}
