"""Build a search index of images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from clipmed.commands.options import CheckpointOptions, Images, image_files
from clipmed.commands.output import print_facts, print_json
from clipmed.search.choices import DType as StoredDType
from clipmed.search.choices import KindChoice


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions):
    """Build an index of images, which `clipmed search` and `clipmed serve` search by text or image.

    Run again over a folder that has grown, it embeds only what is new. A run that was stopped goes on where it was.
    """

    images: Images
    """image files, folders of them, or globs; an index keeps their paths as they are given here"""
    out: Path
    """the folder to write; an index that is there already is brought up to date"""
    captions: Path | None = None
    """captions to show beside the images: a .csv, .jsonl or .parquet with the columns path (or image) and caption"""
    kind: KindChoice = "auto"
    """exact compares a query with every image; clustered with the nearest clusters of them, and needs
    clipmed[search]; auto is exact up to some 130 000 images"""
    numbers: StoredDType = "float32"
    """what embeddings are stored in; float16 takes half the space"""
    thumbnails: bool = True
    """keep a small JPEG of every image in the index, for `clipmed serve` to show"""
    batch_size: int = 64
    """images that are embedded at a time"""
    recall: float = 0.95
    """share of the ten nearest images that a clustered index must find; more takes longer"""
    json: bool = False
    """print one JSON line"""


def run(command: Command) -> None:
    """Build the index and say what is in it, and what is not."""
    from clipmed.api import load
    from clipmed.search import IndexConfig, build_index, read_captions

    config = IndexConfig(
        kind=command.kind,
        dtype=command.numbers,
        thumbnails=command.thumbnails,
        batch_size=command.batch_size,
        recall=command.recall,
    )
    paths = image_files(command.images)
    captions = read_captions(command.captions) if command.captions else None
    begin = time.monotonic()
    model = load(command.checkpoint, command.device, dtype=command.dtype)
    index = build_index(model, paths, command.out, captions=captions, config=config, progress=True)
    facts = index.facts
    shown = {
        "index": str(command.out),
        "images": facts.rows,
        "rejected": facts.rejected,
        "captions": facts.captions,
        "captions without image": facts.captions_without_image,
        "dimensions": facts.dimension,
        "kind": facts.kind,
        "seconds": round(time.monotonic() - begin, 1),
    }
    if facts.clusters:
        shown["recall"] = min(facts.clusters.recall_images, facts.clusters.recall_texts)
    if command.json:
        print_json(shown | {"rejects": [{"image": one.path, "reason": one.reason} for one in index.rejects()]})
        return
    print_facts(shown)
    for reject in index.rejects()[:5]:
        print(f"rejected  {reject.path}: {reject.reason}")
    if facts.rejected > 5:
        print(f"rejected  … and {facts.rejected - 5} more, in {command.out / 'rejects.jsonl'}")
