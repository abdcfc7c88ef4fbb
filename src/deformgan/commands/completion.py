"""``deformgan completion``: what makes a shell complete commands and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from deformgan.commands.console import Console, success
from deformgan.commands.options import Json, Messages

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a script that lets a shell complete commands and options.

    bash: deformgan completion bash > ~/.local/share/bash-completion/completions/deformgan. zsh: into a folder of $fpath as _deformgan. fish: into ~/.config/fish/completions/deformgan.fish.
    """  # noqa: E501 — the help page wraps its paragraphs itself

    shell: Annotated[tyro.conf.Positional[Shell], tyro.conf.arg(help_behavior_hint="")]
    """For which shell."""
    json: Json = False
    messages: Messages = field(default_factory=Messages)

    def run(self, console: Console) -> None:
        """Print it."""
        from deformgan.commands.main import completion_script

        text = completion_script(self.shell).rstrip()
        console.result(text, success({"shell": self.shell, "script": text}))
