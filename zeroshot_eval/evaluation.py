"""An evaluation from its config to its results: read the suites, embed what the cache lacks, score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import tyro

from clipmed.configuration import nearest
from clipmed.devices import DType
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.collections import Collection, open_collection
from zeroshot_eval.embedding import (
    CollectionPlace,
    Embedder,
    ImageEmbeddings,
    Place,
    embed_images,
    embed_texts,
    stored_images,
)
from zeroshot_eval.encoders import EncoderFacts, describe_encoder
from zeroshot_eval.planning import Asked, make_plan
from zeroshot_eval.predictions import slug
from zeroshot_eval.progress import progress
from zeroshot_eval.retrieval_scoring import score_retrieval
from zeroshot_eval.scores import score_rows
from zeroshot_eval.scoring import Score, TaskResult, Texts, score_classification
from zeroshot_eval.selection import Selection, Skipped
from zeroshot_eval.suite import ChoiceTask, ClassificationTask, ProbeTask, Suite
from zeroshot_eval.weight_files import remembered_digests

if TYPE_CHECKING:  # imported where there are probes
    from zeroshot_eval.probe_scoring import ProbeData
    from zeroshot_eval.prompt_sensitivity import PromptSensitivity

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score checkpoints on suites: every figure with its n, its 95 % interval and chance."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """folders (a run's model/), hf-hub:org/name, OpenCLIP's MODEL:TAG, or flags of published models"""
    suite: tuple[str, ...] = ("auto",)
    """names of suites or paths of .yaml files; auto: the classes and captions that the data bring along"""
    sets: tuple[str, ...]
    """shard sets (folders or URLs), folders of classes, tables (.csv, .tsv, .parquet), CLIP_benchmark's folders"""
    out: Path
    """folder for scores.json, scores.parquet, predictions/, report.html and config.yaml"""
    cache: Path | None = None
    """folder of the embedding cache; <out>/embeddings if not given. Evaluations may share one"""
    tasks: tuple[str, ...] = ()
    """only tasks of these names or tags; all if not given"""
    batch_size: int = 64
    """images or texts embedded at once"""
    bootstrap_samples: int = 1000
    """resamples of each 95 % interval; 0 gives no intervals"""
    seed: int = 0
    """seed of the bootstrap, of few-shot draws and of the gallery's choice"""
    device: str = "cpu"
    """where to embed: cpu, cuda, …"""
    dtype: DType = "float32"
    """what embeddings are computed in; bfloat16 and float16 are faster on GPUs and give ties"""
    report: bool = True
    """write report.html"""
    jobs: JobsConfig = field(default_factory=lambda: JobsConfig(executor="inline"))
    """where images are embedded; inline: here"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", tuple(str(location) for location in self.sets))
        if not self.checkpoints:
            raise ConfigError("checkpoints: got none; give one or more, such as build/run/model")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ConfigError("checkpoints: one comes twice; give each once")
        if not self.sets:
            raise ConfigError("sets: got none; give one or more, such as a folder that `python -m shards pack` wrote")
        if not self.suite:
            raise ConfigError("suite: got none; give one or more, or auto")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: got {self.batch_size}; allowed: 1 or more")
        self.intervals()

    @property
    def cache_folder(self) -> Path:
        """The folder of the embedding cache."""
        return self.cache or self.out / "embeddings"

    def intervals(self) -> BootstrapConfig | None:
        """Return how intervals are drawn, or None where none are."""
        if self.bootstrap_samples == 0:
            return None
        return BootstrapConfig(samples=self.bootstrap_samples, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class CheckpointRun:
    """One scored checkpoint: its results, and the embeddings that they were made of."""

    embedder: Embedder
    texts: Texts = field(repr=False)
    images: Mapping[int, ImageEmbeddings] = field(repr=False)
    results: tuple[TaskResult, ...] = field(repr=False)
    seed: int = 0

    @property
    def facts(self) -> EncoderFacts:
        """The checkpoint's name, digest, preprocessing and scale."""
        return self.embedder.facts

    @property
    def location(self) -> str:
        """The checkpoint as it was given."""
        return self.embedder.location

    def vectors(self, selection: Selection) -> Singles:
        """Return the embeddings of a selection's samples in its order, shape (n, D)."""
        return vectors(selection, self.images)

    @cached_property
    def prompt_spreads(self) -> dict[str, PromptSensitivity]:
        """What single-label tasks score with other choices among their prompts, by task; computed on first use."""
        from zeroshot_eval.prompt_spread import prompt_spread

        found = {
            result.task.name: prompt_spread(result, self.vectors(result.selection), self.texts, self.seed)
            for result in self.results
            if result.kind == "classification"
        }
        return {task: spread for task, spread in found.items() if spread is not None}

    def result(self, task: str) -> TaskResult:
        """Return the result of a task."""
        return next(result for result in self.results if result.task.name == task)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Checkpoints scored on suites, and what was not scored."""

    config: EvalConfig
    suites: tuple[Suite, ...]
    collections: tuple[Collection, ...] = field(repr=False)
    runs: tuple[CheckpointRun, ...]
    skipped: tuple[Skipped, ...]
    repeated: int
    """samples that an earlier collection holds already; scored once"""

    @cached_property
    def rows(self) -> tuple[Score, ...]:
        """Every figure: tasks, then averages by dataset, by modality and over all, checkpoint after checkpoint."""
        digests = tuple(collection.digest for collection in self.collections)
        return tuple(row for run in self.runs for row in score_rows(run.facts, run.results, digests))

    @property
    def phantom(self) -> bool:
        """Whether any suite is of synthetic images."""
        return any(suite.phantom for suite in self.suites)

    def images_scored(self) -> int:
        """Return the number of distinct images that any task asked."""
        results = [result for run in self.runs for result in run.results]
        return len({item.key for result in results for item in result.selection.items})


def evaluate(config: EvalConfig) -> Evaluation:
    """Score checkpoints on suites over collections; writes nothing but the embedding cache.

    Raises:
        ClipmedError: a suite, checkpoint or collection that is not sound, before anything is embedded.
    """
    with remembered_digests(config.cache_folder):
        facts = _named_apart([describe_encoder(location) for location in config.checkpoints], config.checkpoints)
    collections = tuple(open_collection(location, config.cache_folder) for location in config.sets)
    plan = make_plan(config.suite, collections, config.tasks)
    embedders = [
        Embedder(
            location=location,
            facts=one,
            device=config.device,
            dtype=config.dtype,
            batch_size=config.batch_size,
            cache=config.cache_folder,
        )
        for location, one in zip(config.checkpoints, facts, strict=True)
    ]
    rows = plan.rows()
    wanted: dict[tuple[Place, str], Sequence[int]] = {
        (CollectionPlace(config.sets[index], config.cache_folder), collections[index].image_digest): found
        for index, found in rows.items()
    }
    wanted |= {place: range(count) for one in plan.asked for place, count in one.question_images()}
    embed_images(embedders, wanted, config.jobs)
    digests = {index: collections[index].image_digest for index in rows}
    texts = plan.texts()
    runs, failed = [], list[Skipped]()
    with progress(len(plan.asked) * len(embedders), "scoring", "task") as bar:
        for embedder in embedders:
            own = Texts(embed_texts(embedder, texts), embedder.facts.logit_scale, embedder.facts.logit_bias)
            images = {index: stored_images(embedder, digests[index], found) for index, found in rows.items()}
            scorer = _Scorer(embedder, images, own, config)
            results = []
            for asked in plan.asked:
                scored = scorer.score(asked)
                if isinstance(scored, Skipped):
                    failed.append(scored)
                else:
                    results.append(scored)
                bar.update()
            runs.append(
                CheckpointRun(embedder=embedder, texts=own, images=images, results=tuple(results), seed=config.seed)
            )
    return Evaluation(
        config=config,
        suites=plan.suites,
        collections=collections,
        runs=tuple(runs),
        skipped=(*plan.skipped, *dict.fromkeys(failed)),
        repeated=plan.repeated,
    )


def vectors(selection: Selection, images: Mapping[int, ImageEmbeddings]) -> Singles:
    """Return the embeddings of a selection's samples in its order, shape (n, D)."""
    dimensions = next(iter(images.values())).embeddings.shape[1]
    found = np.empty((len(selection.items), dimensions), dtype=np.float32)
    for set_index in selection.set_indices:
        places = [place for place, item in enumerate(selection.items) if item.set_index == set_index]
        found[places] = images[set_index].of([selection.items[place].row for place in places])
    return found


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores the tasks of one checkpoint."""

    embedder: Embedder
    images: Mapping[int, ImageEmbeddings]
    texts: Texts
    config: EvalConfig

    def score(self, asked: Asked) -> TaskResult | Skipped:
        found = self._score(asked)
        main = asked.task.main_metric
        if isinstance(found, TaskResult) and main and main not in (*found.measures, *found.undefined):
            raise ConfigError(
                f"task {asked.task.name!r}: main_metric: got {main!r}{nearest(main, list(found.measures))} "
                f"Allowed: {', '.join(found.measures)}"
            )
        return found

    def _score(self, asked: Asked) -> TaskResult | Skipped:
        task, suite, intervals = asked.task, asked.suite.name, self.config.intervals()
        if isinstance(task, ChoiceTask):
            from zeroshot_eval.choice_scoring import score_choice

            assert asked.questions is not None
            rows = range(len(asked.questions.refs))
            embedded = (stored_images(self.embedder, asked.questions.image_digest, rows).of(rows), self.texts)
            return score_choice(suite, task, asked.questions, embedded, intervals, seed=self.config.seed)
        if isinstance(task, ProbeTask):
            from zeroshot_eval.probe_scoring import score_probe

            return score_probe(suite, task, self._probe_data(asked), intervals, seed=self.config.seed)
        vectors_of_task = (vectors(asked.selection, self.images), self.texts)
        if isinstance(task, ClassificationTask):
            return score_classification(suite, task, asked.selection, vectors_of_task, intervals)
        return score_retrieval(suite, task, asked.selection, vectors_of_task, intervals)

    def _probe_data(self, asked: Asked) -> ProbeData:
        from zeroshot_eval.probe_scoring import ProbeData

        assert asked.train is not None
        return ProbeData(
            train=(asked.train, vectors(asked.train, self.images)),
            test=(asked.selection, vectors(asked.selection, self.images)),
            val=None if asked.val is None else (asked.val, vectors(asked.val, self.images)),
        )


def _named_apart(facts: Sequence[EncoderFacts], locations: Sequence[str]) -> list[EncoderFacts]:
    """Let no two checkpoints have one name, also as names of folders: those that do are called by where they lie."""
    counts = Counter(slug(one.name) for one in facts)
    named = [
        one if counts[slug(one.name)] == 1 else replace(one, name=location)
        for one, location in zip(facts, locations, strict=True)
    ]
    counts = Counter(slug(one.name) for one in named)
    return [
        one if counts[slug(one.name)] == 1 else replace(one, name=f"{one.name} {number}")
        for number, one in enumerate(named, start=1)
    ]
