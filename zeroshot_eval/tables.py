"""Scores as tables for papers and pages: Markdown, and LaTeX for the booktabs package. Checkpoints are rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipmed.files import write_text
from zeroshot_eval.grid import Estimate, Grid, Line, number, span

MARKDOWN_FILE = "scores.md"
LATEX_FILE = "scores.tex"
LATEX_COLUMNS = 4  # tasks side by side that fit the width of a page; more go into further tables
DAGGERS = "†"
BOLD = (
    "Bold: better than every other checkpoint by a paired test over the same images, corrected for the number of "
    "tasks. A highest value that is not bold is not shown to be better."
)
INTERVALS = "Brackets: 95 % interval, bootstrap over groups. n: images."
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "−": r"$-$", "†": r"\textsuperscript{\textdagger}", "…": r"\dots{}", "·": r"\textperiodcentered{}",
    "\n": " ", "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}",
}  # fmt: skip
MARKDOWN_SPECIAL = {letter: "\\" + letter for letter in "\\`*_[]<>|~"} | {"\n": " "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: its title, its scores, and what else its caption says."""

    title: str
    grid: Grid
    note: str = ""


def write_tables(folder: Path, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write scores.md and scores.tex into a folder, atomically; return their paths."""
    paths = (folder / MARKDOWN_FILE, folder / LATEX_FILE)
    write_text(paths[0], markdown(title, sections))
    write_text(paths[1], latex(sections))
    return paths


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the tables as GitHub-flavoured Markdown."""
    parts = [f"# {escape_markdown(title)}", f"{INTERVALS} {BOLD}"]
    for section in sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts += [escape_markdown(section.note)] if section.note else []
        parts.append(_markdown_table(section.grid))
        parts += [f"- † {escape_markdown(text)}" for text in _footnotes(section.grid)]
    return "\n\n".join(parts) + "\n"


def latex(sections: Sequence[Section]) -> str:
    """Return the tables as LaTeX; they need booktabs and, with many tasks, continue in further tables."""
    tables = []
    for number_, section in enumerate(sections):
        grids = list(_slices(section.grid))
        for part, grid in enumerate(grids):
            title = section.title + (f" ({part + 1} of {len(grids)})" if len(grids) > 1 else "")
            tables.append(_latex_table(title, section.note, grid, f"tab:scores-{number_ + 1}-{part + 1}"))
    return "% \\usepackage{booktabs, textcomp}\n" + "\n".join(tables)


def escape_markdown(text: str) -> str:
    """Return a text that Markdown prints as it is, inside a table too."""
    return "".join(MARKDOWN_SPECIAL.get(letter, letter) for letter in text)


def escape_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(LATEX_SPECIAL.get(letter, letter) for letter in text)


def _markdown_table(grid: Grid) -> str:
    header = ["checkpoint"] + ["<br>".join(map(escape_markdown, _heading(line))) for line in grid.lines]
    rows = [_row(grid, place, escape_markdown, _markdown_cell) for place in range(len(grid.checkpoints))]
    ruler = ["---"] + ["---:"] * len(grid.lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


def _latex_table(title: str, note: str, grid: Grid, label: str) -> str:
    notes = "".join(f" † {text}." for text in _footnotes(grid))
    caption = escape_latex(f"{title}. {note + ' ' if note else ''}{INTERVALS} {BOLD}{notes}")
    header = [r"\textbf{checkpoint}", *(_stack(list(map(escape_latex, _heading(line)))) for line in grid.lines)]
    rows = [_row(grid, place, escape_latex, _latex_cell) for place in range(len(grid.checkpoints))]
    lines = [
        r"\begin{table*}[t]",
        r"\centering\footnotesize",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'c' * len(grid.lines)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _row(
    grid: Grid, place: int, escape: Callable[[str], str], cell: Callable[[Estimate, Line, bool], str]
) -> list[str]:
    cells = [escape(grid.checkpoints[place])]
    for line in grid.lines:
        estimate = line.estimates[place]
        cells.append(escape("–") if estimate is None else cell(estimate, line, line.best == place))
    return cells


def _markdown_cell(estimate: Estimate, line: Line, best: bool) -> str:
    value = number(estimate.value, line.metric)
    return f"{f'**{value}**' if best else value} [{span(estimate, line.metric)}]{_own_size(estimate, line)}"


def _latex_cell(estimate: Estimate, line: Line, best: bool) -> str:
    value = escape_latex(number(estimate.value, line.metric))
    interval = escape_latex(f"[{span(estimate, line.metric)}]{_own_size(estimate, line)}")
    return _stack([rf"\textbf{{{value}}}" if best else value, interval])


def _stack(lines: Sequence[str]) -> str:
    """Return lines one above the other in a cell; all but the first are small."""
    first, *more = lines
    return (
        r"\begin{tabular}[t]{@{}c@{}}"
        + r"\\".join([first, *(rf"{{\scriptsize {text}}}" for text in more)])
        + r"\end{tabular}"
    )


def _own_size(estimate: Estimate, line: Line) -> str:
    """Return the n of a cell where the line has no common one."""
    return f" n {estimate.n:,}" if len({each.n for each in line.known}) > 1 else ""


def _heading(line: Line) -> list[str]:
    chance = f", chance {number(line.chance, line.metric)}" if line.chance is not None else ""
    return [line.title + (DAGGERS if line.marks else ""), line.metric, f"n {line.sizes}{chance}"]


def _footnotes(grid: Grid) -> list[str]:
    return [f"{line.title}: {'; '.join(mark.said for mark in line.marks)}" for line in grid.lines if line.marks]


def _slices(grid: Grid) -> Iterator[Grid]:
    for start in range(0, len(grid.lines), LATEX_COLUMNS):
        yield Grid(checkpoints=grid.checkpoints, lines=grid.lines[start : start + LATEX_COLUMNS])
