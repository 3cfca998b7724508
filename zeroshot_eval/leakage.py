"""Whether a task's samples are in a training set: by bytes, picture, key, article, patient or group.

Each task is scored on all of its samples and on the clean ones, from its stored answers. What a published model was
trained on is known by name only: such tasks are marked by the names of datasets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

from clipmed.configuration import read_yaml
from clipmed.errors import ConfigError, DataError
from clipmed.records import Split
from shards.config import MAX_PHASH_BITS
from shards.reader import ShardSet
from zeroshot_eval.baselines import baseline
from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap, interval
from zeroshot_eval.collections import Collection, open_collection
from zeroshot_eval.pairing import read_answers
from zeroshot_eval.pictures_in_training import Likeness, Picture, pictures_of
from zeroshot_eval.predictions import Predictions
from zeroshot_eval.rescoring import asked_rows, statistic_of
from zeroshot_eval.stored_scores import scored_sets
from zeroshot_eval.training_matches import Asked, Leak, asked_samples, find_leaks, split_rows

Floats = npt.NDArray[np.float64]

SPLITS = tuple(str(split) for split in Split)
SHOWN = 20  # leaked samples that a result names


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Look for a task's samples in what a checkpoint was trained on; scores on all and on clean samples."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder of the evaluation"""
    train: tuple[str, ...] = ()
    """shard sets that the checkpoint was trained on, as folders or URLs"""
    checkpoint: str = ""
    """name of the checkpoint, where the folder holds several"""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """splits of the training sets that count"""
    sets: tuple[str, ...] = ()
    """where the evaluated images lie; as the evaluation's scores.json says if not given"""
    pictures: Literal["index", "all", "none"] = "index"
    """index: hashes of the training sets' indices find candidates, which are compared by their pixels. all: every
    training image is decoded, which also finds those that frame an evaluated image. none: bytes and ids alone"""
    phash_bits: int = 6
    """most differing bits of the hashes of two images that are then compared by their pixels"""
    min_correlation: float = 0.8
    """least correlation of the local detail of two images that show the same picture"""
    baseline: str = ""
    """flag of a published model, whose training data are known by name"""
    trained_on: tuple[str, ...] = ()
    """names of further datasets that the checkpoint was trained on, as in the catalogue"""
    catalogue: Path = Path("dataset_builders/catalogue")
    """folder of the catalogue's entries, which say which datasets share images"""
    bootstrap_samples: int = 1000
    """resamples of each 95 % interval"""
    seed: int = 0
    """seed of the resamples"""

    def __post_init__(self) -> None:
        if not (self.train or self.baseline or self.trained_on):
            raise ConfigError("nothing to look in: give --train, --baseline or --trained-on")
        if not 0 <= self.phash_bits <= MAX_PHASH_BITS:
            raise ConfigError(f"phash_bits: got {self.phash_bits}; allowed: 0 to {MAX_PHASH_BITS}")
        if not 0 < self.min_correlation <= 1:
            raise ConfigError(f"min_correlation: got {self.min_correlation}; allowed: above 0, up to 1")
        self.intervals()

    @property
    def likeness(self) -> Likeness:
        """What counts as the same picture."""
        return Likeness(bits=self.phash_bits, correlation=self.min_correlation, decode_all=self.pictures == "all")

    def intervals(self) -> BootstrapConfig:
        """Return how intervals are drawn."""
        return BootstrapConfig(samples=self.bootstrap_samples, seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value with its interval and what it is of."""

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAudit:
    """One task: what of it is in the training data, and its main metric on all and on clean samples.

    `inflation` is the value on all less that on clean samples, by the same draws; None where nothing, or everything,
    leaked, or where the metric is not defined on what is left.
    """

    task: str
    metric: str
    samples: int
    leaked: int
    by_rule: dict[str, int]
    leaks: tuple[Leak, ...]
    """the first of them"""
    not_looked_at: int
    """samples whose picture was compared with none: no image at hand, or it does not decode"""
    names: tuple[str, ...]
    """datasets of the task that the checkpoint was trained on, or that share images with such ones, in words"""
    whole: Figure | None
    clean: Figure | None
    inflation: Figure | None

    @property
    def marked(self) -> bool:
        """Whether the score must not be read without a warning."""
        return bool(self.leaked or self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The audit of one checkpoint's evaluation. `training` has one entry {location, digest, samples} a set."""

    checkpoint: str
    checkpoint_digest: str
    training: tuple[dict[str, str | int], ...]
    trained_on: tuple[str, ...]
    tasks: tuple[TaskAudit, ...]
    settings: AuditConfig = field(repr=False)


def run_audit(config: AuditConfig) -> Audit:
    """Look for every task's samples in the training sets, and score the clean ones.

    Raises:
        ClipmedError: no answers or sets there, or an unknown baseline.
    """
    known = (*(baseline(config.baseline).pretraining if config.baseline else ()), *config.trained_on)
    answers = read_answers(config.folder, config.checkpoint)
    training = [ShardSet(location) for location in config.train]
    asked = {one.key: one for predictions in answers for one in asked_samples(predictions)}
    pictures = _pictures(config, asked) if training and config.pictures != "none" else {}
    leaks = find_leaks(list(asked.values()), pictures, training, config.splits, config.likeness) if training else {}
    finder = _Finder(
        leaks=leaks,
        looked_at=frozenset(pictures),
        trained_on=known,
        overlaps=read_overlaps(config.catalogue) if known else {},
        intervals=config.intervals(),
    )
    return Audit(
        checkpoint=answers[0].header.checkpoint,
        checkpoint_digest=answers[0].header.checkpoint_digest,
        training=tuple(_training(one, config.splits) for one in training),
        trained_on=known,
        tasks=tuple(finder.audited(one) for one in tqdm(answers, "auditing", unit="task", delay=2)),
        settings=config,
    )


def read_overlaps(catalogue: Path) -> dict[str, frozenset[str]]:
    """Return by a dataset's name the names of those that share images with it; empty where there is no catalogue."""
    found: dict[str, set[str]] = {}
    for path in sorted(catalogue.glob("*.yaml")):
        entry = read_yaml(path)
        for other in (entry.get("overlaps") or ()) if isinstance(entry, dict) else ():
            found.setdefault(path.stem, set()).add(str(other))
            found.setdefault(str(other), set()).add(path.stem)
    return {name: frozenset(others) for name, others in found.items()}


def named_overlaps(
    datasets: Sequence[str], trained_on: Sequence[str], overlaps: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Return in words which datasets of a task are, or share images with, those that a checkpoint was trained on."""
    own = [f"{name} is training data" for name in datasets if name in trained_on]
    shared = [
        f"{name} shares images with {other}, which is training data"
        for name in datasets
        for other in trained_on
        if other in overlaps.get(name, ()) and name != other
    ]
    return tuple(dict.fromkeys([*own, *shared]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finder:
    """What was found of all samples, to be told by task."""

    leaks: Mapping[str, Leak]
    looked_at: frozenset[str]
    trained_on: Sequence[str]
    overlaps: Mapping[str, frozenset[str]]
    intervals: BootstrapConfig

    def audited(self, predictions: Predictions) -> TaskAudit:
        header = predictions.header
        keys = list(dict.fromkeys(predictions.keys))
        found = [self.leaks[key] for key in keys if key in self.leaks]
        whole, clean, inflation = self._figures(predictions)
        return TaskAudit(
            task=header.task,
            metric=header.main_metric,
            samples=len(keys),
            leaked=len(found),
            by_rule=dict(sorted(Counter(leak.rule for leak in found).items())),
            leaks=tuple(found[:SHOWN]),
            not_looked_at=sum(key not in self.looked_at for key in keys),
            names=named_overlaps(header.dataset.split("+"), self.trained_on, self.overlaps),
            whole=whole,
            clean=clean,
            inflation=inflation,
        )

    def _figures(self, predictions: Predictions) -> tuple[Figure | None, Figure | None, Figure | None]:
        """Return the main metric on all rows and on clean ones, and the difference."""
        metric = predictions.header.main_metric
        rows = asked_rows(predictions, metric)
        is_clean = np.asarray([key not in self.leaks for key in rows.keys])
        one = statistic_of(rows, {metric})

        def statistic(weights: Floats) -> dict[str, Floats]:
            clean = weights * is_clean
            empty = clean.sum(axis=1) <= 0
            values = np.where(empty, np.nan, one(np.where(empty[:, None], 1.0, clean))[metric])
            everything = one(weights)[metric]
            return {"whole": everything, "clean": values, "inflation": everything - values}

        if not len(rows.table) or metric not in one(np.ones((1, len(rows.table)))):
            return None, None, None
        values = statistic(np.ones((1, len(rows.table))))
        drawn = bootstrap(statistic, rows.groups, self.intervals) if len(set(rows.groups)) > 1 else {}
        members = {"whole": np.ones_like(is_clean), "clean": is_clean, "inflation": is_clean}
        figures = [_figure(name, values, drawn, [rows.groups[at] for at in np.flatnonzero(members[name])])
                   for name in members]  # fmt: skip
        whole, clean, inflation = figures
        return (whole, clean, inflation) if not is_clean.all() else (whole, whole, None)


def _figure(
    name: str, values: Mapping[str, Floats], drawn: Mapping[str, Floats], groups: Sequence[str]
) -> Figure | None:
    value = float(values[name][0])
    if np.isnan(value):
        return None
    ends = interval(drawn[name]) if name in drawn else None
    return Figure(
        value=value,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        n=len(groups),
        groups=len(set(groups)),
    )


def _pictures(config: AuditConfig, asked: Mapping[str, Asked]) -> dict[str, Picture]:
    """Return the pictures of the samples whose images the collections hold and that decode."""
    places: dict[str, Callable[[], bytes]] = {}
    for index, location in enumerate(config.sets or scored_sets(config.folder)):
        collection = open_collection(location)
        for split in SPLITS:
            for item in collection.items(split, index):
                if item.key in asked and asked[item.key].sha256 in ("", item.sha256):
                    places.setdefault(item.key, _reader(collection, item.row))
    if not places:
        raise DataError(
            "none of the evaluated images is where the scores say; give the sets with --sets, or --pictures none"
        )
    found = pictures_of(places.items(), len(places))
    return {key: picture for key, picture in found.items() if picture is not None}


def _reader(collection: Collection, row: int) -> Callable[[], bytes]:
    return lambda: collection.image_bytes(row)


def _training(shard_set: ShardSet, splits: Sequence[str]) -> dict[str, str | int]:
    return {"location": shard_set.location, "digest": shard_set.digest, "samples": len(split_rows(shard_set, splits))}
