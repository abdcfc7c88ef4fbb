"""``python tests/bad_input`` writes docs/reference/bad-input.md anew."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the folder of this package in place of the package itself
    from bad_input.page import PAGE, page

    PAGE.write_text(page(), encoding="utf-8")
