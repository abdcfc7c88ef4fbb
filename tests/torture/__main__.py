"""``python tests/torture [TIMES] [SEED]``: signals at random moments and full disks; ends with 1 where it broke."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "helpers")]

from torture.conditions import conditions  # noqa: E402 — after the path is set
from torture.harness import torture  # noqa: E402

if __name__ == "__main__":
    times, seed = map(int, [*sys.argv[1:3], *["200", "0"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as home:
        (signals := Path(home) / "signals").mkdir()
        (places := Path(home) / "places").mkdir()
        count, odd = torture(signals, times, seed), conditions(places)
    sys.stdout.write("\n".join([str(count), *count.broken, str(odd), *odd.broken]) + "\n")
    sys.exit(bool(count.broken or odd.broken))
