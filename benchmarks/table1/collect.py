"""Put what training runs and evaluations have left, without pictures of patients, into this folder.

    python benchmarks/table1/collect.py RUNS EVALUATION [EVALUATION …]

writes training.json (for each run and stage: steps, seconds a step, peak memory, the last validation) and copies each
evaluation's results.json, table.md, table.tex and sweeps.json to NAME/, named as the evaluation's folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from deformgan.io.atomic import atomic
from deformgan.workshop.training.record import read_metrics

HERE = Path(__file__).resolve().parent
KEPT = ("results.json", "table.md", "table.tex", "sweeps.json")


def stages(run: Path) -> list[dict[str, Any]]:
    """What each stage of a run took and where it ended."""
    found = []
    for scale, rows in groupby(read_metrics(run), key=lambda row: row["scale"]):
        taken = list(rows)
        validated = [row for row in taken if "val_error" in row]
        last = validated[-1] if validated else {}
        found.append(
            {
                "scale": scale,
                "steps": len(taken),
                "seconds_a_step": round(taken[-1]["seconds"], 3),
                "peak_memory_mb": round(max(row["memory_mb"] for row in taken)),
                "validation": {name[4:]: round(value, 4) for name, value in last.items() if name.startswith("val_")},
            }
        )
    return found


def main() -> int:
    """Collect what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder that train.py wrote")
    parser.add_argument("evaluations", type=Path, nargs="+", help="folders that deformgan evaluate wrote")
    given = parser.parse_args()
    training = {run.name: stages(run) for run in sorted(given.runs.iterdir()) if (run / "metrics.jsonl").is_file()}
    with atomic(HERE / "training.json") as partial:
        partial.write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    for folder in given.evaluations:
        (HERE / folder.name).mkdir(exist_ok=True)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, HERE / folder.name / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
