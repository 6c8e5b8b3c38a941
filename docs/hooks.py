# SPDX-License-Identifier: GPL-2.0-only
"""Hooks of mkdocs: the command reference, generated from the parsers of the command line."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mkdocs.structure.files import File, Files

from harness import cli

PAGE = "commands.md"
#: Columns of the help texts.
WIDTH = "92"


def on_files(files: Files, config: Any) -> Files:
    """Add the page of commands to the site."""
    files.append(File.generated(config, PAGE, content=commands_page()))
    return files


def commands_page() -> str:
    """The help of every command as Markdown."""
    os.environ["COLUMNS"] = WIDTH  # argparse takes the width of the terminal from it
    top = cli.parser()
    parts = ["# Commands", "", *_block(top.format_help())]
    for name, command in subcommands(top).items():
        parts += ["", f"## {name}", "", *_block(command.format_help())]
    return "\n".join(parts) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _block(text: str) -> list[str]:
    return ["```text", text.rstrip(), "```"]
