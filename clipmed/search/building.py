"""Building an index: what an older index or a killed run has embedded is taken over, the rest is embedded in parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import clipmed
from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from clipmed.extras import require
from clipmed.files import FileStamp, atomic_folder, sha256_file, stamp_of
from clipmed.hub.locations import parse_location
from clipmed.locks import only_writer
from clipmed.search import layout
from clipmed.search.captions import match_captions
from clipmed.search.choices import DType, KindChoice
from clipmed.search.clustering import Clustering, choose_clusters, is_large
from clipmed.search.embedding import embed_files
from clipmed.search.index import SearchIndex
from clipmed.search.layout import IndexFacts
from clipmed.search.parts import Part, joined, parts_folder, write_part
from clipmed.search.rows import Reject, Row
from clipmed.search.stock import Place, Stock
from clipmed.search.writing import IndexWriter

if TYPE_CHECKING:
    from clipmed.api import ClipModel

PART_FILES = 1024  # what a killed run loses at most


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """How an index is built."""

    kind: KindChoice = "auto"
    """exact compares a query with every image; clustered with those of the nearest clusters; auto is exact up to
    256 MiB of float32, some 130 000 images of 512 numbers"""
    dtype: DType = "float32"
    """numbers that embeddings are stored in; float16 takes half the space"""
    thumbnails: bool = True
    """keep a small JPEG of every image, some 3 kB each, so that pages can show what was found"""
    batch_size: int = 64
    """images that are embedded at a time"""
    recall: float = 0.95
    """share of the ten nearest images that a clustered index must find"""

    def __post_init__(self) -> None:
        for name, allowed in (("kind", get_args(KindChoice)), ("dtype", get_args(DType))):
            if (got := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name}: got {got!r}; allowed: {', '.join(allowed)}{nearest(str(got), allowed)}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: got {self.batch_size}; allowed: 1 or more")
        if not 0 < self.recall <= 1:
            raise ConfigError(f"recall: got {self.recall}; allowed: above 0, up to 1")


def build_index(
    model: ClipModel,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    captions: Mapping[str, str] | None = None,
    config: IndexConfig | None = None,
    progress: bool = False,
) -> SearchIndex:
    """Embed images and write an index of them; where there is one already, embed only what is new or has changed.

    The result depends on the images, the captions, the checkpoint and the config alone: an index that has grown is that
    which is built from scratch, with its rows sorted by path. A run that is killed is taken up by the next one. A file
    is new or has changed where path, size and time of change are not those of a row, nor is its content that of one.

    Args:
        model: from `clipmed.load`.
        images: path of a file, or paths of many, each kept as it is given; images of an older index that are not among
            them leave it.
        out: the folder to write. An index that stands there is replaced when the new one is whole.
        captions: captions by path, as `read_captions` returns them; those without an image are counted.
        config: kind of index, what is stored, and how many at a time.
        progress: show a bar on standard error.

    Raises:
        ConfigError: no images; `out` is something else than an index, one by another checkpoint, or being written by
            another run; or Faiss is needed and not there.
        DataError: no image can be read, or the index at `out` is damaged.
    """
    chosen = config or IndexConfig()
    folder = Path(out)
    many = [images] if isinstance(images, str | Path) else images
    stamps = [stamp_of(path) for path in sorted({str(image) for image in many})]
    _check(stamps, folder, model.embed_dim, chosen)
    parts = parts_folder(folder)
    stock = Stock(_settings(model, chosen))
    with only_writer(folder):
        _add_previous(stock, folder, model, chosen)
        stock.add_parts(parts)
        _embed_missing(model, stamps, stock, (parts, chosen, progress))
        _write(model, folder, _Content.of(stamps, stock, captions or {}), (stock, chosen))
        shutil.rmtree(parts, ignore_errors=True)
        return SearchIndex.open(folder, check_digests=False)  # it was written a moment ago


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What goes into the index."""

    rows: list[Row]
    places: list[Place]
    rejects: list[Reject]
    captions_without_image: int

    @classmethod
    def of(cls, stamps: Sequence[FileStamp], stock: Stock, captions: Mapping[str, str]) -> _Content:
        """Collect the rows of all files, and give each its caption."""
        found = [one for stamp in stamps if (one := stock.row(stamp)) is not None]
        rejects = [stock.rejects[stamp] for stamp in stamps if stock.row(stamp) is None]
        if not found:
            first = rejects[0]
            raise DataError(f"none of {len(stamps)} images can be read; the first is {first.path}: {first.reason}")
        text_of = match_captions(captions, [row.path for row, _ in found])
        return cls(
            rows=[replace(row, caption=text_of.get(row.path)) for row, _ in found],
            places=[place for _, place in found],
            rejects=rejects,
            captions_without_image=len(captions) - len(text_of),
        )


def _check(stamps: Sequence[FileStamp], folder: Path, dimension: int, config: IndexConfig) -> None:
    """Refuse what cannot be built, before anything is embedded."""
    if not stamps:
        raise ConfigError("images: got none; give the paths of one or more")
    is_index = (folder / layout.INDEX_FILE).is_file()
    if folder.exists() and not is_index and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and is not a search index; give another folder to write")
    if config.kind == "clustered" or (config.kind == "auto" and is_large(len(stamps), dimension)):
        require("faiss", "search")


def _settings(model: ClipModel, config: IndexConfig) -> str:
    """Return what embeddings and thumbnails depend on, besides the images."""
    settings = {
        "checkpoint": model.digest,
        "computed_in": model.dtype,
        "dtype": config.dtype,
        "thumbnails": config.thumbnails,
        "version": layout.VERSION,
    }
    return json.dumps(settings, sort_keys=True)


def _add_previous(stock: Stock, folder: Path, model: ClipModel, config: IndexConfig) -> None:
    """Take over the rows of the index that stands in the folder, if they were made as they would be now."""
    if not (folder / layout.INDEX_FILE).is_file():
        return
    try:
        previous = SearchIndex.open(folder)
        previous.require_checkpoint(model.digest)
    except (ConfigError, DataError) as error:  # they say to build it anew, which is what is being done
        raise type(error)(f"{error}; remove {folder}, or give another --out") from error
    facts = previous.facts
    if (facts.computed_in, facts.dtype, facts.has_thumbnails) == (model.dtype, config.dtype, config.thumbnails):
        stock.add_index(previous)


def _embed_missing(
    model: ClipModel, stamps: Sequence[FileStamp], stock: Stock, how: tuple[Path, IndexConfig, bool]
) -> None:
    """Embed every file that the stock does not hold, and keep it in parts."""
    from tqdm import tqdm

    folder, config, progress = how
    missing = [stamp for stamp in stamps if not stock.known(stamp) and not _moved(stamp, stock)]
    batches = embed_files(model, missing, batch_size=config.batch_size, thumbnails=config.thumbnails)
    with tqdm(total=len(missing), desc="embedding", unit=" images", delay=2, disable=not progress) as bar:
        while some := list(islice(_counted(batches, bar.update), max(1, PART_FILES // config.batch_size))):
            part = joined(some)
            stock.add_part(part, write_part(folder, part, stock.settings))


def _counted(batches: Iterator[Part], count: Callable[[int], object]) -> Iterator[Part]:
    for batch in batches:
        count(len(batch.rows) + len(batch.rejects))
        yield batch


def _moved(stamp: FileStamp, stock: Stock) -> bool:
    """Whether the file is one that is embedded, under another path or with another time of change."""
    if not stock.may_hold(stamp.bytes):
        return False
    try:
        return stock.add_moved(stamp, sha256_file(Path(stamp.path)))
    except OSError:
        return False  # it is rejected when it is opened


def _lasting(location: str) -> str:
    """Return a checkpoint's location as it holds wherever one stands."""
    parsed = parse_location(location)
    return str(Path(parsed.name).absolute()) if parsed.kind == "folder" else location


def _write(model: ClipModel, folder: Path, content: _Content, how: tuple[Stock, IndexConfig]) -> None:
    stock, config = how
    with atomic_folder(folder) as partial:
        writer = IndexWriter(partial)
        writer.write_rows(content.rows, content.rejects)
        writer.write_embeddings(content.places, stock.sources, config.dtype)
        if config.thumbnails:
            writer.write_thumbnails(content.places, stock.sources)
        texts = sorted({row.caption for row in content.rows if row.caption})
        embeddings = writer.embeddings(model.embed_dim, config.dtype)
        found = choose_clusters(embeddings, texts, model.embed_texts, Clustering(config.kind, config.recall))
        if found is not None:
            writer.order_by_cluster(embeddings, found[0])
        facts = IndexFacts(
            format=layout.FORMAT,
            version=layout.VERSION,
            created_by=f"clipmed {clipmed.__version__}",
            checkpoint=layout.Source(location=_lasting(model.location), digest=model.digest),
            computed_in=model.dtype,
            kind="exact" if found is None else "clustered",
            dtype=config.dtype,
            dimension=model.embed_dim,
            rows=len(content.rows),
            rejected=len(content.rejects),
            captions=sum(row.caption is not None for row in content.rows),
            captions_without_image=content.captions_without_image,
            clusters=None if found is None else found[1],
            files=writer.files,
        )
        writer.write_facts(facts)
