"""``python tests/peers`` writes docs/reference/other-tools.md anew, ``python tests/peers keep`` the files kept here.

Both want every tool: ``pip install fslpy surfa`` beside the packages for development.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path[:1] = [str(tests), str(tests / "helpers")]  # the folder of this package in place of the package itself
    from peers.keep import keep
    from peers.page import PAGE, page

    if sys.argv[1:] == ["keep"]:
        keep()
    else:
        PAGE.write_text(page(), encoding="utf-8")
