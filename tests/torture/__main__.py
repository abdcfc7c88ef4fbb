"""``python tests/torture [TIMES] [SEED]``: signals at random moments; ends with 1 where something was broken."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "helpers")]

from torture.harness import torture  # noqa: E402 — after the path is set

if __name__ == "__main__":
    times, seed = map(int, [*sys.argv[1:3], *["200", "0"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as home:
        count = torture(Path(home), times, seed)
    sys.stdout.write("\n".join([str(count), *count.broken]) + "\n")
    sys.exit(bool(count.broken))
