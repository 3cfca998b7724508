"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:>{width}}  {value}")
