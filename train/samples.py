"""A few samples of a batch as the model saw them, kept in the run folder as one picture and one JSON file a step.

samples/step_00000100.jpg     tiles of varied, cropped pixels, `columns` in a row
samples/step_00000100.json    step, columns, and of each tile its caption, source and number of tokens
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipmed.files import write_bytes, write_json

if TYPE_CHECKING:  # the page is made without torch
    import torch

    from train.dataset import Batch

FOLDER = "samples"
SHOWN = 16
KEPT = 3
COLUMNS = 4
MAX_SIDE = 224
JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """What is written beside a tile: the caption as the text tower read it, cut off where its context ends."""

    caption: str
    source: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSheet:
    """Samples of one step. `pixels` are uint8 (N, H, W, 3) as the image tower saw them, before normalisation."""

    step: int
    pixels: npt.NDArray[np.uint8] = field(repr=False)
    samples: tuple[ShownSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSheet:
    """A sheet as the run folder holds it."""

    step: int
    columns: int
    tile_side: int
    jpeg: bytes = field(repr=False)
    samples: tuple[ShownSample, ...]


def sheet_of(batch: Batch, step: int, tokenizer: Any, source_names: Sequence[str], count: int = SHOWN) -> SampleSheet:
    """Return the first samples of a batch with their captions read back from the tokens.

    Args:
        batch: one process's share of a step.
        step: finished steps, as in the log.
        tokenizer: the two-tower model's, from OpenCLIP.
        source_names: `SampleStream.source_names`.
        count: samples taken, at most.
    """
    captions = read_back(tokenizer, batch.tokens[:count])
    sources = [source_names[number] for number in batch.sources[:count].tolist()]
    samples = [
        ShownSample(caption=caption, source=source, tokens=tokens)
        for (caption, tokens), source in zip(captions, sources, strict=True)
    ]
    return SampleSheet(step=step, pixels=batch.pixels[:count].numpy(), samples=tuple(samples))


def read_back(tokenizer: Any, tokens: torch.Tensor) -> list[tuple[str, int]]:
    """Return the text and the number of tokens, padding apart, of each row of int64 (N, context length)."""
    inner = getattr(tokenizer, "tokenizer", None)  # of a Hugging Face text tower
    if inner is not None:
        texts = inner.batch_decode(tokens.tolist(), skip_special_tokens=True)
        counts = (tokens != inner.pad_token_id).sum(dim=1).tolist()
        return list(zip(texts, counts, strict=True))
    return [_read_back_clip(tokenizer, row) for row in tokens.tolist()]


def tiles(pixels: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Lay images (N, H, W, 3) out as one picture, `columns` in a row; what is left of the last row is black."""
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:count] = pixels
    by_row = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return by_row.reshape(rows * height, columns * width, channels)


def save_samples(out: Path, sheet: SampleSheet) -> None:
    """Write a sheet into the run folder and remove all but the newest `KEPT`."""
    import simplejpeg

    columns = min(COLUMNS, len(sheet.samples))
    small = _at_most(sheet.pixels, MAX_SIDE)
    stem = out / FOLDER / f"step_{sheet.step:08d}"
    picture = np.ascontiguousarray(tiles(small, columns))
    jpeg = simplejpeg.encode_jpeg(picture, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
    write_bytes(stem.with_suffix(".jpg"), jpeg)
    shown = {"step": sheet.step, "columns": columns, "tile_side": small.shape[2]}
    write_json(stem.with_suffix(".json"), shown | {"samples": [asdict(sample) for sample in sheet.samples]})
    for old in sorted(stem.parent.glob("step_*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".jpg").unlink(missing_ok=True)


def read_samples(out: Path) -> list[StoredSheet]:
    """Return the sheets of a run folder, newest first."""
    sheets = []
    for path in sorted((out / FOLDER).glob("step_*.json"), reverse=True):
        shown = json.loads(path.read_text(encoding="utf-8"))
        samples = tuple(ShownSample(**sample) for sample in shown.pop("samples"))
        sheets.append(StoredSheet(**shown, jpeg=path.with_suffix(".jpg").read_bytes(), samples=samples))
    return sheets


def _read_back_clip(tokenizer: Any, row: list[int]) -> tuple[str, int]:
    """CLIP's own tokenizer pads with a number that is also a word's, after the mark that ends the text."""
    end = row.index(tokenizer.eot_token_id) if tokenizer.eot_token_id in row else len(row)
    words = [number for number in row[:end] if number != tokenizer.sot_token_id]
    return tokenizer.decode(words).strip(), min(end + 1, len(row))


def _at_most(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    import cv2

    height, width = pixels.shape[1:3]
    if max(height, width) <= side:
        return pixels
    factor = side / max(height, width)
    size = (round(width * factor), round(height * factor))
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in pixels]).astype(np.uint8)
