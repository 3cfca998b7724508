"""The training stream: which sample comes at which position, as a pure function of seed, position and mixture.

Nothing is drawn from a generator that advances. Position p = step x batch size + i alone decides the draw, so that the
sequence does not depend on workers or processes, and a run resumes anywhere by asking for its next position.

Samples come from pools. Without a mixture there is one pool, of all rows: every row comes once an epoch. With weights
or a temperature each source, or each modality, is a pool; a schedule of `CYCLE` slots holds each pool exactly as often
as its share says, spread evenly and shuffled within windows of `WINDOW` slots, so that every batch is close to the
mixture. Each pass over a pool is a full permutation of its rows, another one every pass.

The temperature is that of multilingual training (Conneau and Lample 2019, arXiv 1901.07291): shares in proportion to
count ** (1 / temperature).

Memory: there is no shuffle buffer, since a permutation is worked out and not stored. A stream holds columns of numbers,
about 40 bytes a sample and, where caption origins have shares, 8 a caption; forked loader processes share them.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from clipmed.records import CaptionOrigin
from shards.randomness import hash_u64, mix, permuted, stream_key, unit_floats
from shards.reader import ShardSet

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CYCLE = 1 << 16
WINDOW = 1 << 8
SEED_BITS = 63
WHOLE = "all"

MixBy = Literal["source", "modality"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """The mixture that a model is trained on."""

    seed: int = 0
    """seed of the order, the captions and the augmentation"""
    mix_by: MixBy = "source"
    """what weights or temperature share the samples out to: sources, or modalities"""
    weights: dict[str, float] = field(default_factory=dict)
    """share of each source or modality, by name; 0 leaves one out; empty takes every row once an epoch"""
    temperature: float | None = None
    """in place of weights: shares in proportion to count ** (1 / temperature). 1 gives each source or modality as many
    as it has, a large number gives all equally many"""
    caption_origins: dict[str, float] = field(default_factory=dict)
    """share of each caption origin, among those that a sample has; empty draws uniformly over its captions"""

    def __post_init__(self) -> None:
        for name, shares in (("weights", self.weights), ("caption_origins", self.caption_origins)):
            bad = {key: share for key, share in shares.items() if not 0 <= share < float("inf")}
            if bad or (shares and not sum(shares.values())):
                raise ConfigError(f"{name}: got {bad or shares}; allowed: numbers of 0 or more, at least one above 0")
        if self.weights and self.temperature is not None:
            raise ConfigError(f"weights: got {self.weights} and temperature {self.temperature}; allowed: one of them")
        if self.temperature is not None and not 1 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: got {self.temperature}; allowed: 1 or more, or None")
        if self.mix_by not in typing.get_args(MixBy):
            raise ConfigError(f"mix_by: got {self.mix_by!r}; allowed: {', '.join(typing.get_args(MixBy))}")
        if self.mix_by != "source" and not self.is_mixed:
            raise ConfigError(f"mix_by: got {self.mix_by!r} without shares; give weights or temperature as well")
        allowed = typing.get_args(CaptionOrigin)
        _refuse_unknown("caption_origins", "caption origin", self.caption_origins, allowed)

    @property
    def is_mixed(self) -> bool:
        """Whether samples are drawn by shares, and not each once an epoch."""
        return bool(self.weights) or self.temperature is not None


class Draw(NamedTuple):
    """One sample of the stream: a row of one of the sets, which of its captions, and a seed to augment it with."""

    set_index: int
    row: int
    caption_index: int
    augment_seed: int
    position: int


class SampleStream:
    """The samples of one split of one or more sets, mixed.

    Args:
        sets: open shard sets; their order matters to the sequence.
        split: train, val or test.
        config: the mixture.

    Raises:
        ConfigError: no samples; or weights that name an unknown source or modality or leave one out; or samples without
            a caption of a weighted origin.
    """

    def __init__(self, sets: Sequence[ShardSet], split: str, config: StreamConfig) -> None:
        self.config = config
        self.split = split
        rows = [shard_set.rows(split) for shard_set in sets]
        if not sum(map(len, rows)):
            raise ConfigError(f"no samples in the split {split!r} of {len(sets)} sets; pack with a larger share of it")
        self._rows = np.concatenate(rows)
        self._set_index = np.repeat(np.arange(len(rows), dtype=np.int16), [len(part) for part in rows])
        self._sources, self.source_names = _codes_of("source", sets, rows)
        self._schedule, self._pools = self._make_pools(sets, rows)
        self._captions = _CaptionSampler(sets, rows, config.caption_origins)

    @property
    def num_samples(self) -> int:
        """How many samples the pools hold."""
        return sum(len(pool.samples) for pool in self._pools)

    def epoch_of(self, position: int) -> float:
        """Return how many times the number of samples has gone by at a position."""
        return position / self.num_samples

    def plan(self, step: int, batch_size: int) -> list[Draw]:
        """Return the draws of one step: positions step x batch_size to (step + 1) x batch_size - 1."""
        return self.draws(step * batch_size, (step + 1) * batch_size)

    def draws(self, start: int, stop: int) -> list[Draw]:
        """Return the draws at positions `start` … `stop`-1; the cost does not depend on the positions before."""
        position = np.arange(start, stop)
        sample, _ = self._samples_at(start, stop)
        return self._draws_of(sample, position)

    def alternate(self, draw: Draw, attempt: int) -> Draw:
        """Return a draw to take in place of one whose sample cannot be read: another sample of the same pool.

        A function of seed, position and attempt alone. The position and the augmentation's seed stay.

        Args:
            draw: what `draws` gave for the position.
            attempt: 1, 2, …; each one gives a sample that neither the draw nor another attempt has.

        Raises:
            DataError: every sample of the pool has been given.
        """
        sample, pool_of = self._samples_at(draw.position, draw.position + 1)
        pool = self._pools[int(pool_of[0])]
        others = len(pool.samples) - 1
        if attempt > others:
            raise DataError(
                f"position {draw.position} of the stream: none of the {others + 1} samples of the pool {pool.name!r} "
                "can be read; `python -m shards verify` names what is damaged"
            )
        key = mix(np.atleast_1d(stream_key("alternate", self.config.seed)), np.array([draw.position]))
        ahead = 1 + permuted(np.array([attempt - 1]), others, key)
        place = np.searchsorted(pool.samples, sample) + ahead
        return self._draws_of(pool.samples[place % len(pool.samples)], np.array([draw.position]))[0]

    def sources_of(self, draws: Sequence[Draw]) -> Ints:
        """Return the source of each draw's sample, int64 (N,), as its number in `source_names`."""
        set_index = np.array([draw.set_index for draw in draws], np.int64)
        row = np.array([draw.row for draw in draws], np.int64)
        source = np.empty(len(draws), np.int64)
        for each in np.unique(set_index):
            first, last = np.searchsorted(self._set_index, [each, each + 1])
            mine = set_index == each
            source[mine] = self._sources[first + np.searchsorted(self._rows[first:last], row[mine])]
        return source

    def pool_shares(self) -> dict[str, float]:
        """Return the share of each pool, by its source or modality; without a mixture one pool, `all`."""
        return {pool.name: len(pool.slots) / CYCLE for pool in self._pools}

    def expected_mixture(self) -> dict[str, float]:
        """Return the share of each source that the mixture asks for."""
        shares = np.zeros(len(self.source_names))
        for pool in self._pools:
            counts = np.bincount(self._sources[pool.samples], minlength=len(shares))
            shares += len(pool.slots) / CYCLE * counts / len(pool.samples)
        return dict(zip(self.source_names, shares.tolist(), strict=True))

    def realised_mixture(self, steps: int, batch_size: int) -> dict[str, float]:
        """Return the share of each source in the first `steps` steps."""
        total = steps * batch_size
        counts = np.zeros(len(self.source_names), np.int64)
        for start in range(0, total, CYCLE):
            sample, _ = self._samples_at(start, min(start + CYCLE, total))
            counts += np.bincount(self._sources[sample], minlength=len(counts))
        return {name: count / max(total, 1) for name, count in zip(self.source_names, counts.tolist(), strict=True)}

    def _make_pools(self, sets: Sequence[ShardSet], rows: Sequence[Ints]) -> tuple[Ints, list[_Pool]]:
        """Return the number of the pool of every slot, and the pools."""
        mix_by, seed = self.config.mix_by, self.config.seed
        if not self.config.is_mixed:
            pool = _Pool(WHOLE, stream_key("pool", seed), np.arange(len(self._rows)), np.arange(CYCLE))
            return np.zeros(CYCLE, np.int64), [pool]
        codes, found = (self._sources, self.source_names) if mix_by == "source" else _codes_of(mix_by, sets, rows)
        if self.config.temperature is None:
            known = sorted({name for shard_set in sets for name in shard_set.manifest["counts"][mix_by]})
            names, weights = self._weighted(found, known)
        else:
            counts = np.bincount(codes)
            names, weights = found, (counts / counts.max()) ** (1 / self.config.temperature)
        schedule = even_schedule(weights)
        return schedule, [
            _Pool(
                name,
                stream_key("pool", seed, name),
                np.flatnonzero(codes == found.index(name)),
                np.flatnonzero(schedule == number),
            )
            for number, name in enumerate(names)
        ]

    def _weighted(self, found: list[str], known: list[str]) -> tuple[list[str], Floats]:
        """Return the names with a weight above 0, sorted, and their weights, of those found among the samples."""
        mix_by, weights = self.config.mix_by, self.config.weights
        _refuse_unknown("weights", mix_by, weights, known)
        if missing := [name for name in found if name not in weights]:
            raise ConfigError(f"weights: none for {', '.join(missing)}; give each a weight, 0 to leave it out")
        names = sorted(name for name, weight in weights.items() if weight > 0)
        if empty := [name for name in names if name not in found]:
            raise ConfigError(f"weights: {', '.join(empty)} has no samples in the split {self.split!r}; give it 0")
        return names, np.array([weights[name] for name in names], np.float64)

    def _draws_of(self, sample: Ints, position: Ints) -> list[Draw]:
        """Return the draws of the given sample numbers at the given positions, both (N,)."""
        caption = self._captions.at(sample, unit_floats(hash_u64("caption", self.config.seed, position)))
        augment = hash_u64("augment", self.config.seed, position) >> np.uint64(64 - SEED_BITS)
        columns = (self._set_index[sample], self._rows[sample], caption, augment, position)
        return list(map(Draw, *(column.tolist() for column in columns)))

    def _samples_at(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Return sample and pool number at each position of a range; whole windows are worked out and cut."""
        first = start // WINDOW * WINDOW
        position = np.arange(first, -(-stop // WINDOW) * WINDOW)
        window, inside = np.divmod(position, WINDOW)
        shuffled = permuted(inside, WINDOW, hash_u64("window", self.config.seed, window))
        pool_of, sample = self._schedule[position % CYCLE - inside + shuffled], np.empty(len(position), np.int64)
        for number, pool in enumerate(self._pools):
            mine = np.flatnonzero(pool_of == number)
            sample[mine] = pool.draw(pool.turns_before(first) + np.arange(len(mine)))
        asked = slice(start - first, stop - first)
        return sample[asked], pool_of[asked]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Samples that are drawn in whole passes; `slots` are the pool's slots in every cycle, both in rising order."""

    name: str
    key: np.uint64
    samples: Ints
    slots: Ints

    def turns_before(self, position: int) -> int:
        """Return how often the pool is drawn from before a position at which a window begins."""
        cycle, slot = divmod(position, CYCLE)
        return cycle * len(self.slots) + int(np.searchsorted(self.slots, slot))

    def draw(self, turn: Ints) -> Ints:
        """Return the samples at the given turns: one permutation of all after the other."""
        epoch, rank = np.divmod(turn, len(self.samples))
        drawn: Ints = self.samples[permuted(rank, len(self.samples), mix(np.atleast_1d(self.key), epoch))]
        return drawn


def even_schedule(weights: Floats) -> Ints:
    """Return the pool of each of the `CYCLE` slots, each pool's slots spread evenly.

    A pool has as many slots as its share of the weights says, to within one, and at least one.
    `weights` (P,) are above zero; only their ratios count.
    """
    wanted = weights / weights.sum() * (CYCLE - len(weights))
    counts = np.floor(wanted).astype(np.int64) + 1
    largest = np.argsort(np.floor(wanted) - wanted, kind="stable")[: CYCLE - int(counts.sum())]
    counts[largest] += 1
    pool = np.repeat(np.arange(len(weights)), counts)
    nth = np.arange(CYCLE) - np.repeat(np.cumsum(counts) - counts, counts)
    schedule: Ints = pool[np.argsort((nth + 0.5) / counts[pool], kind="stable")]
    return schedule


class _CaptionSampler:
    """Draws a caption of a sample: uniformly, or an origin by its share and then one of its captions."""

    def __init__(self, sets: Sequence[ShardSet], rows: Sequence[Ints], shares: dict[str, float]) -> None:
        origins = [_origins_of(shard_set, part) for shard_set, part in zip(sets, rows, strict=True)]
        self._count = np.concatenate([np.asarray(pc.list_value_length(part)) for part in origins]).astype(np.int64)
        self._first = np.cumsum(self._count) - self._count
        self._edges: Floats | None = None
        if shares:
            self._edges = self._make_edges(pa.chunked_array([part.flatten() for part in origins]), shares)

    def at(self, sample: Ints, chance: Floats) -> Ints:
        """Return the caption number for each sample, by a number in [0, 1) each."""
        if self._edges is None:
            return np.floor(chance * self._count[sample]).astype(np.int64)
        place = np.minimum(sample + chance, np.nextafter(sample + 1.0, 0))
        caption: Ints = np.searchsorted(self._edges, place, side="right") - self._first[sample]
        return caption

    def _make_edges(self, origins: pa.ChunkedArray, shares: dict[str, float]) -> Floats:
        """Return the upper edge of each caption's interval: the sample's number plus a running sum that ends at 1."""
        names = list(shares)
        code = np.asarray(pc.fill_null(pc.index_in(origins, value_set=pa.array(names)), len(names)))
        share = np.array([*shares.values(), 0.0])[code]
        sample = np.repeat(np.arange(len(self._count)), self._count)
        same_origin = np.unique(sample * (len(names) + 1) + code, return_inverse=True, return_counts=True)
        chance = share / same_origin[2][same_origin[1]]
        total = np.bincount(sample, chance, len(self._count))
        if num_without := int((total == 0).sum()):
            found = ", ".join(sorted(set(pc.unique(origins).to_pylist()) - {name for name in names if shares[name]}))
            raise ConfigError(
                f"caption_origins: {num_without} samples have no caption of {', '.join(names)}; "
                f"give a share to the others that the set has: {found}"
            )
        running = np.cumsum(chance / total[sample])
        inside = running - np.concatenate([[0.0], running])[self._first[sample]]
        # Rounding must not leave a gap below the sample's end: a caption without a share could be drawn from it.
        return np.where(inside > 1 - 1e-6, sample + 1.0, sample + inside)


def _codes_of(column_name: MixBy, sets: Sequence[ShardSet], rows: Sequence[Ints]) -> tuple[Ints, list[str]]:
    """Return the code of each sample's source or modality, and the names of the codes, sorted."""
    columns = [shard_set.arrow_column(column_name).take(part) for shard_set, part in zip(sets, rows, strict=True)]
    column = pa.chunked_array([chunk for each in columns for chunk in each.chunks], pa.string())
    names = sorted(pc.unique(column).to_pylist())
    return np.asarray(pc.index_in(column, value_set=pa.array(names))).astype(np.int64), names


def _origins_of(shard_set: ShardSet, rows: Ints) -> pa.ListArray:
    """Return the origins of the captions of each row."""
    lists = shard_set.arrow_column("captions.list.element.origin").take(rows).combine_chunks()
    return pa.ListArray.from_arrays(lists.offsets, lists.values.field("origin"))


def _refuse_unknown(what: str, kind: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ConfigError(f"{what}: unknown {kind} {name!r}{nearest(name, allowed)} Allowed: {', '.join(allowed)}")
