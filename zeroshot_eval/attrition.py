"""The attrition table of a shard set, from items seen to training samples, checked again before it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SEEN = "items_seen"  # reason code of a source's first row
SAMPLES = "samples"  # stage of the rows that count what is left, by split


@dataclass(frozen=True, slots=True)
class AttritionRow:
    """One line of a source: what came in, what was dropped and why, or what is left in a split."""

    kind: str  # seen | dropped | kept
    what: str
    count: int
    left: int
    """items left after this line; what the splits' lines share out is counted once"""


@dataclass(frozen=True, slots=True)
class SourceAttrition:
    """The lines of one source; `balanced` where seen = dropped + kept."""

    source: str
    rows: tuple[AttritionRow, ...]
    seen: int
    dropped: int
    kept: int

    @property
    def balanced(self) -> bool:
        """Whether the counts add up."""
        return self.seen == self.dropped + self.kept


@dataclass(frozen=True, slots=True)
class SetAttrition:
    """The table of one set, with the total over its sources and the check against the set's own index."""

    name: str
    sources: tuple[SourceAttrition, ...]
    indexed: int
    """rows of the set's index"""

    @property
    def seen(self) -> int:
        """Items seen over all sources."""
        return sum(source.seen for source in self.sources)

    @property
    def dropped(self) -> int:
        """Items dropped over all sources."""
        return sum(source.dropped for source in self.sources)

    @property
    def kept(self) -> int:
        """Samples over all sources and splits."""
        return sum(source.kept for source in self.sources)

    @property
    def splits(self) -> dict[str, int]:
        """Samples by split over all sources."""
        kept = Counter[str]()
        for source in self.sources:
            for row in source.rows:
                if row.kind == "kept":
                    kept[row.what] += row.count
        return dict(kept)

    @property
    def problems(self) -> list[str]:
        """What does not add up; empty where all does."""
        found = [
            f"{source.source}: {source.seen} seen, but {source.dropped} dropped + {source.kept} kept"
            for source in self.sources
            if not source.balanced
        ]
        if self.kept != self.indexed:
            found.append(f"{self.kept} samples counted, but the index has {self.indexed} rows")
        return found


def set_attrition(name: str, rows: Sequence[dict[str, Any]], indexed: int) -> SetAttrition:
    """Return the table of a set.

    Args:
        name: the set's name.
        rows: the manifest's rows {source, stage, reason, count}.
        indexed: number of rows of the set's index.
    """
    sources = sorted({row["source"] for row in rows})
    return SetAttrition(
        name, tuple(_source(source, [row for row in rows if row["source"] == source]) for source in sources), indexed
    )


def _source(source: str, rows: Sequence[dict[str, Any]]) -> SourceAttrition:
    seen = sum(row["count"] for row in rows if row["reason"] == SEEN)
    kept = [row for row in rows if row["stage"] == SAMPLES]
    dropped = [row for row in rows if row["reason"] != SEEN and row["stage"] != SAMPLES]
    left = seen
    lines = [AttritionRow("seen", "items seen", seen, left)]
    for row in dropped:
        left -= row["count"]
        lines.append(AttritionRow("dropped", f"{row['stage']}: {row['reason'].replace('_', ' ')}", row["count"], left))
    lines += [AttritionRow("kept", row["reason"], row["count"], left) for row in kept]
    return SourceAttrition(
        source,
        tuple(lines),
        seen,
        sum(row["count"] for row in dropped),
        sum(row["count"] for row in kept),
    )
