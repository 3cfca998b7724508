"""What an index folder holds, and `index.json`, which says how long each file is and what its SHA-256 is.

index.json               this description
embeddings.bin           (N, D) float32 or float16, little-endian, unit length; in row order, or cluster by cluster
rows.jsonl               one line a row, sorted by path: path, caption, and the file's size, time of change and SHA-256
rejects.jsonl            one line an image that is not in the index, with the reason
thumbnails.bin           JPEGs of up to 128 pixels a side, end to end in row order (optional)
thumbnail_offsets.bin    (N + 1,) uint64: where each begins and ends
centroids.bin            (C, D) float32, of clustered indexes
cluster_offsets.bin      (C + 1,) uint64: where each cluster begins and ends among the stored embeddings
cluster_rows.bin         (N,) uint64: the row of each stored embedding

Nothing of it is code, and no library's own format is read: every file is numbers or text of a stated length, which is
checked against `index.json` before use. A digest guards against damage. An index from somebody else can still say what
it likes about which picture resembles which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, DataError
from clipmed.search.choices import DType, Kind

FORMAT, VERSION = "clipmed-index", 1
INDEX_FILE = "index.json"
EMBEDDINGS, ROWS, REJECTS = "embeddings.bin", "rows.jsonl", "rejects.jsonl"
THUMBNAILS, THUMBNAIL_OFFSETS = "thumbnails.bin", "thumbnail_offsets.bin"
CENTROIDS, CLUSTER_OFFSETS, CLUSTER_ROWS = "centroids.bin", "cluster_offsets.bin", "cluster_rows.bin"
MAX_INDEX_BYTES = 1 << 20  # of index.json
MAX_ROWS, MAX_DIMENSION = 1 << 40, 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that embedded the images."""

    location: str
    """as it was given to `clipmed.load`; of a folder, the absolute path"""
    digest: str
    """`clipmed.checkpoints.checkpoint_digest`: queries must come from a checkpoint with the same"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file of the index must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """How a clustered index is searched, and what that costs in recall."""

    count: int
    """clusters"""
    probes: int
    """clusters that a query looks into: those whose centroids are nearest"""
    recall_images: float
    """share of the ten nearest neighbours of sampled images that those clusters hold"""
    recall_texts: float
    """the same of sampled texts"""
    sampled_images: int
    sampled_texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """The content of `index.json`; `rows` + `rejected` = images that were given."""

    format: str
    version: int
    created_by: str
    checkpoint: Source
    computed_in: str
    """dtype of the towers when the images were embedded"""
    kind: Kind
    dtype: DType
    dimension: int
    rows: int
    rejected: int
    captions: int
    """rows with a caption"""
    captions_without_image: int
    """captions of files that are not in the index"""
    clusters: ClusterFacts | None
    files: dict[str, FileFacts]

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rows", 1, MAX_ROWS),
            ("dimension", 1, MAX_DIMENSION),
            ("rejected", 0, MAX_ROWS),
            ("captions", 0, self.rows),
            ("captions_without_image", 0, MAX_ROWS),
        ):
            if not low <= (got := getattr(self, name)) <= high:
                raise ConfigError(f"{name}: got {got}; allowed: {low} to {high}")
        if (self.kind == "clustered") != (self.clusters is not None):
            raise ConfigError(f"kind {self.kind!r} and clusters disagree")
        if self.clusters and not 1 <= self.clusters.probes <= self.clusters.count <= self.rows:
            raise ConfigError("clusters: allowed: 1 <= probes <= count <= rows")
        for name, size in self.sizes().items():
            if name not in self.files or size not in (None, self.files[name].bytes):
                raise ConfigError(f"files: {name} must be there" + (f" with {size} bytes" if size else ""))
        if unknown := sorted(self.files.keys() - self.sizes().keys()):
            raise ConfigError(f"files: {unknown[0]!r} is none of an index of this kind")

    @property
    def has_thumbnails(self) -> bool:
        """Whether the index holds small pictures of its rows."""
        return THUMBNAILS in self.files

    def sizes(self) -> dict[str, int | None]:
        """Return the length in bytes of every file of such an index, None where any is right."""
        width = 4 if self.dtype == "float32" else 2
        sizes: dict[str, int | None] = {EMBEDDINGS: self.rows * self.dimension * width, ROWS: None, REJECTS: None}
        if self.has_thumbnails:
            sizes |= {THUMBNAILS: None, THUMBNAIL_OFFSETS: 8 * (self.rows + 1)}
        if self.clusters:
            count = self.clusters.count
            sizes |= {CENTROIDS: 4 * count * self.dimension, CLUSTER_OFFSETS: 8 * (count + 1)}
            sizes[CLUSTER_ROWS] = 8 * self.rows
        return sizes


def read_facts(folder: Path) -> IndexFacts:
    """Return the content of an index's `index.json`, and check that the files named there have their lengths.

    Raises:
        ConfigError: there is no index in the folder.
        DataError: the description is damaged or of a later format, or a file is missing or has another length.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is not a search index: no {INDEX_FILE} in it; `clipmed index` makes one")
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"more than {MAX_INDEX_BYTES} bytes")
        data = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; build the index anew") from error
    _check_version(data, path)
    try:
        facts = from_dict(IndexFacts, data, str(path))
    except (ConfigError, RecursionError) as error:
        raise DataError(f"{error}; the index is damaged: build it anew") from error
    for name, wanted in facts.files.items():
        _check_length(folder / name, wanted.bytes)
    return facts


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _check_version(data: Any, path: Path) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a search index; `clipmed index` makes one")
    if data.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {str(data.get('version'))[:40]}; this clipmed reads {VERSION}: build the index "
            "anew, or take the clipmed that built it"
        )


def _check_length(path: Path, wanted: int) -> None:
    try:
        got = path.stat().st_size if path.is_file() else None
    except OSError:
        got = None
    if got != wanted:
        shown = "is missing" if got is None else f"has {got} bytes"
        raise DataError(f"{path} {shown}; allowed: {wanted} bytes; the index is damaged: build it anew")
