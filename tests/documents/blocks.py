"""The documents' fenced blocks, and the commands that stand in running text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("python -m ", "clipmed ", "make ", "torchrun ")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S
)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `title` is the file that the page says it is."""

    page: str
    line: int
    language: str
    title: str
    body: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All documents, relative to the repository."""
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("dataset_builders/**/*.md")]
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def text(page: str) -> str:
    """A document's text."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a document, in order; what a block's page indents, such as in a list, is taken away."""
    found = []
    whole = text(page)
    for match in FENCE.finditer(whole):
        indent = len(match["indent"])
        body = "\n".join(line[indent:] for line in match["body"].splitlines()) + "\n"
        title = re.search(r'title="([^"]+)"', match["options"])
        line = whole.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match["language"], title[1] if title else "", body))
    return found


def shell(block: Block) -> str:
    """The commands of a block: all of a bash block, the lines behind `$ ` of a console one, else none."""
    if block.language in {"bash", "sh"}:
        return block.body
    lines, taking = [], False
    for line in block.body.splitlines() if block.language in {"console", "text"} else []:
        if line.startswith("$ ") or taking:
            lines.append(line.removeprefix("$ "))
            taking = line.endswith("\\")
    return "".join(f"{line}\n" for line in lines)


def inline_commands(page: str) -> Iterator[str]:
    """Commands in running text, such as `python -m train list`; not what has an ellipsis or alternatives in it."""
    for match in INLINE.finditer(FENCE.sub("", text(page))):
        if match[1].startswith(PROGRAMS) and not re.search(r"[…|]", match[1]):
            yield match[1]


def check_settings(block: Block, where: Path) -> None:
    """Read a YAML block by the loader that reads such a file; its folders are made where they are not there.

    Raises:
        ClipmedError: the file would be refused.
        AssertionError: no loader is known for it.
    """
    from dataset_builders.datasets import load_entry
    from dataset_builders.sources import load_sources
    from zeroshot_eval.suite_files import load_suite

    path = where / (block.title or "block.yaml")
    path.write_text(block.body, encoding="utf-8")
    keys = yaml.safe_load(block.body).keys()
    if "sources" in keys:
        for source in yaml.safe_load(block.body)["sources"]:
            (where / source.get("root", ".")).mkdir(parents=True, exist_ok=True)
            (where / source.get("config", {}).get("root", ".")).mkdir(parents=True, exist_ok=True)
        load_sources(str(path))
    elif "layout" in keys:
        load_entry(path)
    else:
        assert "tasks" in keys, f"{block.name}: no loader is known for a file with {', '.join(keys)}"
        load_suite(str(path))
