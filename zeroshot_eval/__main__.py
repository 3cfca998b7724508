"""Command line: python -m zeroshot_eval CHECKPOINT SUITE --sets SET … --out DIR."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clipmed.configuration import parse_cli
from clipmed.errors import ClipmedError
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate, write_scores
from zeroshot_eval.report import HEADLINES, METRIC_NAMES, write_report
from zeroshot_eval.scoring import Score
from zeroshot_eval.suite import MIXED
from zeroshot_eval.suite_files import suite_names

DESCRIPTION = """Score a checkpoint zero-shot: classification and retrieval, each figure with its n, its 95 % interval
and chance. Images are embedded once and kept in a cache. Writes scores.json, report.html and config.yaml."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one evaluation; errors of the input go to standard error with exit status 1."""
    config = parse_cli(
        EvalConfig,
        sys.argv[1:] if args is None else args,
        default=None,
        prog="python -m zeroshot_eval",
        description=f"{DESCRIPTION} Suites: {', '.join(suite_names())}.",
    )
    try:
        evaluation = evaluate(config)
        write_scores(evaluation)
        report = write_report(evaluation)
    except ClipmedError as error:
        sys.exit(f"zeroshot_eval: {error}")
    _print_table(evaluation)
    print(f"report: {report}")


def _print_table(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    suite = evaluation.suite
    warning = "phantoms: synthetic images, no medical meaning" if suite.phantom else "research use only"
    table = Table(title=suite.title, caption=f"{warning}; intervals: 95 %, over groups; every score is in the report")
    for name in ("score", "value", "interval", "chance", "n"):
        table.add_column(name, justify="left" if name == "score" else "right", no_wrap=name != "score")
    for name, row in _headlines(evaluation.rows):
        table.add_row(name, *_cells(row))
    console = Console()
    console.print(table)
    for skipped in evaluation.skipped:
        console.print(f"not scored: {skipped.task}: {skipped.reason}", style="yellow")


def _headlines(rows: Sequence[Score]) -> list[tuple[str, Score]]:
    """Return the scores that the terminal shows, with their names: averages, tasks that are in none, recall at 5."""
    shown = [
        (f"overall {METRIC_NAMES[row.metric]}", row)
        for row in rows
        if row.level == "overall" and row.metric in HEADLINES
    ]
    accuracies = [row for row in rows if row.metric == "accuracy"]
    shown += [(f"{row.modality} accuracy", row) for row in accuracies if row.level == "modality"]
    shown += [
        (f"{'held out' if row.held_out else 'mixed modalities'}: {row.task} accuracy", row)
        for row in accuracies
        if row.level == "task" and (row.held_out or row.modality == MIXED)
    ]
    recalls = [row for row in rows if row.metric.endswith("/recall@5")]
    return shown + [(f"{row.task} {row.metric.replace('/', ' ').replace('_', ' ')}", row) for row in recalls]


def _cells(row: Score) -> tuple[str, ...]:
    bounds = "-" if row.low is None or row.high is None else f"{row.low:.3f} … {row.high:.3f}"
    return f"{row.value:.3f}", bounds, f"{row.chance:.3f}", str(row.n)


if __name__ == "__main__":
    main()
