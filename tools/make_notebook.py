"""Make the notebooks of docs/tutorials from their pages, and with --pictures the pictures: one text, two forms.

    python tools/make_notebook.py [--pictures]

Python blocks become code cells and everything else text; a picture's line stands for what the block before it shows,
and is left out of the notebook.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
PAGES = (TUTORIALS / "register.md", TUTORIALS / "cohort.md")
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\((images/[^)]+)\)\n", re.MULTILINE)
MARKER = re.compile(r"^<!--.*?-->\n", re.MULTILINE)


def notebook(page: str) -> NotebookNode:
    """The notebook, its cells without outputs and numbered, so that one page always gives one file."""
    made = jupytext.reads(MARKER.sub("", PICTURE.sub("", page)), "md")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    return made


def as_text(page: str) -> str:
    """The notebook as its file holds it."""
    return nbformat.writes(notebook(page)) + "\n"


def draw(page: str) -> None:
    """Run the blocks in a folder of their own and save what they show as the page's pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block in BLOCK.finditer(page):
                exec(compile(block.group(1), str(TUTORIALS), "exec"), names)
                if picture := PICTURE.match(page[block.end() :].lstrip("\n")):
                    target = TUTORIALS / picture.group(1)
                    target.parent.mkdir(exist_ok=True)
                    plt.gcf().savefig(target, dpi=80, bbox_inches="tight", metadata={"Software": None})
                plt.close("all")
        finally:
            os.chdir(before)


def main() -> None:
    """Write the notebooks, and the pictures if they are asked for."""
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        path.with_suffix(".ipynb").write_text(as_text(page), encoding="utf-8")
        if "--pictures" in sys.argv[1:] and PICTURE.search(page):
            draw(page)


if __name__ == "__main__":
    main()
