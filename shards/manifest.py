"""The manifest of a shard set: what it holds, where it comes from, and counts that add up."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmed.errors import DataError
from clipmed.licenses import LicenseGroup, license_group
from clipmed.records import Split, canonical_json
from clipmed.rejects import Stage
from shards.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
INDEX_FILE = "samples.parquet"
REJECTS_FILE = "rejects.parquet"
REMOVED_FILE = "removed.parquet"
CARD_FILE = "README.md"

_URL = re.compile(r"(s3|https?):/")  # as a URL looks once it has become a path

COUNTED = ("split", "modality", "source", "license", "license_group")
_ROAD = ("items_seen", *(str(stage) for stage in Stage), "samples")
_SPLIT_ORDER = {str(split): number for number, split in enumerate(Split)}
_WITHOUT_ATTRIBUTION = frozenset({"CC0-1.0", "LicenseRef-public-domain"})
_GROUPS = tuple(str(group) for group in LicenseGroup)  # from least to most restrictive


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the set in the folder `path`.

    Raises:
        DataError: no set there, or of another schema version.
    """
    try:
        return parse_manifest((path / MANIFEST).read_bytes(), str(path))
    except FileNotFoundError as error:
        if _URL.match(str(path)):
            raise DataError(f"{path} is a URL; give a folder: copy the set first") from error
        raise DataError(f"{path} is not a shard set: no {MANIFEST}; give a folder that `shards pack` wrote") from error


def parse_manifest(data: bytes, location: str) -> dict[str, Any]:
    """Return the manifest whose bytes are given, of the set at `location`.

    Raises:
        DataError: not a manifest, or of another schema version.
    """
    try:
        manifest: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise DataError(f"{location}/{MANIFEST} is not JSON: {error}; pack the set again") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{location} has schema version {version!r}; allowed: {SCHEMA_VERSION}; pack the set again")
    return manifest


def checksum(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content without its own `checksum`."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def count_samples(samples: pa.Table) -> dict[str, dict[str, int]]:
    """Count samples by split, modality, source, licence and licence group."""
    return {name: dict(sorted(Counter(samples[name].to_pylist()).items())) for name in COUNTED}


def license_of_set(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Return what the licences of the samples mean for the set as a whole.

    `group` is the most restrictive licence group, which is the set's own, and `most_restrictive` the licences of it;
    `licenses` counts the samples of each. The flags say whether any sample asks for attribution, for adapted versions
    under the same licence (share_alike), forbids them (no_derivatives) or commercial use (noncommercial), or has a
    licence that is not known (unknown).
    """
    group = max(counts["license_group"], key=_GROUPS.index, default=_GROUPS[0])
    licenses = counts["license"]
    return {
        "group": group,
        "licenses": licenses,
        "most_restrictive": sorted(name for name in licenses if license_group(name) == group),
        "attribution": any(name not in _WITHOUT_ATTRIBUTION for name in licenses),
        "share_alike": any("-SA" in name for name in licenses),
        "no_derivatives": any("-ND" in name for name in licenses),
        "noncommercial": any("-NC" in name for name in licenses),
        "unknown": any(license_group(name) is LicenseGroup.OTHER for name in licenses),
    }


def attrition(seen: Counter[str], rejects: pa.Table, samples: pa.Table) -> list[dict[str, Any]]:
    """Return the attrition table: for each source the items seen, the drops by stage and reason, the samples by split.

    Args:
        seen: items seen, by source.
        rejects: all dropped items (columns source, stage, reason).
        samples: the set's samples (columns source, split).

    Raises:
        DataError: a source's drops and samples do not add up to the items seen.
    """
    table = count_attrition(rejects, samples)
    table.update({(source, "source", "items_seen"): count for source, count in seen.items()})

    def place(key: tuple[str, str, str]) -> tuple[str, int, int, str]:
        source, stage, reason = key
        step = "items_seen" if reason == "items_seen" else stage
        return source, _ROAD.index(step), _SPLIT_ORDER.get(reason, 0), reason

    rows = [
        {"source": source, "stage": stage, "reason": reason, "count": table[source, stage, reason]}
        for source, stage, reason in sorted(table, key=place)
    ]
    if wrong := unbalanced(rows):
        raise DataError(f"the counts of {', '.join(wrong)} do not add up: items seen are not rejects + samples")
    return rows


def unbalanced(rows: list[dict[str, Any]]) -> list[str]:
    """Return the sources of an attrition table whose drops and samples do not add up to the items seen."""
    balance: Counter[str] = Counter()
    for row in rows:
        balance[row["source"]] += row["count"] if row["reason"] == "items_seen" else -row["count"]
    return sorted(source for source, rest in balance.items() if rest)


def count_attrition(rejects: pa.Table, samples: pa.Table) -> Counter[tuple[str, str, str]]:
    """Count drops by (source, stage, reason) and samples by (source, "samples", split)."""
    dropped = zip(*(rejects[name].to_pylist() for name in ("source", "stage", "reason")), strict=True)
    kept = zip(*(samples[name].to_pylist() for name in ("source", "split")), strict=True)
    counts: Counter[tuple[str, str, str]] = Counter(dropped)
    counts.update((source, "samples", split) for source, split in kept)
    return counts
