"""Rows of text as a table of Markdown and of the terminal: what comparisons, gates and audits print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zeroshot_eval.grid import number, signed
from zeroshot_eval.tables import escape_markdown

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table: its title, the names of its columns, its rows, and what stands beneath it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the table as GitHub-flavoured Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        cells = [[text if at == 1 else escape_markdown(text) for text in line] for at, line in enumerate(lines)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in cells)
        return "\n\n".join([f"## {escape_markdown(self.title)}", table, *map(escape_markdown, self.notes)]) + "\n"

    def rich(self) -> Table:
        """Return the table for a terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.title), caption=escape("\n".join(self.notes)) or None)
        for at, name in enumerate(self.columns):
            table.add_column(name, justify="right" if at else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table


def bounds(low: float | None, high: float | None, *, difference: bool = False) -> str:
    """Return an interval in words, or a dash."""
    spoken = signed if difference else number
    return "–" if low is None or high is None else f"{spoken(low)} … {spoken(high)}"


def p_text(value: float | None) -> str:
    """Return a p-value as papers print it, or a dash."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def joined(tables: Sequence[Cells]) -> str:
    """Return several tables as one Markdown text."""
    return "\n".join(table.markdown() for table in tables)
