"""Column types of the parquet files that cross the rooms: samples, rejects, and the index of a shard set."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

CAPTION = pa.struct([("text", pa.string()), ("origin", pa.string()), ("model", pa.string()), ("prompt", pa.string())])
LABEL = pa.struct([("task", pa.string()), ("classes", pa.list_(pa.string()))])

# One row a sample; the values are those of `clipmed.records.Sample.row()`.
SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("captions", pa.list_(CAPTION)),
        ("labels", pa.list_(LABEL)),
        ("facts", pa.string()),  # canonical JSON, null for free text
        ("modality", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),  # null in a spool where the source has no official split
        ("license", pa.string()),
        ("license_group", pa.string()),
        ("provenance", pa.string()),  # canonical JSON
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the stored JPEG
        ("phash", pa.string()),
    ]
)

# One row a dropped item: the values of `clipmed.rejects`.
REJECTS = pa.schema(
    [
        ("source", pa.string()),
        ("item", pa.string()),  # the source's own id of the item
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

MEMBERS = ("jpg", "json", "txt")

# samples.parquet of a shard set: the sample's columns, and where each member's bytes lie in its shard.
INDEX = pa.schema(
    [
        *SAMPLES,
        ("shard", pa.string()),
        *((f"{member}_{what}", pa.int64()) for member in MEMBERS for what in ("offset", "size")),
    ]
)
