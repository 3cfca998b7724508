"""Hooks of the site: links out of the documents lead to the repository; references of commands are their `--help`."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import posixpath
import re
import runpy
import sys
from typing import Any

SOURCES = "https://github.com/clipmed/clipmed/blob/main/"
LINK = re.compile(r"\]\(((?:\.\./)+[\w./-]*)")
COMMANDS = re.compile(r"^<!-- commands: (.+?) -->$", re.MULTILINE)
WIDTH = "92"
ONE_TEXT = "python -m train"  # its help explains its commands
TABLES = {  # a program: the modules whose COMMANDS name its commands
    "clipmed": "clipmed.__main__",
    "python -m dataset_builders": "dataset_builders.__main__",
    "python -m dataset_builders pmc": "dataset_builders.pmc.commands",
    "python -m dataset_builders captions": "dataset_builders.captions.commands",
    "python -m dataset_builders kinds": "dataset_builders.figures.kind_commands",
    "python -m train": "train.__main__",
    "python -m shards": "shards.__main__",
    "python -m zeroshot_eval": "zeroshot_eval.__main__",
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a document, which a repository's host shows as it is, into a page."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))
    markdown = LINK.sub(lambda match: _outward(match, folder), markdown)
    return COMMANDS.sub(lambda match: reference(match[1]), markdown)


def _outward(match: re.Match[str], folder: str) -> str:
    """Return a link to the repository's own page of a file, or the link as it is where it stays among the documents."""
    path = posixpath.normpath(posixpath.join(folder, match[1]))
    return match[0] if path.startswith("docs/") else f"]({SOURCES}{path}"


def reference(program: str) -> str:
    """Return the help of a program and of each of its commands, as Markdown."""
    parts = [f"## {program}\n", _block(program)]
    for name in commands(program) if program != ONE_TEXT else ():
        parts += [f"### {program.removeprefix('python -m ')} {name}\n", _block(f"{program} {name}")]
    return "\n".join(parts)


def commands(program: str) -> list[str]:
    """Return the names of a program's commands."""
    table = TABLES.get(program)
    return list(importlib.import_module(table).COMMANDS) if table else []


def help_text(command: str) -> str:
    """Return what `COMMAND --help` prints, at the width of a page."""
    words = command.removeprefix("python -m ").split()
    printed = io.StringIO()
    arguments, columns = sys.argv, os.environ.get("COLUMNS", "")
    sys.argv, os.environ["COLUMNS"] = [*words, "--help"], WIDTH
    sys.modules.pop(f"{words[0]}.__main__", None)  # it runs anew, and says so where it was imported before
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        sys.argv, os.environ["COLUMNS"] = arguments, columns
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()).strip()


def _block(command: str) -> str:
    return f"```text\n{help_text(command)}\n```\n"
