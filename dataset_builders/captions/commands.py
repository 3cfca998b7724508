"""Command line of captioning: `python -m dataset_builders captions plan | make | check | recheck | …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from dataset_builders.captions.checking import check_file, check_source
from dataset_builders.captions.guard import GuardConfig
from dataset_builders.captions.judging import recheck as recheck_store
from dataset_builders.captions.making import Ending, MakeConfig, MakeReport, make_captions
from dataset_builders.captions.planning import Plan, plan_captions

DESCRIPTION = """Captions made from facts, apart from building and packing; the guard judges each before it is kept.

Building gives every labelled image captions of a template bank. Captions of a language model are made afterwards, for
distinct facts and not for each image, and join the images when a set is packed. Where there are none, templates serve.

1. See what a run would ask and cost, and one question as the model gets it. Nothing is asked.
   python -m dataset_builders captions plan spools/* --captioner llm --llm.endpoint.model qwen3-32b
2. Make them, with any server of OpenAI's chat protocol (vLLM, llama.cpp, Ollama, a hosted one).
   vllm serve Qwen/Qwen3-32B --served-model-name qwen3-32b --port 8000
   python -m dataset_builders captions make spools/* --store captions.sqlite --llm.endpoint.model qwen3-32b \\
       --llm.endpoint.url http://127.0.0.1:8000/v1 --llm.endpoint.concurrency 64
   A hosted server's key is read from OPENAI_API_KEY. --budget.max-cost 20 --prices.input 0.4 --prices.output 1.6 sets a
   limit at prices of a million tokens.
   Kill it whenever you like, and run it again: what was answered is not asked again.
3. Read what came of it, and pack.
   python -m dataset_builders captions review captions.sqlite spools/* --out captions.html
   python -m shards pack spools/* --captions captions.sqlite --out set

make's exit status: 0 when every subject is done or failed, 1 on an error of the input, 3 when the endpoint failed and
4 when the budget was spent before the end; run it again to go on."""

EXIT_STATUS: dict[Ending, int] = {"complete": 0, "endpoint": 3, "budget": 4}
Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]
Settings = Annotated[MakeConfig, tyro.conf.arg(name="")]
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Say how many questions a run would ask, what they cost, and show one. Nothing is asked."""

    sources: Folders
    """folders of spools and shard sets"""
    config: Settings = field(default_factory=MakeConfig)
    """which captions"""
    store: Path | None = None
    """the caption store whose subjects need no question any more"""
    requests_per_s: float = 2.0
    """answers that the endpoint gives a second; `make` shows the true rate"""


@dataclass(frozen=True, kw_only=True)
class MakeCommand:
    """Make captions, or go on making them; what was answered already is not asked again."""

    sources: Folders
    """folders of spools and shard sets"""
    store: Path
    """the caption store: one file, made if it is not there"""
    config: Settings = field(default_factory=MakeConfig)
    """which captions"""


@dataclass(frozen=True, kw_only=True)
class CheckCommand:
    """Run the guard over captions that exist: of spools and sets, or of a file; count refusals by reason.

    A file has one JSON object a line: {"text": …, "facts": {…}, "tasks": {…}}, the facts flat as in a sample, and the
    vocabulary that names their classes as in spool.json. Native captions are passed over: nobody made them from facts.
    """

    paths: Folders
    """folders of spools and shard sets, or .jsonl files"""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """what a caption must be"""
    shown: int = SHOWN
    """refused captions printed for each reason"""


@dataclass(frozen=True, kw_only=True)
class RecheckCommand:
    """Judge a store's captions anew by the guard as it is now. Nothing is asked; refused ones stay, with reasons."""

    store: Annotated[Path, tyro.conf.Positional]
    """the caption store"""
    sources: Folders
    """folders of the spools and shard sets that it was made for"""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """what a caption must be"""


@dataclass(frozen=True, kw_only=True)
class MergeCommand:
    """Bring caption stores together, such as those of several machines. The store and the others may overlap."""

    stores: Folders
    """the stores to read"""
    into: Path
    """the store that takes them up, made if it is not there"""


@dataclass(frozen=True, kw_only=True)
class ReviewCommand:
    """Write an HTML page: by class the accepted and refused captions with reasons, their variety, and images."""

    store: Annotated[Path, tyro.conf.Positional]
    """the caption store"""
    sources: Folders
    """folders of the spools and shard sets that it was made for"""
    out: Path
    """the page to write"""


def plan(command: PlanCommand) -> int:
    """Print the estimate and an example."""
    found = plan_captions(command.config, command.sources, command.store, command.requests_per_s)
    _print_plan(found, command.requests_per_s)
    return 0


def make(command: MakeCommand) -> int:
    """Make captions and print what became of the subjects."""
    report = make_captions(command.config, command.sources, command.store)
    _print_report(report)
    if report.message and report.pending:
        print(f"ended early: {report.message}", file=sys.stderr)
        print(f"{report.pending:,} subjects are left to templates; run the same command again to go on")
        return EXIT_STATUS[report.ending]
    print(f"captions: {command.store}   (next: python -m shards pack SPOOLS --captions {command.store} --out SET)")
    return 0


def check(command: CheckCommand) -> int:
    """Print refusals by reason; 1 if there are any."""
    results = [
        check_file(path, command.guard) if path.is_file() else check_source(path, command.guard)
        for path in command.paths
    ]
    refused = 0
    for path, result in zip(command.paths, results, strict=True):
        table = Table("reason", "captions", "such as", title=f"{path}: {result.refused:,} of {result.seen:,} refused")
        for code, number in result.reasons.most_common():
            examples = "\n".join(f"{text} ({detail})" for text, detail in result.examples[code][: command.shown])
            table.add_row(code, f"{number:,}", examples)
        _console().print(table)
        refused += result.refused
    return 1 if refused else 0


def recheck(command: RecheckCommand) -> int:
    """Judge anew, and print what has changed."""
    table = Table("what", "count", title=str(command.store))
    for name, number in recheck_store(command.store, command.sources, command.guard).items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    _console().print(table)
    return 0


def merge(command: MergeCommand) -> int:
    """Merge stores, and print what came together."""
    from shards.caption_store import merge as merge_stores

    table = Table("what", "count", title=str(command.into))
    for name, number in merge_stores(command.into, command.stores).items():
        table.add_row(name, f"{number:,}")
    _console().print(table)
    return 0


def review(command: ReviewCommand) -> int:
    """Write the page."""
    from dataset_builders.captions.review import write_review

    write_review(command.store, command.sources, command.out)
    print(f"review: {command.out}   (open it in a browser)")
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "plan": (PlanCommand, plan),
    "make": (MakeCommand, make),
    "check": (CheckCommand, check),
    "recheck": (RecheckCommand, recheck),
    "merge": (MergeCommand, merge),
    "review": (ReviewCommand, review),
}


def run(args: Sequence[str]) -> int:
    """Parse the words behind `captions` and run the command; errors of the input are raised."""
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: command for name, (command, _) in COMMANDS.items()},
        prog="python -m dataset_builders captions",
        description=DESCRIPTION,
        args=list(args),
    )
    return next(function for command, function in COMMANDS.values() if isinstance(parsed, command))(parsed)


def _print_plan(plan: Plan, requests_per_s: float) -> None:
    table = Table("what", "if all is accepted at once", "if every try is needed", title="Nothing was asked")
    table.add_row("subjects, of samples", f"{plan.subjects:,} of {plan.samples:,}", "")
    for name in ("done", "failed", "pending"):
        table.add_row(f"  {name}", f"{getattr(plan, name):,}", "")
    for name, title in (("requests", "requests"), ("tokens_in", "tokens sent"), ("tokens_out", "tokens received")):
        low, high = getattr(plan, name)
        table.add_row(title, f"{low:,}", f"{high:,}")
    table.add_row("cost at the given prices", f"{plan.cost[0]:,.2f}", f"{plan.cost[1]:,.2f}")
    table.add_row(f"hours at {requests_per_s:g} requests/s", *(f"{seconds / 3600:,.2f}" for seconds in plan.seconds))
    _console().print(table)
    print("tokens are estimated: CLIP's tokenizer and 15 % more for what is sent, 30 a caption for what comes back")
    for message in plan.example:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        words = "\n".join(part["text"] if part["type"] == "text" else "(the image)" for part in parts)
        print(f"\n[{message['role']}]\n{words}")


def _print_report(report: MakeReport) -> None:
    table = Table("what", "count", title="subjects = done + failed + pending")
    for name in ("subjects", "done", "failed", "pending"):
        table.add_row(name, f"{getattr(report, name):,}")
    table.add_section()
    table.add_row("samples", f"{report.samples:,}")
    table.add_row("  served by templates or native captions", f"{report.samples_without:,}")
    table.add_section()
    for title, number in (
        ("settled in this run", report.asked),
        ("captions accepted", report.accepted),
        *((f"refused: {code}", number) for code, number in report.refused.items()),
        ("subjects with an unreadable answer", report.answers_without_captions),
        *((f"failed tries: {kind}", number) for kind, number in report.failures.items()),
        ("requests", report.spent.requests),
        ("tokens sent", report.spent.tokens_in),
        ("tokens received", report.spent.tokens_out),
    ):
        table.add_row(title, f"{number:,}")
    table.add_row("cost at the given prices", f"{report.cost:,.4f}")
    _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
