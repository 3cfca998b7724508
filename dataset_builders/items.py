"""Items of a source into a spool: units by hash of the group, parallel, resumable, every item accounted for."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import DataError, ItemRejectedError
from clipmed.jobs import JobsConfig, run_units
from clipmed.records import Sample, unit_of_group
from clipmed.rejects import RejectReason, Stage
from shards.spool import SpoolInfo, open_spool, read_spool, unit_path, write_unit

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an item is rejected, found before its image was opened."""

    stage: Stage
    reason: RejectReason
    detail: str

    def error(self) -> ItemRejectedError:
        """Return the problem as the error that rejects the item."""
        return ItemRejectedError(self.stage, self.reason, self.detail)


class Item(Protocol):
    """What a source lists before any image is opened: plain data that travels to another process."""

    @property
    def item(self) -> str:
        """The source's own id of the item, as rejects show it."""

    @property
    def group(self) -> str:
        """What must not straddle splits; it decides the work unit."""

    @property
    def problem(self) -> Problem | None:
        """The reason to reject the item unseen, if there is one."""


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class UnitWork(Generic[ItemT]):
    """One unit's number and items."""

    unit: int
    items: tuple[ItemT, ...]


def build_spool(
    spool: Path,
    info: SpoolInfo,
    items: Sequence[ItemT],
    make_sample: Callable[[ItemT], Sample],
    jobs: JobsConfig,
) -> dict[str, Any]:
    """Build, or go on building, the spool of a source from its listed items.

    The bytes depend on the items and on `make_sample` alone, never on workers or interruptions: each unit keeps the
    items' order and appears whole or not at all. A spool begun from another listing is refused.

    Args:
        spool: the spool's folder.
        info: the source's description; the digest of the listing is added to its config.
        items: everything that the source holds, rejected items included.
        make_sample: a module's function or a partial of one; raises ItemRejectedError for an item to drop.
        jobs: where units run.

    Returns:
        The counts, as `summarise` gives them.

    Raises:
        DataError: nothing is listed, or `spool` was begun from something else.
    """
    if not items:
        raise DataError(
            f"{info.source}: the source's folder holds nothing in the layout that was named; check its root"
        )
    described = SpoolInfo(
        source=info.source,
        num_units=info.num_units,
        tasks=info.tasks,
        config={**info.config, "listing_sha256": listing_digest(items)},
    )
    pending = open_spool(spool, described)
    units: list[list[ItemT]] = [[] for _ in range(info.num_units)]
    for item in items:
        units[unit_of_group(item.group, info.num_units)].append(item)
    work = [UnitWork(unit, tuple(units[unit])) for unit in pending]
    done = len(items) - sum(len(unit.items) for unit in work)
    run = partial(build_unit, spool=spool, source=info.source, make_sample=make_sample)
    with tqdm(total=len(items), initial=done, desc=info.source, unit="item", file=sys.stderr) as bar:
        for unit, _ in run_units(run, work, jobs, f"build-{info.source}"):
            bar.update(len(unit.items))
    return summarise(spool)


def build_unit(work: UnitWork[ItemT], spool: Path, source: str, make_sample: Callable[[ItemT], Sample]) -> None:
    """Write one unit: each of its items becomes a sample or a reject."""
    with write_unit(spool, work.unit, source) as writer:
        for item in work.items:
            try:
                if item.problem is not None:
                    raise item.problem.error()
                writer.add(make_sample(item))
            except ItemRejectedError as error:
                writer.reject_error(item.item, error)


def listing_digest(items: Sequence[ItemT]) -> str:
    """Return the sha256 of the items as they were listed, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def summarise(spool: Path) -> dict[str, Any]:
    """Add up the units of a finished spool, whichever builder wrote it.

    Returns:
        source, units, seen, samples, rejects, rejects_by_reason, and the builder's own counters.
    """
    info = read_spool(spool)
    totals: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for unit in range(info.num_units):
        folder = unit_path(spool, unit)
        summary = json.loads((folder / "unit.json").read_text())
        totals.update({name: summary[name] for name in ("seen", "samples", "rejects")})
        counters.update(summary["counters"])
        reasons.update(pq.read_table(folder / "rejects.parquet", columns=["reason"])["reason"].to_pylist())
    return {
        "source": info.source,
        "units": info.num_units,
        **{name: totals[name] for name in ("seen", "samples", "rejects")},
        "rejects_by_reason": dict(sorted(reasons.items())),
        "counters": dict(sorted(counters.items())),
    }


def path_problem(root: Path, relative: str) -> Problem | None:
    """Return why a path that a source names must not, or cannot, be read; None when it may.

    A path may be read when it is a regular file reached from `root` without a parent step and without a link.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\0" in relative or not pure.parts:
        detail = f"{relative!r} leaves the source's folder"
        return Problem(Stage.SOURCE, RejectReason.PATH_UNSAFE, detail)
    try:
        links = [step for step in (*reversed(pure.parents), pure) if step.parts and (root / step).is_symlink()]
        found = (root / pure).is_file()
    except OSError as error:  # a name too long for the file system, a folder that may not be read
        return Problem(Stage.SOURCE, RejectReason.MEDIA_MISSING, f"{relative}: {error.strerror}")
    if links:
        return Problem(Stage.SOURCE, RejectReason.PATH_UNSAFE, f"{links[0]} is a link; links are not followed")
    return None if found else Problem(Stage.SOURCE, RejectReason.MEDIA_MISSING, f"no file {relative}")


def read_media(root: Path, relative: str, max_mb: float) -> bytes:
    """Return the bytes of an image of a source, looked at again just before it is read.

    Raises:
        ItemRejectedError: an unsafe path, a missing or unreadable file, or one above `max_mb`.
    """
    problem = path_problem(root, relative)
    if problem is not None:
        raise problem.error()
    path = root / relative
    try:
        size = path.stat().st_size
        if size > max_mb * BYTES_PER_MB:
            detail = f"{relative} has {size} bytes; allowed: {max_mb:g} MB"
            raise ItemRejectedError(Stage.SOURCE, RejectReason.FILE_TOO_LARGE, detail)
        return path.read_bytes()
    except OSError as error:
        detail = f"{relative}: {error.strerror}"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.MEDIA_MISSING, detail) from error


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 table, a byte-order mark dropped, line ends kept.

    Raises:
        DataError: no such file, or bytes that are not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; allowed: a UTF-8 text file") from error


def require_folder(root: Path) -> None:
    """Raise DataError unless `root` is a folder."""
    if not root.is_dir():
        raise DataError(f"no such folder: {root}; give the folder that holds the source (root)")
