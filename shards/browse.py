"""A contact sheet of a shard set: one self-contained HTML file to look at before anything is trained."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from clipmed.errors import ConfigError
from clipmed.files import write_text
from clipmed.images import decode_rgb
from clipmed.records import Split
from shards.manifest import REJECTS_FILE
from shards.randomness import hash_u64
from shards.reader import ShardSet
from shards.stats import attrition_matrix

TEMPLATES = Path(__file__).parent / "templates"
_PMCID = re.compile(r"PMC\d+")
_LONGEST_VALUE = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowseConfig:
    """How much the contact sheet shows."""

    samples_per_cell: int = 8
    """most samples shown for each pair of modality and source"""
    max_samples: int = 400
    """most samples shown in all"""
    thumbnail_side: int = 224
    """longest side of the thumbnails, in pixels"""
    rejects_per_reason: int = 5
    """examples shown for each reason that items were dropped for"""
    seed: int = 0
    """seed of the choice of samples"""

    def __post_init__(self) -> None:
        for name in ("samples_per_cell", "max_samples", "thumbnail_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")


def write_contact_sheet(
    path: Path, out: Path, config: BrowseConfig | None = None, *, progress: bool = True
) -> tuple[int, int]:
    """Write the contact sheet of the set at `path` to `out`; return how many samples and bytes it holds."""
    config = config or BrowseConfig()
    shard_set = ShardSet(path)
    rows = choose_rows(shard_set, config)
    cards = [_card(shard_set, row, config) for row in tqdm(rows, "thumbnails", disable=not progress, delay=2)]
    sources, lines = attrition_matrix(shard_set.manifest)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    page = environment.get_template("browse.html").render(
        name=path.resolve().name,
        manifest=shard_set.manifest,
        digest=shard_set.digest,
        splits={str(split): shard_set.manifest["counts"]["split"].get(str(split), 0) for split in Split},
        cards=cards,
        filters={name: sorted({card[name] for card in cards}) for name in ("modality", "source", "split")},
        attrition_sources=sources,
        attrition_lines=lines,
        rejects=_rejects(path, config),
    )
    write_text(out, page)
    return len(cards), len(page.encode())


def choose_rows(shard_set: ShardSet, config: BrowseConfig) -> list[int]:
    """Choose samples at random, up to the limits, ordered by modality and source."""
    modality, source = shard_set.column("modality"), shard_set.column("source")
    tickets = hash_u64("browse", config.seed, np.arange(len(shard_set)))
    taken: Counter[tuple[str, str]] = Counter()
    chosen: list[tuple[int, str, str, int]] = []
    for row in np.argsort(tickets).tolist():
        cell = (modality[row], source[row])
        if taken[cell] < config.samples_per_cell:
            chosen.append((taken[cell], *cell, row))
            taken[cell] += 1
    kept = sorted(chosen)[: config.max_samples]  # the first of every cell come before the second of any
    return [row for _, _, _, row in sorted(kept, key=lambda item: (item[1], item[2], item[0]))]


def _card(shard_set: ShardSet, row: int, config: BrowseConfig) -> dict[str, Any]:
    record = shard_set.record(row)
    provenance = json.loads(record["provenance"])
    return {
        **{name: record[name] for name in ("key", "source", "modality", "split", "license", "license_group", "group")},
        "size": f"{record['width']} × {record['height']}",
        "thumbnail": thumbnail(shard_set.image_bytes(row), config.thumbnail_side),
        "captions": record["captions"],
        "labels": _named_labels(shard_set, record["labels"]),
        "provenance": _shown(provenance),
        "link": None if record["source"].startswith("phantom") else article_link(provenance),
    }


def article_link(provenance: dict[str, Any]) -> str | None:
    """Return the address of the article that a sample comes from, if its provenance names one.

    Not for phantoms, whose article ids are made up and may be somebody's.
    """
    pmcid = str(provenance.get("pmcid") or "")
    return f"https://pmc.ncbi.nlm.nih.gov/articles/{pmcid}/" if _PMCID.fullmatch(pmcid) else None


def _shown(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the provenance as names and short texts, without what is empty."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in sorted(provenance.items())
        if value not in (None, "", [], {})
    }
    return [
        (name, text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE].rstrip() + " …")
        for name, text in texts.items()
    ]


def _named_labels(shard_set: ShardSet, labels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (task, class names) of a sample's labels, with the display names of the set's vocabulary."""
    tasks = shard_set.manifest["tasks"]
    named = []
    for label in labels:
        names = tasks.get(label["task"], {}).get("classes", {})
        named.append((label["task"], ", ".join(names.get(class_id, class_id) for class_id in label["classes"])))
    return named


def thumbnail(jpeg: bytes, side: int) -> str:
    """Return a smaller JPEG as base64, its longest side `side` pixels at most."""
    image = Image.fromarray(decode_rgb(jpeg, min_side=side))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _rejects(path: Path, config: BrowseConfig) -> list[dict[str, Any]]:
    """Return the reasons that items were dropped for, most frequent first, with counts and examples."""
    table = pq.read_table(path / REJECTS_FILE)
    rows = table.to_pylist()
    counts = Counter((row["stage"], row["reason"]) for row in rows)
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found = examples.setdefault((row["stage"], row["reason"]), [])
        if len(found) < config.rejects_per_reason:
            found.append(row)
    return [
        {"stage": key[0], "reason": key[1], "count": count, "examples": examples[key]}
        for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
