"""What changed between two snapshots: articles that are new, that were changed, and that are gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmed.files import write_json, write_text
from dataset_builders.pmc.snapshot import Snapshot

LISTS = ("added", "changed", "removed")
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Numbers of PMC ids, sorted. `old` and `new` say which snapshots were compared."""

    added: Ints
    changed: Ints
    removed: Ints
    unchanged: int
    old: dict[str, str]
    new: dict[str, str]


def compare(old: Snapshot, new: Snapshot) -> Delta:
    """Compare the standing versions of two snapshots.

    An article is changed when another version stands, or the same version with another ETag where both are known.
    Packages that name no PMC id cannot be compared and are left out.
    """
    before, after = _standing(old), _standing(new)
    numbers_before, numbers_after = (np.asarray(table["number"]) for table in (before, after))
    common, at_before, at_after = np.intersect1d(numbers_before, numbers_after, assume_unique=True, return_indices=True)
    before, after = before.take(pa.array(at_before)), after.take(pa.array(at_after))
    other_version = pc.not_equal(before["version"], after["version"])
    known = pc.and_(pc.not_equal(before["etag"], ""), pc.not_equal(after["etag"], ""))
    other_etag = pc.and_(known, pc.not_equal(before["etag"], after["etag"]))
    is_changed = np.asarray(pc.or_(other_version, other_etag))
    return Delta(
        added=np.setdiff1d(numbers_after, common, assume_unique=True),
        changed=common[is_changed],
        removed=np.setdiff1d(numbers_before, common, assume_unique=True),
        unchanged=int((~is_changed).sum()),
        old=_named(old),
        new=_named(new),
    )


def write_delta(delta: Delta, folder: Path) -> None:
    """Write added.txt, changed.txt and removed.txt, with one PMC id a line, and delta.json with the counts."""
    counts = {"unchanged": delta.unchanged}
    for name in LISTS:
        numbers = getattr(delta, name)
        write_text(folder / f"{name}.txt", "".join(f"PMC{number}\n" for number in numbers.tolist()))
        counts[name] = len(numbers)
    write_json(folder / "delta.json", {"old": delta.old, "new": delta.new, "articles": counts})


def _standing(snapshot: Snapshot) -> pa.Table:
    table = snapshot.table.select(["number", "version", "etag", "superseded_by"])
    return table.filter(pc.and_(pc.equal(table["superseded_by"], b""), pc.greater(table["number"], 0)))


def _named(snapshot: Snapshot) -> dict[str, str]:
    return {"address": snapshot.address, "taken": snapshot.taken, "digest": snapshot.digest}
