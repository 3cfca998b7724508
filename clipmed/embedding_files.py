"""Files of embeddings, in three formats; each says which checkpoint made it, and tells whether it is whole.

.parquet  columns `path` (or `text`) and `embedding`, a fixed-size list of float32 or float16; needs clipmed[tables]
.npz      array `embeddings` (N, D), and as JSON in UTF-8 `paths.json` (or `texts.json`), the N strings, and
          `metadata.json`; uncompressed
.npy      the embeddings alone, (N, D), and beside it FILE.json: the metadata, and the paths or texts

The metadata (in Parquet the key `clipmed` of the file's own) holds: schema, kind (images or texts), rows, dimensions,
dtype, the checkpoint's location and digest, clipmed's version, how many items were seen and how many rejected, and a
SHA-256 over the rows and what they belong to.

>>> from clipmed import embedding_files
>>> stored = embedding_files.read(Path("embeddings.npz"))  # doctest: +SKIP
>>> stored.embeddings.shape, stored.items[0], stored.metadata["checkpoint_digest"]  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

import clipmed
from clipmed.errors import ConfigError, DataError
from clipmed.extras import require
from clipmed.files import atomic_file, write_json

Kind: TypeAlias = Literal["images", "texts"]
StoredDType: TypeAlias = Literal["float32", "float16"]
Rows: TypeAlias = npt.NDArray[np.floating[Any]]
Part: TypeAlias = tuple[Rows, Sequence[str]]

SCHEMA = 2
SUFFIXES = (".parquet", ".npz", ".npy")
_METADATA_KEY = b"clipmed"
_COLUMNS: dict[str, str] = {"images": "path", "texts": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What made the embeddings, and of what."""

    kind: Kind
    """what was embedded"""
    checkpoint: str
    """where the checkpoint was loaded from"""
    checkpoint_digest: str
    """its `ClipModel.digest`"""
    seen: int
    """items given: rows and rejects together"""
    rejected: int = 0
    """items that could not be embedded"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEmbeddings:
    """What a file holds: row i of `embeddings`, (N, D), is that of `items[i]`, a path or a text."""

    embeddings: Rows
    """float32 or float16, (N, D), unit length"""
    items: list[str]
    """N paths or texts"""
    metadata: dict[str, Any]
    """what made them; the module's docstring lists the keys"""


class _Table:
    """What a writer needs: rows that are gone through once, their shape before, and the items and metadata after."""

    def __init__(self, parts: Iterable[Part], provenance: Provenance) -> None:
        self.column = _COLUMNS[provenance.kind]
        self.items: list[str] = []
        self._provenance = provenance
        self._parts = iter(parts)
        self._first = next(self._parts, None)
        self._sums = _Sums()
        if self._first is not None:
            self._sums.add(*self._first)
        self.dtype, self.shape = self._sums.dtype, (provenance.seen - provenance.rejected, self._sums.dimensions)
        if self.dtype not in get_args(StoredDType):
            raise ConfigError(
                f"embeddings: got {self.dtype or 'no rows'}; allowed: rows of {' or '.join(get_args(StoredDType))}"
            )

    def parts(self) -> Iterator[Part]:
        """Yield the parts, once."""
        assert self._first is not None
        yield self._first
        self.items += self._first[1]
        for rows, items in self._parts:
            self._sums.add(rows, items)
            self.items += items
            yield rows, items
        if len(self.items) != self.shape[0]:
            raise ConfigError(f"embeddings: got {len(self.items)} rows; allowed: {self.shape[0]}, seen less rejected")

    def metadata(self) -> dict[str, Any]:
        """Return what is said of the rows, when they have been gone through."""
        return {
            "schema": SCHEMA,
            **asdict(self._provenance),
            "rows": self.shape[0],
            "dimensions": self.shape[1],
            "dtype": self.dtype,
            "clipmed": clipmed.__version__,
            "sha256": self._sums.digest(),
        }


def write(path: Path, embeddings: Rows, items: Sequence[str], provenance: Provenance) -> dict[str, Any]:
    """Write embeddings, (N, D) float32 or float16, and the paths or texts they belong to; return the metadata.

    Raises:
        ConfigError: an ending other than .parquet, .npz and .npy, or rows and items that do not match.
    """
    return write_parts(path, [(embeddings, items)], provenance)


def write_parts(path: Path, parts: Iterable[Part], provenance: Provenance) -> dict[str, Any]:
    """Write the same as `write`, from parts that need not fit into memory together.

    Args:
        path: the file; what stands there is replaced, once the new one is whole.
        parts: the parts in order, gone through once; the first one's shape and type hold for all.
        provenance: what made them.
    """
    require_suffix(path)
    table = _Table(parts, provenance)
    {".parquet": _write_parquet, ".npz": _write_npz, ".npy": _write_npy}[path.suffix](path, table)
    return table.metadata()


def read(path: Path, *, checkpoint_digest: str | None = None) -> StoredEmbeddings:
    """Read a file of embeddings, and check it against its own digest.

    Args:
        path: a file that `write` wrote.
        checkpoint_digest: the checkpoint that the embeddings must be of, as `ClipModel.digest` says it.

    Raises:
        ConfigError: an ending that is none of the formats, no such file, or embeddings of another checkpoint.
        DataError: a file that is damaged, or was written by something else.
    """
    require_suffix(path)
    if not path.is_file():
        raise ConfigError(f"no such file: {path}; give one that clipmed embed wrote")
    try:
        stored = {".parquet": _read_parquet, ".npz": _read_npz, ".npy": _read_npy}[path.suffix](path)
        sums = _Sums()
        sums.add(stored.embeddings, stored.items)
        known = (stored.metadata["schema"], stored.metadata["sha256"], stored.metadata["checkpoint_digest"])
    except ConfigError:
        raise
    except Exception as error:  # readers of damaged bytes raise whatever they stumble over
        raise DataError(
            f"{path} is not a whole file of embeddings: {error}; write it again with clipmed embed"
        ) from error
    if known[0] != SCHEMA:
        raise DataError(f"{path} has the schema {known[0]!r:.40}; this clipmed reads {SCHEMA}: write it again")
    if known[1] != sums.digest():
        raise DataError(
            f"{path} is damaged or was changed: its rows do not have the digest that it states; write it again"
        )
    if checkpoint_digest not in (None, known[2]):
        raise ConfigError(
            f"{path} holds embeddings of the checkpoint {known[2]:.12}…, not of {checkpoint_digest:.12}…: the two "
            "cannot be compared; embed again with this checkpoint"
        )
    return stored


def require_suffix(path: Path) -> None:
    """Raise a ConfigError unless the file's ending is one of the formats', or pyarrow lacks for Parquet."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"embeddings: got {path.name}; allowed endings: {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        require("pyarrow", "tables")


class _Sums:
    """What is known of rows after going through them once; the same however they are cut into parts."""

    def __init__(self) -> None:
        self.num_rows, self.dimensions, self.dtype = 0, 0, ""
        self._of_rows, self._of_items = hashlib.sha256(), hashlib.sha256()

    def add(self, rows: Rows, items: Sequence[str]) -> None:
        if not self.dtype and rows.ndim == 2:
            self.dimensions, self.dtype = int(rows.shape[1]), rows.dtype.name
        if rows.shape != (len(items), self.dimensions) or rows.dtype.name != self.dtype:
            raise ConfigError(
                f"embeddings: got {rows.dtype} of shape {rows.shape} for {len(items)} items; allowed: one row an item, "
                "all rows of one length and type"
            )
        self.num_rows += len(rows)
        self._of_rows.update(np.ascontiguousarray(rows).tobytes())
        for item in items:
            self._of_items.update(json.dumps(item).encode() + b"\n")

    def digest(self) -> str:
        shape = f"{self.num_rows}x{self.dimensions}:{self.dtype};".encode()
        return hashlib.sha256(shape + self._of_rows.digest() + self._of_items.digest()).hexdigest()


def _write_parquet(path: Path, table: _Table) -> None:
    arrow: Any = require("pyarrow", "tables")
    parquet: Any = require("pyarrow.parquet", "tables")
    dimensions = table.shape[1]
    value = arrow.float16() if table.dtype == "float16" else arrow.float32()
    schema = arrow.schema([(table.column, arrow.string()), ("embedding", arrow.list_(value, dimensions))])
    with atomic_file(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows, items in table.parts():
            flat = arrow.array(np.ascontiguousarray(rows).reshape(-1), type=value)
            lists = arrow.FixedSizeListArray.from_arrays(flat, dimensions)
            writer.write_table(arrow.table([arrow.array(items, arrow.string()), lists], schema=schema))
        writer.add_key_value_metadata({_METADATA_KEY: json.dumps(table.metadata(), sort_keys=True)})


def _read_parquet(path: Path) -> StoredEmbeddings:
    parquet: Any = require("pyarrow.parquet", "tables")
    with parquet.ParquetFile(path) as file:
        metadata, table = json.loads(file.metadata.metadata[_METADATA_KEY]), file.read()
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = flat.reshape(-1, metadata["dimensions"])
    return StoredEmbeddings(embeddings=rows, items=table[_COLUMNS[metadata["kind"]]].to_pylist(), metadata=metadata)


def _write_npz(path: Path, table: _Table) -> None:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as stream:
            _write_rows(stream, table)
        for name, value in ((f"{table.column}s", table.items), ("metadata", table.metadata())):
            with archive.open(f"{name}.json", "w", force_zip64=True) as stream:
                stream.write(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def _read_npz(path: Path) -> StoredEmbeddings:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        members: Any = stored  # those that are no arrays are bytes
        metadata = json.loads(members["metadata.json"])
        items = json.loads(members[f"{_COLUMNS[metadata['kind']]}s.json"])
        return StoredEmbeddings(embeddings=stored["embeddings"], items=items, metadata=metadata)


def _write_npy(path: Path, table: _Table) -> None:
    with atomic_file(path) as temporary:
        with temporary.open("wb") as stream:
            _write_rows(stream, table)
        write_json(_sidecar(path), {"metadata": table.metadata(), f"{table.column}s": table.items})


def _read_npy(path: Path) -> StoredEmbeddings:
    beside = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    metadata = beside["metadata"]
    rows = np.load(path, allow_pickle=False)
    return StoredEmbeddings(embeddings=rows, items=beside[f"{_COLUMNS[metadata['kind']]}s"], metadata=metadata)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_rows(stream: IO[bytes], table: _Table) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(table.dtype))
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": table.shape})
    for rows, _ in table.parts():
        stream.write(np.ascontiguousarray(rows).tobytes())
