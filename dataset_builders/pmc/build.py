"""The builder: articles of an archive into a spool, unit by unit, with every drop accounted for.

<spool>/articles.parquet     the listed article versions, one row group a unit: what this build is pinned to
<spool>/unit-00003/…         as every builder writes them

The listing is taken once, when the build begins, and stays: a build that goes on weeks later reads the same articles.
An archive in a folder is listed again each time, and a build whose folder has changed is refused.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.configuration import to_dict
from clipmed.errors import DataError
from clipmed.jobs import JobsConfig, run_units
from clipmed.rejects import RejectReason
from dataset_builders.items import summarise
from dataset_builders.pmc.archive import is_remote, open_archive
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.reading import read_articles
from dataset_builders.pmc.samples import SampleMaker
from dataset_builders.pmc.selection import read_ids
from dataset_builders.pmc.snapshot import Snapshot, read_snapshot, read_unit, read_units_digest, take_snapshot
from dataset_builders.pmc.snapshot import write_units as write_listing
from dataset_builders.threads import one_thread
from shards.spool import SPOOL_FILE, SpoolInfo, open_spool, unit_path, write_unit

LISTING = "articles.parquet"
_SHOWN_REASONS = 3
# Settings that say where articles are and how they are fetched: none of them changes a byte of the spool.
_WHEREABOUTS = ("root", "snapshot", "mirror", "network")
FAILED = frozenset({RejectReason.SOURCE_UNREACHABLE, RejectReason.CHECKSUM_MISMATCH})


def build_pmc(config: PmcConfig, out: Path, jobs: JobsConfig) -> dict[str, Any]:
    """Build the spool at `out`, or finish one that was begun with the same config over the same articles.

    Returns:
        counts over all units: source, units, seen, samples, rejects, rejects_by_reason, counters (articles, figures …).

    Raises:
        ConfigError: the root does not exist or holds no article.
        DataError: `out` holds a spool of another config or of other articles, or the server cannot be reached.
    """
    listing = out / LISTING
    if is_remote(config.root) and not config.snapshot and listing.exists():
        digest = read_units_digest(listing)
    else:
        snapshot = list_articles(config)
        digest = snapshot.digest
        if not (out / SPOOL_FILE).exists():
            write_listing(snapshot, listing, config.num_units)
    info = SpoolInfo(source=config.source, num_units=config.num_units, config=_spool_config(config, digest))
    waiting = open_spool(out, info)
    _run(config, out, jobs, waiting)
    return summarise(out)


def build_unit(unit: int, config: PmcConfig, out: Path) -> dict[str, Any]:
    """Write one unit of the spool; return its counts (articles, figures, samples …) and `reasons`, those of rejects."""
    refs = read_unit(out / LISTING, unit)
    ids = read_ids(config.select)
    threads = config.network.concurrency if is_remote(config.root) else 0
    archive = open_archive(config)
    with one_thread(), write_unit(out, unit, config.source) as writer:
        SampleMaker(config, writer).add_articles(read_articles(refs, archive, config, ids, threads))
    folder = unit_path(out, unit)
    summary = json.loads((folder / "unit.json").read_text())
    counts = {name: summary[name] for name in ("seen", "samples", "rejects")}
    return {**summary["counters"], **counts, "reasons": _reasons(folder)}


def reopen_units(out: Path, reasons: Collection[RejectReason] = FAILED) -> list[int]:
    """Remove the finished units that hold rejects of these reasons, so that building again makes them anew.

    Returns:
        the removed units' numbers.

    Raises:
        DataError: `out` is not a spool.
    """
    if not (out / SPOOL_FILE).exists():
        raise DataError(f"{out} is not a spool: no {SPOOL_FILE}; give a folder that a builder wrote")
    wanted = {str(reason) for reason in reasons}
    units = [
        int(folder.name.removeprefix("unit-")) for folder in out.glob("unit-*") if wanted & _reasons(folder).keys()
    ]
    for unit in units:
        shutil.rmtree(unit_path(out, unit))
    return sorted(units)


def list_articles(config: PmcConfig) -> Snapshot:
    """Return the pinned list of articles: the config's snapshot, or the archive as it is now."""
    if config.snapshot:
        return read_snapshot(config.snapshot)
    return take_snapshot(config.root, config.layout)


def _spool_config(config: PmcConfig, digest: str) -> dict[str, Any]:
    """The config that decides the spool's bytes: what is in the archive counts, not where it lies."""
    plain = {name: value for name, value in to_dict(config).items() if name not in _WHEREABOUTS}
    for name in ("ids", "exclude_ids"):
        plain["select"][name] = None
    selected = read_ids(config.select).digest
    return {**plain, "builder": "pmc", "listing_sha256": digest, "ids_sha256": selected}


def _run(config: PmcConfig, out: Path, jobs: JobsConfig, waiting: list[int]) -> None:
    """Build the waiting units under a progress bar that counts articles."""
    sizes = [group.num_rows for group in _row_groups(out / LISTING)]
    done = sum(sizes) - sum(sizes[unit] for unit in waiting)
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    function = partial(build_unit, config=config, out=out)
    with tqdm(total=sum(sizes), initial=done, unit="article", desc=config.source, file=sys.stderr) as bar:
        for unit, counts in run_units(function, waiting, jobs, f"build-{config.source}"):
            reasons.update(counts.pop("reasons"))
            totals.update(counts)
            seconds = max(bar.format_dict["elapsed"], 1e-3)
            common = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(_SHOWN_REASONS))
            rates = f"{totals['figures'] / seconds:.1f} figures/s, {totals['samples']} samples"
            bar.set_postfix_str(f"{rates}, {totals['rejects']} rejects ({common or 'none'})", refresh=False)
            bar.update(sizes[unit])


def _row_groups(path: Path) -> list[Any]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number) for number in range(metadata.num_row_groups)]


def _reasons(folder: Path) -> Counter[str]:
    return Counter(pq.read_table(folder / "rejects.parquet", columns=["reason"])["reason"].to_pylist())
