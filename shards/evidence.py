"""What the plan is told about pictures and evaluation sets: tables of facts that were found outside it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

# Two images of the same picture, by their sha256: differing bits of their closest views, correlation of their detail.
NEAR = pa.schema([("first", pa.string()), ("second", pa.string()), ("bits", pa.int32()), ("correlation", pa.float64())])

# removed.parquet of a set: samples dropped because their picture is kept already or is in an evaluation set. `match` is
# the kept sample's key, or what the list calls the item; bits and correlation are null where bytes or ids decided.
REMOVED = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("match", pa.string()),
        ("list", pa.string()),
        ("rule", pa.string()),
        ("bits", pa.int32()),
        ("correlation", pa.float64()),
    ]
)

# One row a sample of an evaluation set; `detail` is that of its reject.
HITS = pa.schema([*REMOVED, ("detail", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`near` has the schema `NEAR`, `hits` that of `HITS` with each key at most once; `counts` are for the manifest."""

    near: pa.Table
    hits: pa.Table
    counts: dict[str, int]


NO_EVIDENCE = Evidence(near=NEAR.empty_table(), hits=HITS.empty_table(), counts={})
