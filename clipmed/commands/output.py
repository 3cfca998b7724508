"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmed.inputs import SkippedImage

RESEARCH_ONLY = "Research use only."


def print_json(value: Any) -> None:
    """Print one value as one line of JSON; NaN is refused."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str, caption: str = RESEARCH_ONLY
) -> None:
    """Print a table; cells may hold Rich's markup, so escape what comes from outside with `rich.markup.escape`."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(column, overflow="fold") for column in columns), title=title, caption=caption)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def finish(skipped: Sequence[SkippedImage], total: int) -> None:
    """End a command over images: where some were skipped, say so on standard error and exit with status 1."""
    if not skipped:
        return
    for image in skipped:
        print(f"skipped: {image.reason}", file=sys.stderr)
    print(f"{len(skipped)} of {total} images were skipped", file=sys.stderr)
    sys.exit(1)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:>{width}}  {value}")
