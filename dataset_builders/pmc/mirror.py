"""Fill a local mirror with what a build would read, for machines that compute without a network.

<mirror>/PMC<id>.<v>/…, metadata/…                        as in the bucket: a root to build from
<mirror>/.fetched/<listing>/articles.parquet              the listed article versions, one row group a unit
<mirror>/.fetched/<listing>/unit-00003.json               counts of a finished unit, and what could not be had
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.files import write_json
from clipmed.jobs import JobsConfig, run_units
from dataset_builders.pmc.archive import open_archive
from dataset_builders.pmc.build import LISTING, list_articles
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.metadata import printable
from dataset_builders.pmc.reading import Outcome, read_articles
from dataset_builders.pmc.selection import read_ids
from dataset_builders.pmc.snapshot import read_unit, write_units


@dataclass(slots=True)
class Fetched:
    """What became of a unit's articles and files: counts, the files' bytes, and a row for each that is not there."""

    counts: Counter[str] = field(default_factory=Counter)
    missing: list[dict[str, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one article."""
        name = printable(outcome.ref.path)
        self.counts["articles"] += 1
        if outcome.error is not None:
            self._miss(name, outcome.error)
        if outcome.article is None:
            return
        self.counts["articles_fetched"] += 1
        for href, media in outcome.article.media.items():
            if isinstance(media, ItemRejectedError):
                self._miss(f"{name}/{href}", media)
            else:
                self.counts["media"] += 1
                self.counts["media_bytes"] += len(media.data)

    def _miss(self, item: str, error: ItemRejectedError) -> None:
        self.counts[str(error.reason)] += 1
        self.missing.append({"item": item, "reason": str(error.reason), "detail": error.detail})


def fill_mirror(config: PmcConfig, jobs: JobsConfig) -> dict[str, int]:
    """Fetch the metadata, XML and referenced media of every selected article into `config.mirror`; go on after a stop.

    Returns:
        counts: articles, articles_fetched, media, media_bytes, and one count for each reason that something is missing.

    Raises:
        ConfigError: no mirror is named.
        DataError: the server cannot be reached.
    """
    if config.mirror is None:
        raise ConfigError("mirror: got none; give the folder that is to be filled")
    listing = list_articles(config)
    folder = config.mirror / ".fetched" / listing.digest[:16]
    write_units(listing, folder / LISTING, config.num_units)
    done = {unit for unit in range(config.num_units) if _receipt(folder, unit).exists()}
    waiting = [unit for unit in range(config.num_units) if unit not in done]
    totals: Counter[str] = Counter()
    with tqdm(total=config.num_units, initial=len(done), unit="unit", desc="mirror", file=sys.stderr) as bar:
        for _, counts in run_units(partial(fetch_unit, config=config, folder=folder), waiting, jobs, "pmc-mirror"):
            totals.update(counts)
            seconds = max(bar.format_dict["elapsed"], 1e-3)
            rate = f"{totals['articles'] / seconds:.1f} articles/s, {totals['media_bytes'] / seconds / 1e6:.1f} MB/s"
            bar.set_postfix_str(f"{rate}, {totals['media']} files", refresh=False)
            bar.update()
    return _add_up(folder, config.num_units)


def fetch_unit(unit: int, config: PmcConfig, folder: Path) -> dict[str, int]:
    """Fetch the articles of one unit and write its receipt; return its counts."""
    fetched = Fetched()
    refs = read_unit(folder / LISTING, unit)
    archive, threads = open_archive(config), config.network.concurrency
    for outcome in read_articles(refs, archive, config, read_ids(config.select), threads):
        fetched.add(outcome)
    write_json(_receipt(folder, unit), {"counts": dict(sorted(fetched.counts.items())), "missing": fetched.missing})
    return dict(fetched.counts)


def _receipt(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit:05d}.json"


def _add_up(folder: Path, num_units: int) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for unit in range(num_units):
        content: dict[str, Any] = json.loads(_receipt(folder, unit).read_text())
        totals.update(content["counts"])
    return dict(sorted(totals.items()))
