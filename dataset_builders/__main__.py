"""Command line of the builders: `python -m dataset_builders build | check | list | suite | pmc | captions | …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from rich.console import Console
from rich.table import Column, Table

from clipmed.configuration import to_dict
from clipmed.errors import ClipmedError
from clipmed.files import write_text
from clipmed.jobs import JobsConfig
from clipmed.licenses import spdx_id
from clipmed.standard_output import reader_may_leave
from dataset_builders.datasets.check import SHOWN_PROBLEMS, CheckReport, check_folder
from dataset_builders.datasets.entry import Entry, load_entry, shipped_entries
from dataset_builders.items import summarise
from dataset_builders.sources import load_sources

DESCRIPTION = """Turn sources into spools: PubMed Central articles, datasets with labels or texts, phantoms.

  python -m dataset_builders phantoms --out build/demo/archives
  python -m dataset_builders build phantoms --root build/demo/archives --out build/demo/spools
  python -m dataset_builders build my_sources.yaml --out build/spools --jobs.workers 8
  python -m dataset_builders build aptos2019 --root /data/aptos --out build/spools     one dataset of the catalogue
  python -m dataset_builders list --modality fundus       the catalogue
  python -m dataset_builders check aptos2019 /data/aptos   what is missing, and how to get it
  python -m dataset_builders suite medmnist --title MedMNIST --out medmnist.yaml     zero-shot tasks of the catalogue
  python -m dataset_builders captions --help     captions of a language model, checked by a guard
  python -m dataset_builders pmc --help          PubMed Central: snapshots, deltas, mirrors, the build

A spool is one folder a source; `python -m shards pack` makes a shard set of any number of them."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Build the spool of every source in a SOURCES file, or of one dataset; what is done is not done again.

    The file is YAML with one key, `sources`, and a list of
    {kind: dataset, entry: NAME or entry.yaml, root: FOLDER} and
    {kind: pmc, config: {root: FOLDER or address, …}}.
    The exit status is 0 when everything was built, rejected items included, and 1 on an error.
    """

    sources: Annotated[str, tyro.conf.Positional]
    """path of a SOURCES file, the name of a shipped one, such as phantoms, or a dataset that `list` shows"""
    out: Path
    """folder for the spools: <out>/<source>/"""
    root: Path | None = None
    """folder that the sources' folders start from; that of the SOURCES file if not given. Of one dataset, its folder"""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """where units run"""


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Draw the phantoms: synthetic images with labels, and synthetic articles in PubMed Central's own layouts.

    They are made to run and test the whole road with; no score on them says anything about medicine.
    """

    out: Path
    """folder for the archives"""


@dataclass(frozen=True, kw_only=True)
class List:
    """List the datasets of the catalogue."""

    modality: str = ""
    """only those with images of a modality, such as fundus"""
    suite: str = ""
    """only those of a published collection, such as unimed_eval or medmnist"""
    terms: str = ""
    """only those that one gets on these terms: open, registration, request, credentialed, challenge"""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a catalogue entry with every default resolved: a start for an entry of your own."""

    name: Annotated[str, tyro.conf.Positional]
    """a name that `list` shows, or the path of a YAML file"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare a folder with a catalogue entry: what is missing, and how many images a split and class has.

    Nothing is decoded or written.

    The exit status is 0 when the folder is as the entry says, and 1 when it is not.
    """

    name: Annotated[str, tyro.conf.Positional]
    """a name that `list` shows, or the path of a YAML file"""
    root: Annotated[Path, tyro.conf.Positional]
    """the dataset's folder"""
    checksums: bool = False
    """also compare the downloads that lie in the folder with the digests of the entry"""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Write a suite of zero-shot tasks made of the catalogue's prompts, for `python -m zeroshot_eval`."""

    tags: Annotated[tuple[str, ...], tyro.conf.Positional]
    """the datasets' collections, as `list --suite` takes them, such as medmnist"""
    out: Path
    """the YAML file to write"""
    title: str
    """heading of reports"""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Make captions from facts by a language model, hold them to a guard, review them; see `captions --help`."""


@dataclass(frozen=True, kw_only=True)
class Pmc:
    """PubMed Central: pin a snapshot, build, retry, compare snapshots, fill a mirror; see `pmc --help`."""


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Train and score a classifier that tells medical images from plots and diagrams; see `kinds --help`."""


def build(command: Build) -> int:
    """Build every source, then print what became of its items."""
    sources = load_sources(command.sources, command.root)
    summaries = []
    for source in sources:
        source.build(command.out / source.name, command.jobs)
        summaries.append(summarise(command.out / source.name))
    _console().print(_build_table(summaries))
    print(f"spools: {command.out}   (next: python -m shards pack {command.out}/* --out SET)")
    return 0


def list_entries(command: List) -> int:
    """Print one line an entry."""
    entries = [entry for name in shipped_entries() if _is_listed(entry := load_entry(name), command)]
    table = Table(Column("name", no_wrap=True), "modality", "tasks (classes)", "terms", "licence", "tested", "title")
    for entry in entries:
        tasks = [f"{task} ({len(content.classes)})" for task, content in entry.tasks.items()]
        tasks += sorted({f"text: {text.origin}" for text in entry.layout.texts})
        modality = ", ".join(_modalities(entry))
        licence = spdx_id(entry.license) if entry.license else "-"
        table.add_row(entry.name, modality, "\n".join(tasks), entry.terms, licence, entry.tested_on, entry.title)
    _console().print(table)
    print(
        f"{len(entries)} datasets. tested: real, built from the provider's own files; layout, from files made like them"
    )
    return 0


def _is_listed(entry: Entry, command: List) -> bool:
    return (
        command.modality in {"", *_modalities(entry)}
        and command.suite in {"", *entry.suites}
        and command.terms in {"", entry.terms}
    )


def _modalities(entry: Entry) -> list[str]:
    by_class = {value for task in entry.tasks.values() for value in task.class_modality.values()}
    by_column = set(entry.layout.modality.values.values()) if entry.layout.modality else set()
    return sorted({*by_class, *by_column, *([entry.modality] if entry.modality else [])}) or ["mixed"]


def show(command: Show) -> int:
    """Print an entry as YAML."""
    print(yaml.safe_dump(to_dict(load_entry(command.name)), sort_keys=False, allow_unicode=True), end="")
    return 0


def check(command: Check) -> int:
    """Print how a folder compares with an entry."""
    entry = load_entry(command.name)
    report = check_folder(entry, command.root, checksums=command.checksums)
    _print_check(entry, report)
    return 0 if report.complete else 1


def phantoms(command: Any) -> int:
    """Draw the phantom archives."""
    from dataset_builders.phantoms import write_phantoms

    write_phantoms(command.out, command.config)
    print(
        f"archives: {command.out}   (next: python -m dataset_builders build phantoms --root {command.out} --out SPOOLS)"
    )
    return 0


def suite(command: Suite) -> int:
    """Write a suite's file."""
    from dataset_builders.suites import suite_of, suite_text

    content = suite_of(command.tags, command.title, command.out.stem)
    write_text(command.out, suite_text(content))
    number = len(content["tasks"])
    print(f"{command.out}: {number} tasks   (next: python -m zeroshot_eval score … --suite {command.out})")
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "build": (Build, build),
    "phantoms": (Phantoms, phantoms),
    "list": (List, list_entries),
    "show": (Show, show),
    "check": (Check, check),
    "suite": (Suite, suite),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; errors of the input go to standard error with exit status 1, an interrupt ends it with 130."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        with reader_may_leave():
            return _run(given)
    except ClipmedError as error:
        print(f"dataset_builders: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndataset_builders: interrupted; what is done stays, and the same command goes on", file=sys.stderr)
        return 130


def _run(given: list[str]) -> int:
    if given[:1] == ["pmc"]:
        from dataset_builders.pmc.commands import run

        return run(given[1:])
    if given[:1] == ["captions"]:
        from dataset_builders.captions.commands import run as run_captions

        return run_captions(given[1:])
    if given[:1] == ["kinds"]:
        from dataset_builders.figures.kind_commands import run as run_kinds

        return run_kinds(given[1:])
    known = dict(COMMANDS)
    if given[:1] == ["phantoms"]:
        known["phantoms"] = (_phantoms_command(), phantoms)
    commands: dict[str, Callable[..., Any]] = {name: command for name, (command, _) in known.items()}
    commands |= {"pmc": Pmc, "captions": Captions, "kinds": Kinds}
    parsed = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="python -m dataset_builders",
        description=DESCRIPTION,
        args=given,
    )
    return next(run for command, run in known.values() if isinstance(parsed, command))(parsed)


def _phantoms_command() -> type[Phantoms]:
    """Return the command with the drawing's own settings, which only this command imports."""
    from dataset_builders.phantoms import PhantomConfig

    settings = Annotated[PhantomConfig, tyro.conf.arg(name="")]
    fields: list[tuple[str, Any, Any]] = [("config", settings, field(default_factory=PhantomConfig))]
    command = make_dataclass("Phantoms", fields, bases=(Phantoms,), frozen=True, kw_only=True)
    command.__doc__ = Phantoms.__doc__
    return command


def _build_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="From items seen to samples: seen = samples + rejects")
    table.add_column("source")
    for name in ("seen", "samples", "rejects"):
        table.add_column(name, justify="right")
    table.add_column("rejects by reason")
    for summary in summaries:
        reasons = "\n".join(f"{number} {reason}" for reason, number in summary["rejects_by_reason"].items())
        counts = [f"{summary[name]:,}" for name in ("seen", "samples", "rejects")]
        table.add_row(summary["source"], *counts, reasons or "-")
    return table


def _print_check(entry: Entry, report: CheckReport) -> None:
    for text in (*report.missing, *report.hints):
        print(text)
    if report.counts:
        table = Table("what", "found", "expected", "", title=f"{entry.title}: {report.items:,} items")
        for count in report.counts:
            expected = "not stated" if count.expected is None else f"{count.expected:,}"
            table.add_row(count.what, f"{count.found:,}", expected, "ok" if count.fits else "differs")
        _console().print(table)
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(report.problems) > SHOWN_PROBLEMS:
        print(f"… and {len(report.problems) - SHOWN_PROBLEMS:,} more items with problems")
    if report.complete:
        print("complete: the folder is as the entry says")
        return
    print("incomplete: the folder is not as the entry says")
    _print_access(entry)


def _print_access(entry: Entry) -> None:
    obtain = [("terms", entry.terms), ("how to obtain it", entry.access), ("described at", entry.url)]
    obtain += [("file", f"{download.file} {download.url}".strip()) for download in entry.downloads]
    for name, text in obtain:
        if text:
            print(f"{name}: {text}")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
