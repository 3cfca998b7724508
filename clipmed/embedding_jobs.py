"""Embeddings of many images or texts into a file: a job that is killed is taken up where it was.

OUT.partial/<digest>.part  a part that is done: rows, which of its items they are of, and the reasons of the others

A part's name is a digest of all that its rows depend on: the checkpoint, how it computes, and the items, of files with
size and time of change. What was made by another checkpoint, or of other items, has other names, and is not read. With
the same options, parts and batches are cut the same way in every run, so the file that a resumed job writes has the
bytes of one that was not interrupted. Another batch size may change the last bits, another `on_error` what becomes of
the rest: both go on with what is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

import clipmed
from clipmed import embedding_files, parts
from clipmed.embedding_files import Kind, Provenance, Rows, StoredDType
from clipmed.errors import ConfigError, DataError
from clipmed.files import stamp_of, write_text
from clipmed.locks import only_writer

if TYPE_CHECKING:
    from tqdm import tqdm

    from clipmed.api import ClipModel
    from clipmed.inputs import SkippedImage

OnError: TypeAlias = Literal["stop", "skip"]
SAVE_EVERY = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingJob:
    """What to embed, and where to."""

    items: Sequence[str]
    """paths of images, or texts"""
    out: Path
    """a .parquet, .npz or .npy file; see `clipmed.embedding_files`"""
    kind: Kind = "images"
    """what the items are"""
    batch_size: int = 64
    """items at a time"""
    on_error: OnError = "stop"
    """what an item that cannot be used does: end the job, or become a line of FILE.rejects.jsonl"""
    dtype: StoredDType = "float32"
    """numbers that are stored; float16 halves the file and rounds to about 0.0005"""
    save_every: int = SAVE_EVERY
    """items after which what is done is saved, rounded up to whole batches"""

    def __post_init__(self) -> None:
        embedding_files.require_suffix(self.out)
        if not self.items:
            raise ConfigError(f"{self.kind}: got none; give one or more")
        for name, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("on_error", self.on_error, get_args(OnError)),
            ("dtype", self.dtype, get_args(StoredDType)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}: got {value!r}; allowed: {', '.join(allowed)}")
        for name, number in (("batch_size", self.batch_size), ("save_every", self.save_every)):
            if number < 1:
                raise ConfigError(f"{name}: got {number}; allowed: 1 or more")
        unfit = next((item for item in self.items if not _is_utf8(item)), None)
        if unfit is not None:
            raise ConfigError(f"{self.kind}: got {unfit!r:.200}; allowed: what UTF-8 can hold, without NUL characters")

    @property
    def rejects_file(self) -> Path:
        """Where items that could not be used are listed, if there are any."""
        return self.out.with_name(f"{self.out.name}.rejects.jsonl")

    @property
    def partial_folder(self) -> Path:
        """Where parts lie until the file is written."""
        return self.out.with_name(f"{self.out.name}.partial")


@dataclass(frozen=True, slots=True)
class EmbeddingReport:
    """What a job did."""

    metadata: dict[str, Any]
    """of the file"""
    resumed: int
    """items that an earlier run of the job had done"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """A slice of the items, and the file of what becomes of it."""

    start: int
    items: Sequence[str]
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """Rows of some of a slice's items, and why the others have none; places from 0 within the slice."""

    rows: Rows
    positions: list[int]
    reasons: dict[int, str]


def run_job(model: ClipModel, job: EmbeddingJob, *, progress: bool = False) -> EmbeddingReport:
    """Embed the items and write the file; see the module's docstring for how a killed job goes on.

    Args:
        model: made by `clipmed.load`.
        job: what to embed.
        progress: show a bar with rate and remaining time on standard error.

    Raises:
        ConfigError: another run is writing the file.
        ClipmedError: an item that cannot be used, where `on_error` is stop; or not one that can.
    """
    with only_writer(job.out):
        slices = _slices(model, job)
        reasons = {part.file: done.reasons for part in slices if (done := _usable(part, job)) is not None}
        lacking = [part for part in slices if part.file not in reasons]
        resumed = len(job.items) - sum(len(part.items) for part in lacking)
        with _bar(job, resumed, shown=progress) as bar:
            for part in lacking:
                done = _embed(model, job, part, bar.update)
                _save(part.file, done)
                reasons[part.file] = done.reasons
        metadata = _write(model, job, slices, reasons)
        shutil.rmtree(job.partial_folder)
    return EmbeddingReport(metadata=metadata, resumed=resumed)


def _bar(job: EmbeddingJob, resumed: int, *, shown: bool) -> tqdm[Any]:
    from tqdm import tqdm

    unit = f" {job.kind}"
    return tqdm(total=len(job.items), initial=resumed, unit=unit, delay=2, disable=not shown, desc="embedding")


def _slices(model: ClipModel, job: EmbeddingJob) -> list[_Slice]:
    """Cut the items into slices of whole batches, and name the file of each after what its rows depend on."""
    settings = {
        "schema": embedding_files.SCHEMA,
        "clipmed": clipmed.__version__,
        "checkpoint": model.digest,
        "computed": [model.dtype, model.device.type],
        "job": [job.kind, job.dtype],
    }
    size = job.batch_size * -(-job.save_every // job.batch_size)
    slices = []
    for start in range(0, len(job.items), size):
        items = job.items[start : start + size]
        known = [astuple(stamp_of(item)) for item in items] if job.kind == "images" else items
        digest = hashlib.sha256(json.dumps([settings, known], sort_keys=True).encode()).hexdigest()
        slices.append(_Slice(start=start, items=items, file=job.partial_folder / f"{digest[:32]}.part"))
    return slices


def _is_utf8(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def _embed(model: ClipModel, job: EmbeddingJob, part: _Slice, advance: Callable[[int], object]) -> _Done:
    reasons: dict[int, str] = {}
    rows: list[Rows] = [np.empty((0, model.embed_dim), dtype=np.float32)]
    positions: list[int] = []
    moved = 0
    for some, embedded in (_image_batches if job.kind == "images" else _text_batches)(model, job, part, reasons):
        positions += some
        rows.append(embedded)
        advance(positions[-1] + 1 - moved)
        moved = positions[-1] + 1
    advance(len(part.items) - moved)
    return _Done(rows=np.concatenate(rows).astype(job.dtype), positions=positions, reasons=reasons)


def _image_batches(
    model: ClipModel, job: EmbeddingJob, part: _Slice, reasons: dict[int, str]
) -> Iterator[tuple[list[int], Rows]]:
    skipped: list[SkippedImage] | None = [] if job.on_error == "skip" else None
    for positions, rows in model.embed_batches(map(Path, part.items), job.batch_size, skipped=skipped):
        yield positions, rows.numpy()
    reasons |= {image.position: image.reason for image in skipped or ()}


def _text_batches(
    model: ClipModel, job: EmbeddingJob, part: _Slice, reasons: dict[int, str]
) -> Iterator[tuple[list[int], Rows]]:
    reasons |= {place: "it is empty" for place, text in enumerate(part.items) if not text.strip()}
    if reasons and job.on_error == "stop":
        raise DataError(
            f"text {part.start + min(reasons) + 1} of {len(job.items)} is empty; take it out, or put empty ones aside "
            "with on_error=skip"
        )
    usable = [place for place in range(len(part.items)) if place not in reasons]
    for start in range(0, len(usable), job.batch_size):
        places = usable[start : start + job.batch_size]
        yield places, model.embed_texts([part.items[place] for place in places], job.batch_size).numpy()


def _save(file: Path, done: _Done) -> None:
    arrays = {"rows": done.rows, "positions": np.array(done.positions, dtype=np.int64)}
    parts.write(file, arrays, {"reasons": json.dumps(list(done.reasons.items()))})


def _read(file: Path) -> _Done | None:
    """Return a slice that is done, or None where it is not, or its file is damaged."""
    found = parts.read(file)
    if found is None:
        return None
    arrays, texts = found
    reasons = {int(place): str(reason) for place, reason in json.loads(texts["reasons"])}
    return _Done(rows=arrays["rows"], positions=arrays["positions"].tolist(), reasons=reasons)


def _usable(part: _Slice, job: EmbeddingJob) -> _Done | None:
    """Return a slice that is done as the job wants it: not with items left out, where those shall end it."""
    done = _read(part.file)
    return None if done and done.reasons and job.on_error == "stop" else done


def _write(
    model: ClipModel, job: EmbeddingJob, slices: Sequence[_Slice], reasons: Mapping[Path, Mapping[int, str]]
) -> dict[str, Any]:
    def stored() -> Iterator[embedding_files.Part]:
        for part in slices:
            done = _read(part.file)
            if done is None:
                raise DataError(f"{part.file} was taken away or damaged meanwhile; run the same command again")
            yield done.rows, [part.items[place] for place in done.positions]

    rejects = [
        {"position": part.start + place, "item": part.items[place], "reason": reason}
        for part in slices
        for place, reason in sorted(reasons[part.file].items())
    ]
    if len(rejects) == len(job.items):
        raise DataError(f"none of the {len(rejects)} {job.kind} can be embedded; the first: {rejects[0]['reason']}")
    if rejects:
        write_text(job.rejects_file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rejects))
    else:
        job.rejects_file.unlink(missing_ok=True)
    provenance = Provenance(
        kind=job.kind,
        checkpoint=model.location,
        checkpoint_digest=model.digest,
        seen=len(job.items),
        rejected=len(rejects),
    )
    return embedding_files.write_parts(job.out, stored(), provenance)
