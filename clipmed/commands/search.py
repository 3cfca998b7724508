"""Search an index by texts and images."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from clipmed.commands.options import CHECKPOINT_VARIABLE
from clipmed.commands.output import print_json, print_table
from clipmed.devices import DType
from clipmed.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from clipmed.search import Hit, SearchIndex

FEW = 10


@dataclass(frozen=True, kw_only=True)
class Command:
    """Find the images of an index that are nearest to texts or images."""

    index: Annotated[Path, tyro.conf.Positional]
    """a folder that `clipmed index` wrote"""
    queries: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """texts to search by, each in quotes: "a chest X-ray with pneumonia" """
    image: tuple[Path, ...] = ()
    """image files to search by"""
    k: int | None = None
    """how many images to show for each query; 10 if not given"""
    probes: int | None = None
    """clusters of a clustered index to look into; more find more, and take longer"""
    checkpoint: str = ""
    """the checkpoint that built the index, if it has moved or came from a hub or the web; $CLIPMED_CHECKPOINT does for
    those, too"""
    device: str = "auto"
    """where to run: auto (a GPU where there is one), cpu, cuda, cuda:1, mps"""
    dtype: DType = "float32"
    """numbers to compute in: float32, bfloat16 or float16"""
    json: bool = False
    """print one JSON line a query instead of tables"""

    def __post_init__(self) -> None:
        if not self.queries and not self.image:
            raise ConfigError(
                'queries: got none; give a text in quotes, as in `clipmed search INDEX "lung nodule"`, or --image FILE'
            )


def run(command: Command) -> None:
    """Print what each query finds."""
    import concurrent.futures

    from clipmed.search import SearchIndex

    location = command.checkpoint or _named_checkpoint(command.index)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # files are checked while the model is loaded
        opened = pool.submit(SearchIndex.open, command.index)
        embeddings, digest = _embedded(command, location)
        index = opened.result()
    index.require_checkpoint(digest)
    k = min(FEW, len(index)) if command.k is None else command.k
    names = [*command.queries, *map(str, command.image)]
    for name, hits in zip(names, index.search(embeddings, k, probes=command.probes), strict=True):
        _print(name, hits, index, as_json=command.json)


def _named_checkpoint(index: Path) -> str:
    """Return the folder of the checkpoint that built an index, or the user's choice: what it names is not fetched."""
    from clipmed.search.layout import read_facts

    named = read_facts(index).checkpoint.location
    if Path(named).is_absolute() and Path(named).is_dir():
        return named
    if given := os.environ.get(CHECKPOINT_VARIABLE):
        return given
    raise ConfigError(
        f"{index} was built by the checkpoint {named!r:.200}, which is no folder of this machine; give it, or where it "
        f"lies now, with --checkpoint or in {CHECKPOINT_VARIABLE}"
    )


def _embedded(command: Command, location: str) -> tuple[torch.Tensor, str]:
    """Return the queries' embeddings (Q, D), texts first, and the checkpoint's digest."""
    import torch

    from clipmed.api import load

    model = load(location, command.device, dtype=command.dtype)
    parts = [model.embed_texts(command.queries)] if command.queries else []
    parts += [model.embed_images(command.image)] if command.image else []
    return torch.cat(parts), model.digest


def _print(name: str, hits: Sequence[Hit], index: SearchIndex, *, as_json: bool) -> None:
    if as_json:
        print_json({"query": name, "hits": [asdict(hit) | {"score": round(hit.score, 6)} for hit in hits]})
        return
    from rich.markup import escape

    rows = [[f"{hit.score:.4f}", escape(hit.path), escape(hit.caption or "")] for hit in hits]
    has_captions = any(hit.caption for hit in hits)
    columns = ["cosine", "image", "caption"] if has_captions else ["cosine", "image"]
    title = f"{escape(name)}: {len(hits)} of {len(index)} images"
    print_table(columns, [row[: len(columns)] for row in rows], title=title)
