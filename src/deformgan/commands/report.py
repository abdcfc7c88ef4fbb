"""``deformgan report``: the page of a registration again, from its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Json, Messages


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html again from a folder of results, without registering again."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder that register wrote."""
    light: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Leave the interactive viewer out; a small file."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Check the files, draw, answer."""
        from deformgan.output.report.rebuild import rebuild_report

        path = rebuild_report(self.out, viewer=not self.light)
        console.result(str(path), success({"report": str(path)}))
