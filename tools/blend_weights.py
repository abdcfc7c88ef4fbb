"""Weights between where training started and where it ended: ``python tools/blend_weights.py START OUT RUN [RUN …]``.

OUT gets the start plus a share (``--share``) of the mean change of the runs, which began there and differ in their seed
(Wortsman et al. 2022: what fine-tuning gains is often had, and what it loses is not, a part of the way along). The
configuration and the generator are those of the run that ``--generator-of`` numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from deformgan.models.load import weights_folder

WEIGHTS, CONFIG, GENERATOR = "model.safetensors", "config.json", "generator.safetensors"


def main() -> int:
    """Blend what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", help="shipped weights by name, or a folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--generator-of", type=int, default=1, metavar="N", help="number of the run, from 1")
    parser.add_argument("--half", action="store_true", help="keep T in half precision")
    given = parser.parse_args()
    start = load_file(weights_folder(given.start) / WEIGHTS)
    ends = [load_file(run / WEIGHTS) for run in given.runs]
    if any({k: v.shape for k, v in end.items()} != {k: v.shape for k, v in start.items()} for end in ends):
        parser.error("the runs' networks are not the start's")
    kept = torch.float16 if given.half else torch.float32
    blended = {}
    for name, first in start.items():
        mean = torch.stack([end[name].double() for end in ends]).mean(0)
        blended[name] = (first.double() + given.share * (mean - first.double())).to(kept).contiguous()
    given.out.mkdir(parents=True, exist_ok=True)
    save_file(blended, given.out / WEIGHTS)
    source = given.runs[given.generator_of - 1]
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config["blended"] = {"start": given.start, "share": given.share, "runs": len(ends)}
    (given.out / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    if (source / GENERATOR).is_file():
        shutil.copyfile(source / GENERATOR, given.out / GENERATOR)
    return 0


if __name__ == "__main__":
    sys.exit(main())
