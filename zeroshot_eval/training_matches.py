"""Which evaluated samples are in a training set, each by the strongest rule that finds it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.contamination import find_hits
from shards.evalsets import ID_COLUMNS, EvaluationSet
from shards.fingerprints import FINGERPRINTS
from shards.intake import IDS
from shards.reader import ShardSet
from zeroshot_eval.pictures_in_training import Likeness, Picture, same_pictures
from zeroshot_eval.predictions import Predictions

Ints = npt.NDArray[np.int64]

_FOUND = pa.schema(
    [("sha256", pa.string()), ("list", pa.string()), ("item", pa.string()), ("bits", pa.int32()),
     ("correlation", pa.float64())]
)  # fmt: skip
_SAMPLES = pa.schema([("source", pa.string()), *((name, pa.string()) for name in ID_COLUMNS)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A sample that is in a training set, by the strongest rule that finds it; bits and correlation of pictures."""

    key: str
    rule: str
    """bytes, picture, key, article, group, or same_group: another sample of its group is in the training set"""
    match: str
    """what was found in the training set"""
    training: str
    bits: int | None
    correlation: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A sample that some task asked."""

    key: str
    source: str
    group: str
    sha256: str
    facts: Mapping[str, str]


def asked_samples(predictions: Predictions) -> Iterator[Asked]:
    """Yield the sample of each row of stored answers."""
    columns = [predictions.column(name) for name in ("key", "source", "group", "sha256")]
    for key, source, group, sha256, facts in zip(*columns, predictions.facts, strict=True):
        yield Asked(key, source, group, sha256 or "", facts)


def find_leaks(
    asked: Sequence[Asked],
    pictures: Mapping[str, Picture],
    training: Sequence[ShardSet],
    splits: Sequence[str],
    likeness: Likeness,
) -> dict[str, Leak]:
    """Return the samples that are in a training set, by key.

    Args:
        asked: the samples.
        pictures: their pictures by key, as far as they are to be compared.
        training: the training sets.
        splits: their splits that count.
        likeness: what counts as the same picture.
    """
    lists = [_as_list(one, splits) for one in training]
    stored = frozenset[str]().union(*(one.ids["sha256"] for one in lists))
    digests = {one.key: _digest(one, pictures.get(one.key), stored) for one in asked}
    rows = [
        {
            "source": one.source,
            "key": one.key,
            "group": one.group,
            "sha256": digests[one.key],
            "phash": "",
            **{name: one.facts.get(name, "") for name in IDS},
        }
        for one in asked
    ]
    found = []
    for shard_set, entry in zip(training, lists, strict=True):
        unknown = {key: one for key, one in pictures.items() if digests[key] not in entry.ids["sha256"]}
        keys = shard_set.arrow_column("key")
        for key, one in same_pictures(unknown, shard_set, split_rows(shard_set, splits), likeness).items():
            found.append(
                {
                    "sha256": digests[key],
                    "list": entry.name,
                    "item": keys[one.row].as_py(),
                    "bits": one.bits,
                    "correlation": one.correlation,
                }
            )
    samples = pa.Table.from_pylist(rows, _SAMPLES)
    hits = find_hits(samples, lists, pa.Table.from_pylist(found, _FOUND), groups=True)
    return {row["key"]: _leak(row) for row in hits.to_pylist()}


def split_rows(shard_set: ShardSet, splits: Sequence[str]) -> Ints:
    """Return the rows of some splits, rising."""
    return np.sort(np.concatenate([shard_set.rows(split) for split in splits]))


def _leak(hit: Mapping[str, Any]) -> Leak:
    return Leak(
        key=hit["key"],
        rule=hit["rule"],
        match=hit["match"],
        training=hit["list"],
        bits=hit["bits"],
        correlation=hit["correlation"],
    )


def _digest(one: Asked, picture: Picture | None, stored: frozenset[str]) -> str:
    """Return the digest of a sample that a training set holds, or else its own."""
    own = [digest for digest in (one.sha256, *(picture.sha256 if picture else ())) if digest]
    return next((digest for digest in own if digest in stored), own[0] if own else "")


def _as_list(shard_set: ShardSet, splits: Sequence[str]) -> EvaluationSet:
    """Return a training set as the list that samples are looked for in."""
    rows = split_rows(shard_set, splits)
    columns = {
        name: shard_set.arrow_column(name).take(rows).to_pylist()
        for name in ("key", "source", "group", "sha256", "provenance")
    }
    told = [json.loads(text) if text else {} for text in columns["provenance"]]
    ids = {name: {str(own.get(name) or "") for own in told} for name in IDS}
    ids["doi"] = {doi.lower() for doi in ids["doi"]}
    ids["group"] = {f"{source}/{group}" for source, group in zip(columns["source"], columns["group"], strict=True)}
    ids |= {"key": set(columns["key"]), "sha256": set(columns["sha256"])}
    return EvaluationSet(
        name=shard_set.location,
        sha256=shard_set.digest,
        ids={name: frozenset(ids.get(name, ())) - {""} for name in ID_COLUMNS},
        pictures=FINGERPRINTS.empty_table(),
    )
