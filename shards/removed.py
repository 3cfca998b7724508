"""A page of what was removed and what it matched: one self-contained HTML file, pictures side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import ConfigError, DataError
from clipmed.files import write_text
from shards.browse import TEMPLATES, article_link, thumbnail
from shards.evalsets import read_evaluation_set
from shards.intake import read_spools
from shards.manifest import REMOVED_FILE, read_manifest
from shards.tars import RandomAccess

_PLACE = ("unit", "jpg_offset", "bytes", "json_offset", "json_size")
_RULES = {
    "bytes": "the same bytes",
    "picture": "the same picture",
    "key": "the same key",
    "article": "the same article",
    "group": "the same group",
    "phash": "the same perceptual hash",
    "same_group": "in one article or group with a match",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedConfig:
    """How much the page shows."""

    max_pairs: int = 300
    """most removed samples shown, in equal shares for each reason, list and rule"""
    thumbnail_side: int = 224
    """longest side of the thumbnails, in pixels"""

    def __post_init__(self) -> None:
        for name in ("max_pairs", "thumbnail_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")


def write_removed_page(
    path: Path,
    spools: Sequence[Path],
    out: Path,
    lists: Sequence[Path] = (),
    config: RemovedConfig | None = None,
) -> tuple[int, int]:
    """Write the page of the set at `path` to `out`; return how many samples it shows of how many were removed.

    Args:
        path: folder of the set.
        spools: the spools that it was packed of, for the pictures.
        out: the file to write.
        lists: files of fingerprints or packed sets that it was decontaminated with, for their pictures.
        config: how much to show.

    Raises:
        DataError: no set, or spools that do not hold a removed sample.
    """
    config = config or RemovedConfig()
    manifest = read_manifest(path)
    rows = pq.read_table(path / REMOVED_FILE).to_pylist()
    shown = _choose(rows, config.max_pairs)
    pictures = _Pictures(spools, lists, config.thumbnail_side)
    pairs = [_pair(row, pictures) for row in tqdm(shown, "thumbnails", delay=2)]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    counts = Counter((row["reason"], row["list"], row["rule"]) for row in rows)
    page = environment.get_template("removed.html").render(
        name=path.resolve().name,
        manifest=manifest,
        pairs=pairs,
        total=len(rows),
        counts=[(*key, _RULES[key[2]], count) for key, count in sorted(counts.items())],
    )
    write_text(out, page)
    return len(pairs), len(rows)


def _choose(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Take the first of every reason, list and rule before the second of any; the closest calls come first."""
    taken: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for row in sorted(rows, key=lambda row: (row["correlation"] or 0, row["key"])):
        cell = (row["reason"], row["list"], row["rule"])
        numbered.append((taken[cell], cell, row))
        taken[cell] += 1
    chosen = sorted(numbered, key=lambda item: item[:2])[:limit]
    return [row for _, _, row in sorted(chosen, key=lambda item: (item[1], item[0]))]


class _Pictures:
    """Thumbnails and provenance of the spools' samples, and thumbnails of the lists' items."""

    def __init__(self, spools: Sequence[Path], lists: Sequence[Path], side: int) -> None:
        self._intake, self._side = read_spools(spools), side
        places = zip(*(self._intake.samples[name].to_pylist() for name in _PLACE), strict=True)
        self._places = dict(zip(self._intake.samples["key"].to_pylist(), places, strict=True))
        self._listed = {entry.name: entry.pictures for entry in map(read_evaluation_set, lists)}

    def sample(self, key: str) -> dict[str, Any] | None:
        """Return what to show of a sample, or None where the spools do not hold it."""
        if key not in self._places:
            return None
        unit, jpg_offset, size, json_offset, json_size = self._places[key]
        tar = RandomAccess(str(self._intake.tars[unit].resolve()), self._intake.version)
        record = json.loads(tar.read(json_offset, json_size))
        phantom = record["source"].startswith("phantom")
        return {
            "name": key,
            "thumbnail": thumbnail(tar.read(jpg_offset, size), self._side),
            "caption": record["captions"][0]["text"],
            "facts": f"{record['source']}, {record['width']} × {record['height']}, group {record['group']}",
            "link": None if phantom else article_link(json.loads(record["provenance"])),
        }

    def item(self, name: str, item: str) -> dict[str, Any]:
        """Return what to show of an item of a list; without a picture where the list was not given or has none."""
        shown: dict[str, Any] = {"name": item, "thumbnail": None, "caption": "", "facts": f"list {name}", "link": None}
        if name not in self._listed:
            return shown
        found = self._listed[name].filter(pc.equal(self._listed[name]["item"], item))
        return {**shown, "thumbnail": thumbnail(found["grey"][0].as_py(), self._side)} if len(found) else shown


def _pair(row: dict[str, Any], pictures: _Pictures) -> dict[str, Any]:
    removed = pictures.sample(row["key"])
    if removed is None:
        raise DataError(f"no spool holds {row['key']}, which the set removed; give all spools that it was packed of")
    in_list = row["list"] and row["rule"] != "same_group"
    match = pictures.item(row["list"], row["match"]) if in_list else pictures.sample(row["match"])
    return {**row, "words": _RULES[row["rule"]], "removed": removed, "other": match, "in_list": in_list}
