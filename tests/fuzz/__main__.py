"""``python tests/fuzz --inputs 100000 --seed 1``: the command; see `fuzz.harness`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the folder of this package in place of the package itself
    from fuzz.harness import main

    sys.exit(main())
