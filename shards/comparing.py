"""Find the images of the same picture: hash every image, search close hashes, compare the pixels of those.

Each unit's hashes are kept in the partial folder, so that a killed packer does not decode them again. Pixels of
candidates are decoded in blocks of pairs that hang together: at most `_BLOCK` pairs' images are in memory at a time,
of 8 KB each.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from clipmed.errors import DataError, ItemRejectedError
from clipmed.files import atomic_file
from clipmed.jobs import JobsConfig, run_units
from shards.config import PackConfig
from shards.contamination import find_hits
from shards.evalsets import EvaluationSet
from shards.evidence import NEAR, Evidence
from shards.fingerprints import FINGERPRINTS
from shards.intake import THREADS, Intake
from shards.pictures import Views, correlation, grey_image, views_of
from shards.randomness import U64
from shards.search import near_pairs
from shards.tars import RandomAccess

Ints = npt.NDArray[np.int64]

_BLOCK = 50_000
_HASHES = pa.schema([("sha256", pa.string()), ("views", pa.list_(pa.uint64()))])
_PICTURES = pa.schema([("sha256", pa.string()), ("list", pa.string()), ("item", pa.string()), *list(NEAR)[2:]])


@dataclass(frozen=True, slots=True)
class HashTask:
    """The images of one tar to hash: `images` has columns sha256, jpg_offset, bytes; `out` takes the result."""

    tar: Path
    version: str
    images: pa.Table
    out: Path


def gather(
    intake: Intake,
    config: PackConfig,
    lists: Sequence[EvaluationSet],
    folder: Path,
    jobs: JobsConfig,
    *,
    progress: bool,
) -> Evidence:  # fmt: skip
    """Return what the plan must know of pictures and of evaluation sets.

    Args:
        intake: the spools.
        config: whether near duplicates are wanted, and what counts as one.
        lists: the evaluation sets.
        folder: where hashes are kept over a kill; it belongs to these spools.
        jobs: where images are decoded.
        progress: show progress bars on standard error.

    Raises:
        DataError: a tar does not hold what its columns say.
    """
    samples = intake.samples
    listed = pa.concat_tables([FINGERPRINTS.empty_table(), *(entry.pictures for entry in lists)])
    names = [entry.name for entry in lists for _ in range(len(entry.pictures))]
    if config.dedupe != "near" and not len(listed):
        none = find_hits(samples, lists, _PICTURES.empty_table(), groups=config.decontaminate_groups)
        return Evidence(near=NEAR.empty_table(), hits=none, counts={})
    images = _unique_images(samples)
    hashes = _hash_images(intake, images, folder, jobs, progress=progress)
    bank = _Bank(intake, images, pa.chunked_array([*hashes.chunks, *listed["views"].chunks]), listed)
    pairs, bits = bank.candidates(config)
    values = bank.compare(pairs, progress=progress)
    same = values >= config.min_correlation
    near, pictures = bank.tables(pairs[:, same], bits[same], values[same], names)
    hits = find_hits(samples, lists, pictures, groups=config.decontaminate_groups)
    counts = {"images": len(images), "without_views": pc.sum(pc.equal(pc.list_value_length(hashes), 0)).as_py() or 0}
    return Evidence(
        near=near, hits=hits, counts={**counts, "compared_pairs": pairs.shape[1], "same_pairs": int(same.sum())}
    )


def _unique_images(samples: pa.Table) -> pa.Table:
    """Return one row an image (row number, sha256, place), in the order of sha256."""
    rows = pa.table({"sha256": samples["sha256"], "row": np.arange(len(samples))})
    first = rows.group_by("sha256").aggregate([("row", "min")]).sort_by("sha256")["row_min"]
    return samples.select(["sha256", "unit", "jpg_offset", "bytes"]).take(first)


def _hash_images(
    intake: Intake, images: pa.Table, folder: Path, jobs: JobsConfig, *, progress: bool
) -> pa.ChunkedArray:
    """Return the hashes of every image's views, a list each, in the order of `images`; empty where none decodes."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = images.sort_by("unit")  # stable
    units, starts = np.unique(ordered["unit"].to_numpy(), return_index=True)
    ends = [*starts[1:].tolist(), len(ordered)]
    tasks = []
    for unit, start, end in zip(units.tolist(), starts.tolist(), ends, strict=True):
        part = ordered.slice(start, end - start).select(["sha256", "jpg_offset", "bytes"])
        tasks.append(
            HashTask(intake.tars[unit].resolve(), intake.version, part, (folder / f"{unit}.parquet").resolve())
        )
    waiting = [task for task in tasks if not task.out.exists()]
    with tqdm(total=len(waiting), desc="hashing pictures", unit="unit", disable=not progress) as bar:
        for _ in run_units(hash_unit, waiting, jobs, "shards-hash"):
            bar.update()
    found = pa.concat_tables([pq.read_table(task.out) for task in tasks]).sort_by("sha256")
    if not found["sha256"].combine_chunks().equals(images["sha256"].combine_chunks()):
        raise DataError(f"{folder} holds hashes of other images; remove {folder.parent} and pack again")
    return found["views"]


def hash_unit(task: HashTask) -> int:
    """Hash the images of one tar and write them to the task's file; return how many there are."""
    tar = RandomAccess(str(task.tar), task.version)
    rows = []
    for row in task.images.to_pylist():
        views = _views(tar, row["jpg_offset"], row["bytes"])
        rows.append({"sha256": row["sha256"], "views": list(views.hashes) if views else []})
    with atomic_file(task.out) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, _HASHES), temporary)
    return len(rows)


def _views(tar: RandomAccess, offset: int, size: int) -> Views | None:
    try:
        return views_of(grey_image(tar.read(offset, size)))
    except ItemRejectedError:  # a picture that cannot be looked at is compared with none
        return None


class _Bank:
    """The spools' images, then the lists', by number: their hashes, and their views when they are asked for."""

    def __init__(self, intake: Intake, images: pa.Table, views: pa.ChunkedArray, listed: pa.Table) -> None:
        self._tars = [RandomAccess(str(tar.resolve()), intake.version) for tar in intake.tars]
        self._images, self._listed = images["sha256"].combine_chunks(), listed
        self._places = [images[name].to_numpy() for name in ("unit", "jpg_offset", "bytes")]
        self._owner = np.repeat(np.arange(len(views)), pc.list_value_length(views).to_numpy())
        self._hashes: U64 = pc.list_flatten(views).to_numpy()

    def candidates(self, config: PackConfig) -> tuple[Ints, Ints]:
        """Return the pairs (2, P) of images with close hashes, and the bits (P,) between their closest views."""
        is_listed = self._owner >= len(self._images)
        side = None if config.dedupe == "near" else is_listed
        ends = near_pairs(self._hashes, config.phash_bits, side)
        bits = np.bitwise_count(self._hashes[ends[0]] ^ self._hashes[ends[1]]).astype(np.int64)
        owners = np.sort(self._owner[ends], axis=0)
        wanted = (owners[0] != owners[1]) & (owners[0] < len(self._images))  # lists are not compared with each other
        owners, bits = owners[:, wanted], bits[wanted]
        order = np.lexsort((bits, owners[1], owners[0]))
        owners, bits = owners[:, order], bits[order]
        is_first = np.any(np.diff(owners, axis=1, prepend=-1) != 0, axis=0)
        return owners[:, is_first], bits[is_first]

    def compare(self, pairs: Ints, *, progress: bool) -> npt.NDArray[np.float64]:
        """Return the correlation of each pair."""
        count = len(self._images) + len(self._listed)
        graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(count, count))
        order = np.argsort(connected_components(graph, directed=False)[1][pairs[0]], kind="stable")
        values = np.empty(pairs.shape[1])
        bar = tqdm(total=len(order), desc="comparing pictures", unit="pair", disable=not progress)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(order), _BLOCK):
                block = order[start : start + _BLOCK]
                numbers = np.unique(pairs[:, block]).tolist()
                views = dict(zip(numbers, pool.map(self._views_of, numbers), strict=True))
                ends = pairs[:, block].tolist()
                values[block] = list(pool.map(partial(_compare, views), *ends))
                bar.update(len(block))
        return values

    def tables(
        self, pairs: Ints, bits: Ints, values: npt.NDArray[np.float64], names: list[str]
    ) -> tuple[pa.Table, pa.Table]:
        """Return the pairs inside the spools (schema `NEAR`), and those with the lists (schema `_PICTURES`)."""
        inside = pairs[1] < len(self._images)
        images, listed = self._images, pairs[1, ~inside] - len(self._images)
        measured = [{"bits": bits[mask], "correlation": values[mask]} for mask in (inside, ~inside)]
        near = {"first": images.take(pairs[0, inside]), "second": images.take(pairs[1, inside]), **measured[0]}
        with_lists = {
            "sha256": images.take(pairs[0, ~inside]),
            "list": pa.array([names[number] for number in listed.tolist()], pa.string()),
            "item": self._listed["item"].take(listed),
            **measured[1],
        }
        return _typed(near, NEAR), _typed(with_lists, _PICTURES)

    def _views_of(self, number: int) -> Views | None:
        if number >= len(self._images):
            return views_of(grey_image(self._listed["grey"][number - len(self._images)].as_py()))
        unit, offset, size = (int(column[number]) for column in self._places)
        return _views(self._tars[unit], offset, size)


def _compare(views: dict[int, Views | None], first: int, second: int) -> float:
    one, other = views[first], views[second]
    return correlation(one, other) if one and other else -1.0


def _typed(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    return pa.table(columns).cast(schema)
