"""``python -m deformgan`` is the ``deformgan`` command."""

import sys

from deformgan.cli import main

if __name__ == "__main__":
    sys.exit(main())
