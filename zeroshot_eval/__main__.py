"""Command line: python -m zeroshot_eval score | list | show | …"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from clipmed.deferral import deferred
from clipmed.errors import ClipmedError, ConfigError
from clipmed.standard_output import reader_may_leave
from zeroshot_eval.evaluation import EvalConfig, Evaluation
from zeroshot_eval.suite import MIXED, ClassificationTask, Suite
from zeroshot_eval.suite_files import load_suite, suite_names

if TYPE_CHECKING:
    from zeroshot_eval.cells import Cells
    from zeroshot_eval.scoring import Score
    from zeroshot_eval.sweeps import Curve

Command = tuple[type[Any], Callable[[Any], int]]

DESCRIPTION = """Score checkpoints zero-shot: classification, retrieval, probes and questions; compare; hold to a bar.

  python -m zeroshot_eval score build/run/model --suite phantoms --sets build/demo/set --out build/scores
  python -m zeroshot_eval score biomedclip build/run/model --suite real --sets build/real/set --out build/scores
  python -m zeroshot_eval score build/run/model --sets FOLDER --out build/scores     asks what the data bring along
  python -m zeroshot_eval compare build/base build/new                                paired differences of two folders
  python -m zeroshot_eval gate build/new --min modality.ct=0.6 --no-worse-than build/base   exit status 1 below the bar
  python -m zeroshot_eval audit build/scores --train build/real/set                   test images in the training data
  python -m zeroshot_eval sweep BASE TUNED --suite real --sets SET --out build/sweep  interpolations (WiSE-FT)
  python -m zeroshot_eval report build/scores                                         draws the report again
  python -m zeroshot_eval list                                                        suites, tasks and classes
  python -m zeroshot_eval show real                                                   every prompt of a suite
  python -m zeroshot_eval models                                                      published models by flag

Images are embedded once for all tasks and checkpoints, and kept: scoring again takes seconds. Every command explains
itself with --help. Exit status: 0 done, 1 failed, 2 wrong usage."""


SCORE_HELP = """Score checkpoints on suites: every figure with its n, its 95 % interval and chance.

  python -m zeroshot_eval score build/run/model --suite phantoms --sets build/demo/set --out build/scores
  python -m zeroshot_eval score biomedclip medsiglip build/run/model --suite real --sets build/real/set --out OUT
  python -m zeroshot_eval score build/run/model --sets data/wds_pcam data/skin.csv data/xrays --out OUT

A checkpoint is a folder (a run's model/), hf-hub:org/name, OpenCLIP's MODEL:TAG or the flag of a published model. Sets
are shard sets (folders or URLs), CLIP_benchmark's WebDatasets, folders with one folder a class, and tables with a
column path. Without --suite the data are asked by their own classes and captions.

OUT gets scores.json and scores.parquet, every answer in predictions/, report.html, and the embeddings: another
checkpoint, other prompts or another suite over the same images embed only what is new."""


@dataclass(frozen=True, kw_only=True)
class List:
    """List suites with their tasks, classes and what each task is judged by."""

    suites: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """names or .yaml files; all that ship with the package if not given"""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print every task of a suite with all prompts of all classes."""

    suite: Annotated[str, tyro.conf.Positional]
    """a name that `list` shows, or the path of a .yaml file"""


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the published models that go by a flag, with licence, access and training data."""


def score(config: EvalConfig) -> int:
    """Score, write the folder, print the headlines."""
    from zeroshot_eval.evaluation import evaluate
    from zeroshot_eval.score_files import write_scores

    evaluation = evaluate(config)
    scores = write_scores(evaluation)
    _print_table(evaluation)
    print(f"scores: {scores}")
    _report(evaluation, config)
    return 0


def list_suites(command: List) -> int:
    """Print the suites."""
    from rich.table import Table

    for suite in _suites(command.suites):
        table = Table(
            "task", "kind", "modality", "main metric", "classes", "tags", title=f"{suite.name}: {suite.title}"
        )
        for task in suite.all_tasks():
            classes = getattr(task, "classes", ())
            kind = getattr(task, "kind", type(task).__name__.removesuffix("Task").lower())
            table.add_row(
                task.name, kind, task.modality or MIXED, task.main, ", ".join(classes) or "-", ", ".join(task.tags)
            )
        _console().print(table)
    return 0


def models(_command: Models) -> int:
    """Print the published models."""
    from zeroshot_eval.baselines import baselines_table

    _console().print(baselines_table())
    return 0


def show(command: Show) -> int:
    """Print a suite's prompts."""
    suite = load_suite(command.suite)
    print(f"{suite.name}: {suite.title}\n{suite.note}".rstrip())
    for task in suite.all_tasks():
        print(f"\n{task.name} ({task.modality or MIXED}, judged by {task.main}){f': {task.note}' if task.note else ''}")
        if isinstance(task, ClassificationTask):
            _print_prompts(task)
    return 0


def _print_prompts(task: ClassificationTask) -> None:
    for class_id, prompts in task.all_prompts().items():
        print(f"  {class_id}")
        denials = [f"not: {prompt}" for prompt in task.negative_prompts.get(class_id, ())]
        for prompt in (*prompts, *denials):
            print(f"    {prompt}")


def _compare_command() -> Command:
    from zeroshot_eval.comparison import CompareConfig, run_compare
    from zeroshot_eval.comparison_tables import comparison_tables, write_comparison

    def run(config: CompareConfig) -> int:
        comparison = run_compare(config)
        _print_cells(comparison_tables(comparison))
        if config.out is not None:
            print(f"comparison: {write_comparison(comparison, config.out)}")
        return 0

    return CompareConfig, run


def _gate_command() -> Command:
    from zeroshot_eval.gate import GateConfig, run_gate
    from zeroshot_eval.gate_files import gate_table, write_junit, write_markdown

    def run(config: GateConfig) -> int:
        result = run_gate(config)
        _print_cells([gate_table(result)])
        if config.junit is not None:
            write_junit(result, config.junit)
        if config.markdown is not None:
            write_markdown(result, config.markdown)
        return 0 if result.passed else 1

    return GateConfig, run


def _audit_command() -> Command:
    from zeroshot_eval.leakage import AuditConfig, run_audit
    from zeroshot_eval.leakage_files import audit_table, write_audit

    def run(config: AuditConfig) -> int:
        audit = run_audit(config)
        _print_cells([audit_table(audit)])
        print(f"audit: {write_audit(audit, config.folder)}   (the report shows it: python -m zeroshot_eval report …)")
        return 0

    return AuditConfig, run


def _sweep_command() -> Command:
    from zeroshot_eval.sweeps import SweepConfig, sweep

    return SweepConfig, lambda config: _swept(sweep(config), config)


def _curve_command() -> Command:
    from zeroshot_eval.sweeps import RunCurveConfig, run_curve

    return RunCurveConfig, lambda config: _swept(run_curve(config), config)


def _soup_command() -> Command:
    from zeroshot_eval.sweeps import SoupConfig, make_soup

    def run(config: SoupConfig) -> int:
        soup = make_soup(config)
        print(f"soup of {len(soup.ingredients)} of {len(config.checkpoints)} checkpoints: {soup.model}")
        return 0

    return SoupConfig, run


def _report_command() -> Command:
    from zeroshot_eval.report import ReportConfig, redraw

    def run(config: ReportConfig) -> int:
        print(f"report: {redraw(config)}")
        return 0

    return ReportConfig, run


def _swept(curve: Curve, config: EvalConfig) -> int:
    """Print the scores along a line of checkpoints."""
    _print_table(curve.evaluation)
    print(f"curve: {config.out / 'curve.json'}")
    _report(curve.evaluation, config)
    return 0


# A command's modules are imported when it is called: a warm run of one takes about a second.
COMMANDS: dict[str, Callable[[], Command]] = {
    "score": lambda: (EvalConfig, score),
    "compare": _compare_command,
    "gate": _gate_command,
    "audit": _audit_command,
    "sweep": _sweep_command,
    "curve": _curve_command,
    "soup": _soup_command,
    "report": _report_command,
    "list": lambda: (List, list_suites),
    "show": lambda: (Show, show),
    "models": lambda: (Models, models),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors of the input go to standard error."""
    # Read when torch is loaded, which is later: threads that wait sleep, or decoding and the model fight for cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if args is None else args)
    try:
        with reader_may_leave():
            return _run(words)
    except ConfigError as error:
        return _failed(error, 2)
    except ClipmedError as error:
        return _failed(error, 1)


def _run(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        config_class, run = COMMANDS[words[0]]()
        prog = f"python -m zeroshot_eval {words[0]}"
        text = SCORE_HELP if words[0] == "score" else config_class.__doc__
        with deferred("unittest.mock"):  # a check of types asks for it, and it brings asyncio and ssl along
            config = tyro.cli(config_class, args=words[1:], prog=prog, description=text)
        return run(config)
    every = {name: load() for name, load in COMMANDS.items()}
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: config_class for name, (config_class, _) in every.items()},
        prog="python -m zeroshot_eval",
        description=DESCRIPTION,
        args=list(words),
    )
    return next(run for config_class, run in every.values() if type(parsed) is config_class)(parsed)


def _report(evaluation: Evaluation, config: EvalConfig) -> None:
    if config.report:
        from zeroshot_eval.report import write_report

        print(f"report: {write_report(evaluation)}")


def _failed(error: ClipmedError, status: int) -> int:
    print(f"zeroshot_eval: {error}", file=sys.stderr)
    return status


def _suites(names: Sequence[str]) -> list[Suite]:
    return [load_suite(name) for name in names or suite_names()]


def _print_table(evaluation: Evaluation) -> None:
    from rich.table import Table

    warning = "phantoms: synthetic images, no medical meaning" if evaluation.phantom else "research use only"
    title = "; ".join(suite.title for suite in evaluation.suites)
    table = Table(title=title, caption=f"{warning}; intervals: 95 %, over groups; every score is in scores.json")
    names = [run.facts.name for run in evaluation.runs]
    table.add_column("score", overflow="fold")
    for name in (*names, "chance", "n"):
        table.add_column(name, justify="right", overflow="fold")
    for name, by_checkpoint in headlines(evaluation).items():
        some = next(iter(by_checkpoint.values()))
        cells = [_cell(by_checkpoint.get(checkpoint)) for checkpoint in names]
        table.add_row(name, *cells, "-" if some.chance is None else f"{some.chance:.3f}", f"{some.n:,}")
    console = _console()
    console.print(table)
    for skipped in evaluation.skipped:
        console.print(f"not scored: {skipped.task}: {skipped.reason}", style="yellow")


def headlines(evaluation: Evaluation) -> dict[str, dict[str, Score]]:
    """Return the scores that the terminal shows, by name and checkpoint: averages, and every task's main metric."""
    mains = {result.task.name: result.task.main for result in evaluation.runs[0].results}
    found: dict[str, dict[str, Score]] = {}
    for row in evaluation.rows:
        spoken = row.metric.replace("/", " ").replace("_", " ")
        if row.level == "overall" and row.metric in {"accuracy", "balanced_accuracy", "auroc"}:
            name = f"overall {spoken}"
        elif row.level == "modality" and row.metric == "balanced_accuracy":
            name = f"{row.modality} {spoken}"
        elif row.level == "task" and row.metric == mains.get(row.task or ""):
            name = f"{'held out: ' if row.held_out else ''}{row.task}: {spoken}"
        else:
            continue
        found.setdefault(name, {})[row.checkpoint] = row
    order = {"overall": 0, "modality": 1, "task": 2}
    return dict(sorted(found.items(), key=lambda pair: order.get(next(iter(pair[1].values())).level, 3)))


def _cell(row: Score | None) -> str:
    if row is None:
        return "-"
    bounds = "" if row.low is None or row.high is None else f" ({row.low:.3f} … {row.high:.3f})"
    return f"{row.value:.3f}{bounds}"


def _print_cells(tables: Sequence[Cells]) -> None:
    console = _console()
    for table in tables:
        console.print(table.rich())


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
