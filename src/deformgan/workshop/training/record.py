"""What a run says of itself as it goes: numbers of every step, sample pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from torch import Tensor, nn

from deformgan.io.atomic import open_to_append

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]  # the step, their number, the latest metrics


class Record:
    """metrics.jsonl always; TensorBoard where it is installed; sample pictures.

    Args:
        out: Folder of the run.
        active: Whether this process writes: one of several does.
    """

    def __init__(self, out: Path, active: bool) -> None:
        self.active, self.out = active, out
        self.board = None
        if not active:
            return
        out.mkdir(parents=True, exist_ok=True)
        self.lines = open_to_append(out / "metrics.jsonl")
        _end_last_line(self.lines)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("TensorBoard is not installed; metrics go to metrics.jsonl alone")
        else:
            self.board = SummaryWriter(str(out / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a step's numbers."""
        if not self.active:
            return
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        self.lines.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def picture(self, network: nn.Module, pairs: list[dict[str, Tensor]], scale: float, step: int) -> None:
        """Fixed, moving, moved and true slices of the first three validation pairs, one PNG a pass."""
        from deformgan.workshop.training.samples import save_samples

        if self.active:
            save_samples(self.out / "samples" / f"step-{step:06d}.png", network, pairs[:3], scale)

    def close(self) -> None:
        """End the files."""
        if self.active:
            self.lines.close()
            if self.board is not None:
                self.board.close()


def _end_last_line(lines: TextIO) -> None:
    """A run that was killed may have left half a line, which the next would go on."""
    lines.seek(0)
    if (text := lines.read()) and not text.endswith("\n"):
        lines.write("\n")


def read_metrics(out: str | Path) -> Iterator[dict[str, float]]:
    """The rows of a run's metrics.jsonl; a row written twice around a resume is given as it was written last.

    A row that was cut off when the run was killed is left out.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[int(row["step"])] = row
    return iter(rows[k] for k in sorted(rows))
