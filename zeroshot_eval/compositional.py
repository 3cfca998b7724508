"""Compositional splits: does training on parts of a combination help with the combination? (Cai et al. 2024, Med-MAT.)

Every image has a triple of modality, anatomical area and task. One triple is held out; training sets of one size are
drawn from images whose triples share something with it (related), share nothing (unrelated), or from both (all). What a
model gains from related over unrelated data is what it puts together. (arXiv 2412.20070; Med-MAT is over subsets, this
is over images of any labelled data.)
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.errors import ConfigError, DataError
from clipmed.files import atomic_file, write_json, write_text
from zeroshot_eval.bootstrap import interval

Floats = npt.NDArray[np.float64]
TrainRole = Literal["related", "unrelated", "all"]
TRAIN_ROLES: tuple[TrainRole, ...] = get_args(TrainRole)
HELD_OUT = "held_out"
ELEMENTS = ("modality", "area", "task")


class Triple(NamedTuple):
    """What an image shows, where, and what is asked of it."""

    modality: str
    area: str
    task: str

    def shared(self, other: Triple) -> tuple[str, ...]:
        """Return the names of the elements that both have."""
        pairs = zip(ELEMENTS, self, other, strict=True)
        return tuple(name for name, mine, theirs in pairs if mine == theirs)

    def __str__(self) -> str:
        return " / ".join(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image by its key, its group and its triple."""

    key: str
    group: str
    triple: Triple


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a table, and the rows without a triple or a key, by reason."""

    rows: tuple[Sample, ...]
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionConfig:
    """How training sets are drawn."""

    size: int = 0
    """images of each training set; 0: as many as the smallest of them allows"""
    seed: int = 0
    """seed of the draw"""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"size: got {self.size}; allowed: 1 or more, or 0 for as many as there are")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionSplit:
    """The training sets of one held-out triple, as rows of the samples."""

    held_out: Triple
    test: tuple[Sample, ...]
    train: Mapping[TrainRole, tuple[Sample, ...]]
    """of equal size"""
    available: Mapping[TrainRole, int]
    """images that each could have been drawn from"""
    shared_groups: int
    """images of other triples that were left out since their group has held-out images too"""
    uncovered: tuple[str, ...]
    """elements of the held-out triple that no related image has: they cannot be put together from parts"""


def read_samples(path: Path) -> Samples:
    """Read keys, groups and triples from a table: CSV, Parquet, or a file of predictions.

    The columns are key, group, modality, area and task; those of the triple may lie in the facts (JSON) of a row.
    A row without a key or without a full triple is skipped and counted; without a group, the key is the group.

    Raises:
        DataError: not a table, or none of its rows can be used.
    """
    rows: list[Sample] = []
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    for values in _table_rows(path):
        sample = _sample(values)
        if isinstance(sample, str):
            skipped[sample] += 1
        elif sample.key in seen:
            skipped["duplicate key"] += 1
        else:
            seen.add(sample.key)
            rows.append(sample)
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "it is empty"
        raise DataError(f"{path}: no row with a key and a triple of {', '.join(ELEMENTS)}: {why}")
    return Samples(tuple(rows), dict(skipped))


def split(samples: Sequence[Sample], held_out: Triple, config: CompositionConfig | None = None) -> CompositionSplit:
    """Hold out a triple and draw the three training sets, whole groups as far as the size allows.

    Groups are dealt in one random order for all three; the last group that fits is cut to the size. A group that has
    held-out images gives no training image.

    Raises:
        ConfigError: no image has the triple, or there are fewer images than the size.
        DataError: no image is related, or none unrelated.
    """
    config = config or CompositionConfig()
    test = tuple(sample for sample in samples if sample.triple == held_out)
    if not test:
        known = sorted({str(sample.triple) for sample in samples})
        raise ConfigError(f"held-out triple: got {held_out}; allowed: {'; '.join(known)}")
    held_groups = {sample.group for sample in test}
    others = [sample for sample in samples if sample.triple != held_out]
    free = [sample for sample in others if sample.group not in held_groups]
    pools: dict[TrainRole, list[Sample]] = {
        "related": [sample for sample in free if sample.triple.shared(held_out)],
        "unrelated": [sample for sample in free if not sample.triple.shared(held_out)],
        "all": free,
    }
    if empty := [role for role in TRAIN_ROLES if not pools[role]]:
        raise DataError(f"{held_out}: no image is {empty[0]} to it; nothing can be compared")
    smallest = min(len(pool) for pool in pools.values())
    if config.size > smallest:
        counts = ", ".join(f"{role} {len(pool)}" for role, pool in pools.items())
        raise ConfigError(f"size: got {config.size}; allowed: up to {smallest} ({counts})")
    order = _group_order(free, config.seed)
    covered = {name for sample in pools["related"] for name in sample.triple.shared(held_out)}
    return CompositionSplit(
        held_out=held_out,
        test=test,
        train={role: _drawn(pool, order, config.size or smallest) for role, pool in pools.items()},
        available={role: len(pool) for role, pool in pools.items()},
        shared_groups=len(others) - len(free),
        uncovered=tuple(name for name in ELEMENTS if name not in covered),
    )


def write_split(found: CompositionSplit, samples: Sequence[Sample], folder: Path) -> None:
    """Write a split as files.

    ROLE.txt           keys of a training set, one a line, and held_out.txt those of the test
    ROLE.drop.txt      all other keys of the samples: `shards pack --decontaminate ROLE.drop.txt
                       --no-decontaminate-groups` packs the training set alone
    split.parquet      key, group, role, modality, area, task: a row a key and role
    split.json         the triple, sizes, what was available, what was left out
    """
    members: dict[str, tuple[Sample, ...]] = {HELD_OUT: found.test}
    members |= {str(role): drawn for role, drawn in found.train.items()}
    for role, drawn in members.items():
        keys = [sample.key for sample in drawn]
        write_text(folder / f"{role}.txt", "".join(f"{key}\n" for key in sorted(keys)))
        if role != HELD_OUT:
            rest = {sample.key for sample in samples} - set(keys)
            write_text(folder / f"{role}.drop.txt", "".join(f"{key}\n" for key in sorted(rest)))
    rows = [
        {"key": sample.key, "group": sample.group, "role": role} | sample.triple._asdict()
        for role, drawn in members.items()
        for sample in drawn
    ]
    schema = pa.schema([(name, pa.string()) for name in ("key", "group", "role", *ELEMENTS)])
    with atomic_file(folder / "split.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
    write_json(
        folder / "split.json",
        {
            "held_out": found.held_out._asdict(),
            "sizes": {role: len(drawn) for role, drawn in members.items()},
            "available": dict(found.available),
            "shared_groups": found.shared_groups,
            "uncovered": list(found.uncovered),
        },
    )


@dataclass(frozen=True, slots=True)
class RoleScore:
    """The score of a model that was trained on one training set, on the held-out triple.

    Replicates of one held-out triple are paired: they come from the same resamples of the test's groups.
    """

    held_out: Triple
    role: str
    value: float
    replicates: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class Gain:
    """A row of the table of gains: a score, and how much it exceeds that of the reference, with its interval."""

    held_out: str
    role: str
    value: float
    reference: str
    gain: float
    low: float | None
    high: float | None


def gains(scores: Sequence[RoleScore], reference: str = "unrelated", level: float = 0.95) -> list[Gain]:
    """Return what each training set gains over the reference, by held-out triple, then the mean over triples.

    The mean is over the triples for which both were scored, each weighing the same; its interval has only those
    triples' resamples, drawn independently.

    Raises:
        DataError: a triple and role come twice, a triple lacks the reference, or replicates differ in number.
    """
    by_triple: dict[Triple, dict[str, RoleScore]] = {}
    for score in scores:
        roles = by_triple.setdefault(score.held_out, {})
        if score.role in roles:
            raise DataError(f"{score.held_out}: {score.role} is scored twice; give each evaluation once")
        roles[score.role] = score
    rows: list[Gain] = []
    pairs: dict[str, list[tuple[RoleScore, RoleScore]]] = {}
    for triple, roles in by_triple.items():
        if reference not in roles:
            raise DataError(f"{triple}: no score of {reference!r} to compare with; got {', '.join(roles)}")
        for role, score in roles.items():
            if role != reference:
                rows.append(_gain(str(triple), role, reference, [(score, roles[reference])], level))
                pairs.setdefault(role, []).append((score, roles[reference]))
    return rows + [_gain("mean", role, reference, found, level) for role, found in pairs.items()]


def write_gains(rows: Sequence[Gain], path: Path) -> None:
    """Write the table of gains as CSV; an interval that cannot be given is left empty."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(Gain.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _gain(held_out: str, role: str, reference: str, pairs: Sequence[tuple[RoleScore, RoleScore]], level: float) -> Gain:
    lengths = {len(score.replicates) for pair in pairs for score in pair}
    if len(lengths) > 1:
        raise DataError(f"{held_out}, {role}: replicates of {sorted(lengths)} resamples; draw as many for each")
    differences = np.mean([score.replicates - base.replicates for score, base in pairs], axis=0)
    bounds = interval(differences, level) if lengths != {0} else None
    low, high = bounds or (None, None)
    value = float(np.mean([score.value for score, _ in pairs]))
    gain = value - float(np.mean([base.value for _, base in pairs]))
    return Gain(held_out, role, value, reference, gain, low, high)


def _group_order(samples: Sequence[Sample], seed: int) -> dict[str, int]:
    names = sorted({sample.group for sample in samples})
    return {names[place]: turn for turn, place in enumerate(np.random.default_rng(seed).permutation(len(names)))}


def _drawn(pool: Sequence[Sample], order: Mapping[str, int], size: int) -> tuple[Sample, ...]:
    return tuple(sorted(pool, key=lambda sample: (order[sample.group], sample.key))[:size])


def _sample(values: Mapping[str, Any]) -> Sample | str:
    """Return a row's sample, or why it has none."""
    key = values.get("key")
    if not isinstance(key, str) or not key.strip():
        return "without a key"
    facts = _facts(values.get("facts"))
    found = [_named(values.get(name)) or _named(facts.get(name)) for name in ELEMENTS]
    if not all(found):
        return f"without {ELEMENTS[found.index('')]}"
    return Sample(key.strip(), _named(values.get("group")) or key.strip(), Triple(*found))


def _named(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _facts(value: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _table_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return list(csv.DictReader(stream))
        names = set(pq.read_schema(path).names) & {"key", "group", "facts", *ELEMENTS}
        rows: list[dict[str, Any]] = pq.read_table(path, columns=sorted(names)).to_pylist()
    except (OSError, csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path} is no table; give a CSV or Parquet file: {error}") from error
    return rows
