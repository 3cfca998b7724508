"""Command line of the PubMed Central builder: `python -m dataset_builders pmc snapshot | delta | build | …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from clipmed.jobs import JobsConfig
from dataset_builders.pmc.build import build_pmc, reopen_units
from dataset_builders.pmc.bulk import unpack
from dataset_builders.pmc.config import Layout, PmcConfig
from dataset_builders.pmc.delta import compare, write_delta
from dataset_builders.pmc.mirror import fill_mirror
from dataset_builders.pmc.snapshot import read_snapshot, take_snapshot, write_snapshot

DESCRIPTION = """PubMed Central figures: from the public bucket, a mirror of it, or legacy packages, to a spool.

Since August 2026 PubMed Central distributes its open-access articles in one bucket alone, s3://pmc-oa-opendata: a
folder a version of an article (PMC<id>.<v>/), its metadata in metadata/PMC<id>.<v>.json, and a daily inventory.

1. Pin the list of articles. The same snapshot and settings give the same spool, whenever they are run.
   python -m dataset_builders pmc snapshot s3://pmc-oa-opendata --out pmc.parquet
2. Build. Metadata decide which articles are fetched at all; of those, only the media that figures name.
   python -m dataset_builders pmc build --root s3://pmc-oa-opendata --snapshot pmc.parquet --out spools/pmc \\
       --select.license-groups commercial --select.published-from 2020 --num-units 4096 \\
       --jobs.executor slurm --jobs.workers 64
   Kill it whenever you like, and run it again: finished units stay, and the result is the same to the byte.
3. Try again what the server did not give, and pack.
   python -m dataset_builders pmc retry spools/pmc      (then step 2 again)
   python -m shards pack spools/pmc --out set
4. Weeks later, read what is new alone: take another snapshot, compare, and build the difference.
   python -m dataset_builders pmc delta pmc.parquet new.parquet --out delta
   With --mirror FOLDER in step 2, building the new snapshot fetches only what has changed.

Compute nodes without a network: `pmc mirror` fetches on another machine what step 2 then reads with --root MIRROR.
Legacy packages (PMC*.tar.gz in a folder): --root FOLDER. Legacy bulk XML (oa_comm_xml.*.tar.gz): `pmc unpack` first."""

PmcSettings = Annotated[PmcConfig, tyro.conf.arg(name="")]
InputPath = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class SnapshotCommand:
    """Pin the list of an archive's articles, from the bucket's daily inventory or a folder's names."""

    root: Annotated[str, tyro.conf.Positional]
    """folder or address of the archive"""
    out: Path
    """the snapshot to write: one parquet file, about 25 bytes an article"""
    date: str = "latest"
    """the inventory's date, as 2026-09-14; a server that cannot list wants it"""
    layout: Layout = "auto"
    """bucket: article folders. packages: legacy *.tar.gz. auto: whatever of the two is there"""


@dataclass(frozen=True, kw_only=True)
class DeltaCommand:
    """Compare two snapshots: which articles are new, changed, or gone."""

    old: InputPath
    """the earlier snapshot"""
    new: InputPath
    """the later snapshot"""
    out: Path
    """folder for added.txt, changed.txt, removed.txt (one PMC id a line, for --select.ids) and delta.json"""


@dataclass(frozen=True, kw_only=True)
class BuildCommand:
    """Build a spool, or go on with one; what is done already is not done again."""

    pmc: PmcSettings
    """the archive, and what of it becomes samples"""
    out: Path
    """the spool's folder"""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """where units run"""


@dataclass(frozen=True, kw_only=True)
class MirrorCommand:
    """Fetch what a build would read into --mirror, in the bucket's layout, and build nothing."""

    pmc: PmcSettings
    """the archive, and which of its articles"""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """where units run"""


@dataclass(frozen=True, kw_only=True)
class RetryCommand:
    """Remove the finished units in which the server failed to give something, so that building again fetches them."""

    spool: InputPath
    """the spool's folder"""


@dataclass(frozen=True, kw_only=True)
class UnpackCommand:
    """Unpack legacy bulk XML tars into the bucket's layout; go on where a killed run stopped."""

    tars: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """the tars"""
    out: Path
    """folder of the mirror"""


def snapshot(command: SnapshotCommand) -> int:
    """Take a snapshot and print its size."""
    taken = take_snapshot(command.root, command.layout, command.date)
    write_snapshot(taken, command.out)
    standing = len(taken.table) - _superseded(taken.table)
    dated = f" of {taken.taken}" if taken.taken else ""
    print(f"{command.out}: {standing:,} articles, {len(taken.table):,} versions{dated}, from {command.root}")
    return 0


def delta(command: DeltaCommand) -> int:
    """Compare two snapshots, write the lists, and print their sizes."""
    difference = compare(read_snapshot(command.old), read_snapshot(command.new))
    write_delta(difference, command.out)
    table = Table("articles", "count", "list")
    for name in ("added", "changed", "removed"):
        table.add_row(name, f"{len(getattr(difference, name)):,}", str(command.out / f"{name}.txt"))
    table.add_row("unchanged", f"{difference.unchanged:,}", "")
    _console().print(table)
    return 0


def build(command: BuildCommand) -> int:
    """Build, and print what became of the articles."""
    counts = build_pmc(command.pmc, command.out, command.jobs)
    table = Table("what", "count", title=f"{counts['source']}: seen = samples + rejects")
    for name in ("seen", "samples", "rejects"):
        table.add_row(name, f"{counts[name]:,}")
    for title in ("rejects_by_reason", "counters"):
        table.add_section()
        for name, number in counts[title].items():
            table.add_row(name, f"{number:,}")
    _console().print(table)
    print(f"spool: {command.out}   (next: python -m shards pack {command.out} --out SET)")
    return 0


def mirror(command: MirrorCommand) -> int:
    """Fill a mirror, and print what was fetched and what is missing."""
    counts = fill_mirror(command.pmc, command.jobs)
    table = Table("what", "count", title=str(command.pmc.mirror))
    for name, number in counts.items():
        table.add_row(name, f"{number:,}")
    _console().print(table)
    return 0


def retry(command: RetryCommand) -> int:
    """Remove units, and say which."""
    units = reopen_units(command.spool)
    print(f"{command.spool}: {len(units)} units to build again{': ' if units else ''}{', '.join(map(str, units[:20]))}")
    return 0


def unpack_bulk(command: UnpackCommand) -> int:
    """Unpack tars, and print what became of their members."""
    table = Table("what", "count", title=str(command.out))
    for name, number in unpack(command.tars, command.out).items():
        table.add_row(name, f"{number:,}")
    _console().print(table)
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "snapshot": (SnapshotCommand, snapshot),
    "build": (BuildCommand, build),
    "retry": (RetryCommand, retry),
    "delta": (DeltaCommand, delta),
    "mirror": (MirrorCommand, mirror),
    "unpack": (UnpackCommand, unpack_bulk),
}


def run(args: Sequence[str]) -> int:
    """Parse the words behind `pmc` and run the command; errors of the input are raised."""
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: command for name, (command, _) in COMMANDS.items()},
        prog="python -m dataset_builders pmc",
        description=DESCRIPTION,
        args=list(args),
    )
    return next(function for command, function in COMMANDS.values() if isinstance(parsed, command))(parsed)


def _superseded(table: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.not_equal(table["superseded_by"], "")).as_py() or 0)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
