"""Command line: python -m zeroshot_eval CHECKPOINT SUITE --sets SET … --out DIR."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clipmed.configuration import parse_cli
from clipmed.errors import ClipmedError
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate, write_scores
from zeroshot_eval.report import write_report
from zeroshot_eval.scoring import Score
from zeroshot_eval.suite import suite_names

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
    table = Table(title=suite.title, caption=f"{warning}; 95 % intervals over groups")
    table.add_column("task")
    for name in ("metric", "n", "groups", "value", "95 % interval", "chance", "x chance"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for row in evaluation.rows:
        if row.metric in {"accuracy", "auroc"} or row.metric.endswith("recall@5"):
            table.add_row(*_cells(row))
    console = Console()
    console.print(table)
    for skipped in evaluation.skipped:
        console.print(f"not scored: {skipped.task}: {skipped.reason}", style="yellow")


def _cells(row: Score) -> tuple[str, ...]:
    names = {"task": row.task, "dataset": f"dataset {row.dataset}", "modality": f"modality {row.modality}"}
    name = names.get(row.level, "overall") or ""
    bounds = "-" if row.low is None or row.high is None else f"{row.low:.3f} … {row.high:.3f}"
    times = f"{row.value / row.chance:.1f}" if row.chance else "-"
    shown = f"{name} (held out)" if row.held_out else name
    return shown, row.metric, str(row.n), str(row.groups), f"{row.value:.3f}", bounds, f"{row.chance:.3f}", times


if __name__ == "__main__":
    main()
