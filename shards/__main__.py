"""Command line of the shard format: `python -m shards pack | verify | stats | browse | fingerprint | removed`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clipmed.configuration import load_yaml
from clipmed.errors import ClipmedError, ConfigError
from clipmed.jobs import JobsConfig
from clipmed.standard_output import reader_may_leave
from shards.browse import BrowseConfig, write_contact_sheet
from shards.config import PackConfig
from shards.fingerprints import fingerprint, write_fingerprints
from shards.pack import pack
from shards.reader import ShardSet
from shards.removed import RemovedConfig, write_removed_page
from shards.stats import attrition_table, decontamination_tables, source_table, stats_tables
from shards.verify import verify

SetPath = Annotated[Path, tyro.conf.Positional]
_MOST_PROBLEMS = 200
_FILE_WIDTH = 200


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack finished spools into a shard set; a killed run resumes."""

    spools: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that builders wrote"""
    out: Path
    """folder of the set; an older set there is replaced once the new one is whole"""
    settings: Path | None = None
    """YAML file of the pack options, instead of giving them here"""
    pack: Annotated[PackConfig, tyro.conf.arg(name="")] = field(default_factory=PackConfig)
    """what to keep, and how to split and cut it"""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """where shards are copied"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check every byte, row and count of a set; exits with 1 and names what is wrong."""

    path: SetPath
    """folder of the set"""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Print what a set holds."""

    path: SetPath
    """folder of the set"""


@dataclass(frozen=True, kw_only=True)
class Browse:
    """Write a contact sheet: one self-contained HTML file."""

    path: SetPath
    """folder of the set"""
    out: Path | None = None
    """the file to write; beside the set if not given"""
    browse: Annotated[BrowseConfig, tyro.conf.arg(name="")] = field(default_factory=BrowseConfig)
    """how much it shows"""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Write the fingerprints of an evaluation set (ids, digests, hashes, thumbnails), for `pack --decontaminate`."""

    source: Annotated[Path, tyro.conf.Positional]
    """folder of images, or of a packed set"""
    out: Path
    """the parquet file to write"""
    splits: tuple[str, ...] = ()
    """splits of a packed set to take; all if none is given"""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Write a page of what was removed beside what it matched: one self-contained HTML file."""

    path: SetPath
    """folder of the set"""
    spools: tuple[Path, ...]
    """the spools that it was packed of"""
    lists: tuple[Path, ...] = ()
    """the fingerprints and packed sets that it was decontaminated with, for their pictures"""
    out: Path | None = None
    """the file to write; beside the set if not given"""
    removed: Annotated[RemovedConfig, tyro.conf.arg(name="")] = field(default_factory=RemovedConfig)
    """how much it shows"""


def run_pack(options: Pack) -> int:
    """Pack, and print where the items went."""
    config = options.pack
    if options.settings is not None:
        if config != PackConfig():
            raise ConfigError("--settings and pack options: got both; allowed: one of them; put all into the file")
        config = load_yaml(PackConfig, options.settings)
    manifest = pack(options.spools, options.out, config, options.jobs)
    console = _console()
    console.print(source_table(manifest))
    console.print(attrition_table(manifest))
    for table in decontamination_tables(manifest):
        console.print(table)
    num_shards, num_samples = len(manifest["shards"]), manifest["counts"]["samples"]
    console.print(f"{options.out}: {num_samples:,} samples in {num_shards:,} shards, {manifest['license']['group']}")
    return 0


def run_verify(options: Verify) -> int:
    """Verify, and print the problems."""
    problems = verify(options.path)
    console = _console()
    if not problems:
        console.print(f"{options.path}: whole; every shard, member, row and count is as it should be")
        return 0
    table = Table("file", "member or row", "reason", title=f"{options.path}: {len(problems)} problems")
    for problem in problems[:_MOST_PROBLEMS]:
        table.add_row(*map(escape, (problem.shard, problem.member, problem.reason)))
    console.print(table)
    if len(problems) > _MOST_PROBLEMS:
        console.print(f"… and {len(problems) - _MOST_PROBLEMS} more")
    return 1


def run_stats(options: Stats) -> int:
    """Print the tables."""
    console = _console()
    for table in stats_tables(ShardSet(options.path)):
        console.print(table)
        console.print()
    return 0


def run_browse(options: Browse) -> int:
    """Write the contact sheet."""
    out = options.out or options.path.resolve().with_name(f"{options.path.resolve().name}.html")
    num_samples, num_bytes = write_contact_sheet(options.path, out, options.browse)
    _console().print(f"{out}: {num_samples} samples, {num_bytes / 1e6:.1f} MB; open it in a browser")
    return 0


def run_fingerprint(options: Fingerprint) -> int:
    """Write the fingerprints."""
    if options.out.suffix != ".parquet":
        raise ConfigError(f"--out: got {options.out}; allowed: a file that ends in .parquet")
    table = fingerprint(options.source, options.splits)
    write_fingerprints(table, options.out)
    _console().print(f"{options.out}: fingerprints of {len(table):,} images")
    return 0


def run_removed(options: Removed) -> int:
    """Write the page."""
    out = options.out or options.path.resolve().with_name(f"{options.path.resolve().name}-removed.html")
    shown, total = write_removed_page(options.path, options.spools, out, options.lists, options.removed)
    _console().print(f"{out}: {shown} of {total} removed samples; open it in a browser")
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "pack": (Pack, run_pack),
    "verify": (Verify, run_verify),
    "stats": (Stats, run_stats),
    "browse": (Browse, run_browse),
    "fingerprint": (Fingerprint, run_fingerprint),
    "removed": (Removed, run_removed),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors of the input go to standard error with status 1."""
    with reader_may_leave():
        return _run(args)


def _run(args: Sequence[str] | None) -> int:
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: config_class for name, (config_class, _) in COMMANDS.items()},
        prog="python -m shards",
        description="Pack, check and look at shard sets.",
        args=args,
    )
    try:
        return next(run for config_class, run in COMMANDS.values() if isinstance(parsed, config_class))(parsed)
    except ClipmedError as error:
        sys.exit(f"shards: {error}")


def _console() -> Console:
    """Return a console; wide where the output is a file or a pipe, so that names stay in one piece."""
    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(width=_FILE_WIDTH, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
