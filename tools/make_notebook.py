"""Make the notebooks of docs/tutorials from their pages, and with --pictures the pictures: one text, two forms.

    python tools/make_notebook.py [--pictures]

Python blocks become code cells and everything else text; a picture's line stands for what the block before it shows,
and is left out of the notebook.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
PAGES = (TUTORIALS / "register.md", TUTORIALS / "cohort.md")
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\((images/[^)]+)\)\n", re.MULTILINE)
MARKER = re.compile(r"^<!--.*?-->\n", re.MULTILINE)


def cells(page: str) -> list[tuple[str, str]]:
    """Kind (``code`` or ``markdown``) and source of each cell, in order."""
    found, end = [], 0
    for block in [*BLOCK.finditer(page), None]:
        text = page[end : block.start() if block else len(page)]
        text = MARKER.sub("", PICTURE.sub("", text)).strip()
        if text:
            found.append(("markdown", text))
        if block:
            found.append(("code", block.group(1).strip()))
            end = block.end()
    return found


def notebook(page: str) -> dict[str, Any]:
    """The notebook (nbformat 4.5), its cells without outputs."""
    made = []
    for number, (kind, source) in enumerate(cells(page)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell | {"source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def as_text(page: str) -> str:
    """The notebook as its file holds it."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


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
