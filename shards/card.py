"""The dataset card of a shard set: README.md in its folder, made from the manifest alone.

The metadata block is that of the Hugging Face hub (https://huggingface.co/docs/hub/datasets-cards). Equal manifests
give equal bytes, so that `shards verify` can say when a card does not belong to its set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from clipmed.records import Split

PHANTOM_PREFIX = "phantom"
_TABLES = {"split": "split", "modality": "modality", "source": "source", "license": "licence"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip
_LARGER = "100M<n<1B"
# Licences that the hub knows by the lower-case SPDX name.
_HUB_LICENSES = frozenset({"CC0-1.0", "MIT", "Apache-2.0", "BSD-3-Clause"})
_GROUPS = {
    "commercial": "All samples have licences that allow commercial use.",
    "noncommercial": "Some samples are licensed for non-commercial use only, and so is the set as a whole.",
    "other": "Some samples have licences that are not known to allow any use: ask their owners, or pack without them.",
}
_FLAGS = {
    "attribution": "Credit the authors of what you use or pass on: the provenance of each sample names its source.",
    "share_alike": "Adapted samples under a ShareAlike licence must be passed on under the same licence.",
    "no_derivatives": "Samples under a NoDerivatives licence must not be passed on in adapted form.",
    "noncommercial": "Samples under a NonCommercial licence must not be used for commercial ends.",
    "unknown": "Samples under `LicenseRef-…` have terms of their own or none that are known.",
}
_LOADING = """\
With clipmed, any sample by its number:

```python
from pathlib import Path

from shards.reader import ShardSet

shards = ShardSet(Path("this folder, or its address"))
row = shards.rows("train")[0]
jpeg, captions, labels = shards.image_bytes(row), shards.captions(row), shards.labels(row)
```

With webdataset, as a stream:

```python
import glob

import webdataset as wds

stream = wds.WebDataset(sorted(glob.glob("train-*.tar")), shardshuffle=False)
for image, text, record in stream.decode("pil").to_tuple("jpg", "txt", "json"):
    print(image.size, text, record["license"])
```

`samples.parquet` has a row for every sample, `rejects.parquet` for every item that was dropped, `removed.parquet` for
those whose picture was kept already or is in an evaluation set. `python -m shards verify` checks every byte."""


def card_text(manifest: Mapping[str, Any]) -> str:
    """Return the card as Markdown with the hub's metadata block."""
    counts = manifest["counts"]
    parts = [
        _metadata(manifest),
        "# Medical images with captions",
        _lead(manifest),
        *_phantoms(counts["source"]),
        "## What it holds",
        *(_count_table(name, title, counts) for name, title in _TABLES.items()),
        "## Captions",
        *_captions(manifest["captions"]),
        "## Licence",
        *_license(manifest["license"]),
        "## Load it",
        _LOADING,
        "## From items seen to samples",
        _attrition(manifest["attrition"]),
        "## Evaluation sets kept out",
        _decontamination(manifest["decontamination"]),
        "## Limits",
        "For research. Not for diagnosis. Captions of articles are as their authors wrote them; nobody has checked "
        "that each one describes its image.",
        f"This card was made from `manifest.json` (checksum {manifest['checksum']}).",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(manifest: Mapping[str, Any]) -> str:
    total = manifest["counts"]["samples"]
    licenses = sorted(manifest["license"]["licenses"])
    known = len(licenses) == 1 and (licenses[0] in _HUB_LICENSES or licenses[0].startswith("CC-BY"))
    terms = (
        {"license": licenses[0].lower()}
        if known
        else {"license": "other", "license_name": f"mixed-{manifest['license']['group']}", "license_link": "README.md"}
    )
    block = {
        **terms,
        "pretty_name": "Medical images with captions",
        "task_categories": ["zero-shot-image-classification", "image-to-text"],
        "size_categories": [next((name for limit, name in _SIZES if total < limit), _LARGER)],
        "tags": ["medical", "webdataset", *sorted(manifest["counts"]["modality"])],
    }
    return f"---\n{yaml.safe_dump(block, sort_keys=False, allow_unicode=True)}---"


def _lead(manifest: Mapping[str, Any]) -> str:
    counts, num_shards = manifest["counts"], len(manifest["shards"])
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    return (
        f"{counts['samples']:,} images with captions from {_number(counts['source'], 'source')}, "
        f"in {num_shards:,} tar {'files' if num_shards != 1 else 'file'} of {size:,.1f} MB together."
    )


def _phantoms(sources: Mapping[str, int]) -> list[str]:
    drawn = [name for name in sources if name.startswith(PHANTOM_PREFIX)]
    if not drawn:
        return []
    which = "All" if len(drawn) == len(sources) else "Some"
    return [f"> **{which} of these images are phantoms**: drawn by a program, not medical images."]


def _count_table(name: str, title: str, counts: Mapping[str, Any]) -> str:
    found = counts[name]
    order = [str(split) for split in Split if str(split) in found] if name == "split" else sorted(found)
    rows = [f"| {value} | {found[value]:,} |" for value in order]
    return "\n".join([f"| {title} | samples |", "|---|---:|", *rows])


def _captions(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [f"| {origin} | {count:,} |" for origin, count in found["by_origin"].items()]
    yield "\n".join(["| origin | captions |", "|---|---:|", *rows])
    if found["by_model"]:
        yield "Not written by a source, but made from labels, from images or out of other texts:"
        yield "\n".join(f"- {name}: {count:,}" for name, count in found["by_model"].items())
    if found["stores"]:
        stores = ", ".join(f"{store['store']} (`{store['digest'][:16]}`)" for store in found["stores"])
        yield f"Captions of language models come from {stores}; each passed a guard that compares it with the facts."


def _license(terms: Mapping[str, Any]) -> Iterator[str]:
    yield f"Every sample keeps its own licence; the licence group of the set is **{terms['group']}**."
    yield f"{_GROUPS[terms['group']]} Most restrictive: {', '.join(terms['most_restrictive']) or 'none'}."
    if duties := [f"- {text}" for name, text in _FLAGS.items() if terms[name]]:
        yield "\n".join(duties)


def _attrition(rows: list[dict[str, Any]]) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts["" if row["reason"] == "items_seen" else row["stage"], row["reason"]] += row["count"]
    seen = counts.pop(("", "items_seen"), 0)
    dropped = {key: count for key, count in counts.items() if key[0] != "samples"}
    lines = [f"| seen |  | {seen:,} |"]
    lines += [f"| {stage} | {reason} | −{count:,} |" for (stage, reason), count in dropped.items()]
    lines += [f"| kept | {name} | {count:,} |" for (stage, name), count in counts.items() if stage == "samples"]
    return "\n".join(["| stage | reason | items |", "|---|---|---:|", *lines])


def _decontamination(found: Mapping[str, Any]) -> str:
    if not found["lists"]:
        return "None: the set was packed without lists of evaluation sets."
    dropped: dict[str, list[str]] = {entry["list"]: [] for entry in found["lists"]}
    for row in found["dropped"]:
        dropped[row["list"]].append(f"{row['samples']:,} by {row['rule']}")
    rows = [
        f"| {entry['list']} | {', '.join(dropped[entry['list']]) or '0'} | `{entry['sha256'][:16]}` |"
        for entry in found["lists"]
    ]
    return "\n".join(["| list | samples dropped, by rule | sha256 |", "|---|---|---|", *rows])


def _number(values: Mapping[str, int], noun: str) -> str:
    return f"{len(values):,} {noun}{'s' if len(values) != 1 else ''}"
