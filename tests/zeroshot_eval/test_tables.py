"""Tables for papers: complete, escaped, and bold only where a test says so."""

import re
from pathlib import Path

import pytest

from tests.zeroshot_eval.test_charts import estimate, line
from zeroshot_eval.grid import Chip, Grid
from zeroshot_eval.tables import Section, escape_latex, latex, markdown, write_tables


@pytest.fixture
def grid() -> Grid:
    return Grid(
        checkpoints=("base_16", "[tuned] 50 % | A&B"),
        lines=(
            line("bleeding", estimate(0.55), estimate(0.75), best=1),
            line("tumour", estimate(0.25, chance=0.25), None, marks=(Chip(text="3 images in training"),)),
            line("grades", estimate(0.5, n=10), estimate(0.9, n=12, low=None), metric="quadratic kappa"),
        ),
    )


def table_of(text: str) -> list[list[str]]:
    rows = [row for row in text.splitlines() if row.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_markdown_has_every_score_with_interval_n_and_chance(grid: Grid):
    text = markdown("Suite *x*", [Section(title="By task", grid=grid, note="Research use.")])
    header, _, base, tuned = table_of(text)
    assert header == [
        "checkpoint",
        "bleeding<br>balanced accuracy<br>n 142, chance 0.500",
        "tumour†<br>balanced accuracy<br>n 142, chance 0.250",
        "grades<br>quadratic kappa<br>n 10 / 12, chance 0.500",
    ]
    assert base == [r"base\_16", "0.550 [0.450 – 0.650]", "0.250 [0.150 – 0.350]", "0.500 [0.400 – 0.600] n 10"]
    assert tuned == [r"\[tuned\] 50 % \| A&B", "**0.750** [0.650 – 0.850]", "–", "0.900 [–] n 12"]
    assert r"# Suite \*x\*" in text
    assert "- † tumour: 3 images in training" in text
    assert "Research use." in text


def test_only_a_paired_test_makes_bold(grid: Grid):
    text = markdown("x", [Section(title="By task", grid=grid)])
    assert re.findall(r"\*\*(.*?)\*\*", text) == ["0.750"]
    assert re.findall(r"\\textbf\{([^}]*)\}", latex([Section(title="t", grid=grid)])) == ["checkpoint", "0.750"]


def test_latex_escapes_and_balances(grid: Grid):
    text = latex([Section(title="100 % of A_B", grid=grid)])
    assert r"\caption{100 \% of A\_B." in text
    assert r"{[}tuned{]} 50 \% \textbar{} A\&B & " in text
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin") == text.count(r"\end")
    assert r"\toprule" in text
    (body,) = re.findall(r"\\midrule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    assert [len(re.findall(r"(?<!\\)&", row)) for row in body.splitlines()] == [3, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\\b", r"a\textbackslash{}b"),
        ("50% {x}", r"50\% \{x\}"),
        ("−0.1 – 0.2", r"$-$0.1 -- 0.2"),
        ("a\nb", "a b"),
        ('"x"', "''x''"),
    ],
)
def test_latex_special_letters(text: str, expected: str):
    assert escape_latex(text) == expected


def test_many_tasks_continue_in_further_tables():
    lines = tuple(line(f"task {number}", estimate(0.6)) for number in range(12))
    text = latex([Section(title="All", grid=Grid(checkpoints=("a",), lines=lines))])
    assert re.findall(r"All \((\d) of 3\)", text) == ["1", "2", "3"]
    assert [f"task {number}" in text for number in range(12)] == [True] * 12
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 3


def test_files_are_written_alike_twice(grid: Grid, tmp_path: Path):
    first = [path.read_bytes() for path in write_tables(tmp_path, "Suite", [Section(title="All", grid=grid)])]
    again = [path.read_bytes() for path in write_tables(tmp_path, "Suite", [Section(title="All", grid=grid)])]
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.md", "scores.tex"]
