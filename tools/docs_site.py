"""Hooks of the documentation site (mkdocs.yml): a page of every command's options, and pages that ask for nothing.

The theme takes the script that makes the search work from a disk from the web; here it comes from docs/assets.
"""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from typing import TYPE_CHECKING

from deformgan.commands.main import COMMANDS, main

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PAGE = "reference/options.md"
WIDTH = 100
SHIM = "https://unpkg.com/iframe-worker/shim"
OWN_SHIM = "assets/iframe-worker.js"
INTRODUCTION = """# Options of each command

Made from the commands themselves: what `deformgan COMMAND --help` prints. What the commands have in common is
[on a page of its own](command.md).
"""


def help_of(command: str) -> str:
    """What ``deformgan COMMAND --help`` prints on a terminal of `WIDTH` columns, its paragraphs wrapped."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            if main([command, "--help"]):
                raise RuntimeError(f"deformgan {command} --help failed")
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    lines = [line.rstrip() for line in text.getvalue().strip().splitlines()]
    return "\n".join("\n".join(textwrap.wrap(line, WIDTH)) if len(line) > WIDTH else line for line in lines)


def options_page() -> str:
    """The page as Markdown, one section a command."""
    sections = [f"## {command}\n\n```text\n{help_of(command)}\n```\n" for command in COMMANDS]
    return "\n".join([INTRODUCTION, *sections])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to those that lie in docs/."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=options_page()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Point the page at our copy of the script."""
    return output.replace(SHIM, "../" * page.url.count("/") + OWN_SHIM)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for pages that are no documents (404.html)."""
    return output_content.replace(SHIM, OWN_SHIM)
