"""An evaluation from its config to its results: read the suite, embed what the cache lacks, score."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

from clipmed.checkpoints import WEIGHTS_FILE, checkpoint_digest, checkpoint_folder, read_config
from clipmed.configuration import save_yaml
from clipmed.errors import ConfigError, DataError
from clipmed.files import write_json
from clipmed.jobs import JobsConfig
from shards.reader import ShardSet
from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.collections import ShardCollection
from zeroshot_eval.embedding import Embedder, ImageEmbeddings, embed_sets, embed_unique_texts
from zeroshot_eval.scores import Context, score_rows
from zeroshot_eval.scoring import (
    ClassificationResult,
    RetrievalResult,
    Score,
    Texts,
    score_classification,
    score_retrieval,
)
from zeroshot_eval.selection import Pool, Selection, Skipped, select_classification, select_retrieval
from zeroshot_eval.suite import ClassificationTask, RetrievalTask, Suite
from zeroshot_eval.suite_files import load_suite

SCORES_FILE = "scores.json"
REPORT_FILE = "report.html"
CONFIG_FILE = "config.yaml"
SCORES_VERSION = 1

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score a checkpoint on a suite."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """checkpoint folder (a run's model/) or hf-hub:org/name"""
    suite: Annotated[str, tyro.conf.Positional]
    """name of a suite in zeroshot_eval/suites, or the path of a suite's .yaml file"""
    sets: tuple[str, ...]
    """shard sets whose samples are scored, as folders or URLs"""
    out: Path
    """folder for scores.json, report.html and config.yaml"""
    cache: Path | None = None
    """folder of the embedding cache; <out>/embeddings if not given. Evaluations may share one"""
    batch_size: int = 64
    """images or texts embedded at once"""
    bootstrap_samples: int = 1000
    """resamples of each 95 % interval"""
    seed: int = 0
    """seed of the bootstrap and of the gallery's choice"""
    device: str = "cpu"
    """where to embed: cpu, cuda, …"""
    jobs: JobsConfig = field(default_factory=lambda: JobsConfig(executor="inline"))
    """where images are embedded; inline: here"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", tuple(str(location) for location in self.sets))
        if not self.sets:
            raise ConfigError("sets: got none; give one or more folders that `python -m shards pack` wrote")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: got {self.batch_size}; allowed: 1 or more")
        BootstrapConfig(samples=self.bootstrap_samples, seed=self.seed)

    @property
    def cache_folder(self) -> Path:
        """The folder of the embedding cache."""
        return self.cache or self.out / "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the report shows of one evaluation."""

    config: EvalConfig
    suite: Suite
    checkpoint: Path
    digest: str
    sets: tuple[ShardSet, ...]
    classification: tuple[ClassificationResult, ...]
    retrieval: tuple[RetrievalResult, ...]
    skipped: tuple[Skipped, ...]
    rows: tuple[Score, ...]
    logit_scale: float
    repeated: int
    """samples that an earlier set holds already; scored once"""

    def images_scored(self) -> int:
        """Return the number of distinct images that any task asked."""
        selections = [*(task.selection for task in self.classification), *(task.selection for task in self.retrieval)]
        return len({item.key for selection in selections for item in selection.items})


def evaluate(config: EvalConfig) -> Evaluation:
    """Score a checkpoint on a suite over shard sets; writes nothing but the embedding cache.

    Raises:
        ClipmedError: a suite, checkpoint or set that is not sound, before anything is embedded.
    """
    suite = load_suite(config.suite)
    folder = checkpoint_folder(config.checkpoint)
    read_config(folder)
    digest = checkpoint_digest(folder)
    sets = tuple(ShardSet(location) for location in config.sets)
    pool = Pool([ShardCollection(location) for location in config.sets])
    classify, retrieve, skipped = _select(suite, pool)
    embedder = Embedder(
        checkpoint=folder,
        digest=digest,
        device=config.device,
        batch_size=config.batch_size,
        cache=config.cache_folder,
    )
    selections = [selection for _, selection in (*classify, *retrieve)]
    images = embed_sets(embedder, config.sets, _wanted(selections), config.jobs)
    texts = Texts(embed_unique_texts(embedder, _texts(classify, retrieve)), _logit_scale(folder))
    bootstrap = BootstrapConfig(samples=config.bootstrap_samples, seed=config.seed)
    with tqdm(total=len(selections), desc="scoring", unit="task", file=sys.stderr) as bar:
        scored = []
        for task, selection in classify:
            scored.append(score_classification(task, selection, _vectors(selection, images), texts, bootstrap))
            bar.update()
        ranked = []
        for query, selection in retrieve:
            ranked.append(score_retrieval(query, selection, _vectors(selection, images), texts, bootstrap))
            bar.update()
    context = Context(
        suite=suite.name,
        checkpoint_digest=digest,
        set_digests=tuple(shard_set.digest for shard_set in sets),
        level=bootstrap.level,
    )
    return Evaluation(
        config=config,
        suite=suite,
        checkpoint=folder,
        digest=digest,
        sets=sets,
        classification=tuple(scored),
        retrieval=tuple(ranked),
        skipped=tuple(skipped),
        rows=tuple(score_rows(context, scored, ranked)),
        logit_scale=texts.logit_scale,
        repeated=pool.duplicates.total(),
    )


def write_scores(evaluation: Evaluation) -> Path:
    """Write scores.json and config.yaml, atomically; return the path of the scores."""
    config = evaluation.config
    save_yaml(config, config.out / CONFIG_FILE)
    path = config.out / SCORES_FILE
    write_json(path, _scores(evaluation))
    return path


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "schema_version": SCORES_VERSION,
        "suite": evaluation.suite.name,
        "phantom": evaluation.suite.phantom,
        "checkpoint": {"location": evaluation.config.checkpoint, "digest": evaluation.digest},
        "sets": [{"location": shard_set.location, "digest": shard_set.digest} for shard_set in evaluation.sets],
        "interval": {
            "level": 0.95,
            "method": "percentile bootstrap over groups",
            "samples": evaluation.config.bootstrap_samples,
        },
        "rows": [asdict(row) for row in evaluation.rows],
        "confusion": {
            result.task.name: {"classes": list(result.task.classes), "counts": result.confusion.tolist()}
            for result in evaluation.classification
        },
        "excluded": {
            result.task.name: result.selection.excluded
            for result in evaluation.classification
            if result.selection.excluded
        },
        "repeated_samples": evaluation.repeated,
        "skipped": [asdict(skipped) for skipped in evaluation.skipped],
    }


def _select(
    suite: Suite, pool: Pool
) -> tuple[list[tuple[ClassificationTask, Selection]], list[tuple[RetrievalTask, Selection]], list[Skipped]]:
    classified = [(task, select_classification(task, pool)) for task in suite.tasks]
    retrieved = [(task, select_retrieval(task, pool)) for task in suite.retrieval]
    classify = [(task, found) for task, found in classified if isinstance(found, Selection)]
    retrieve = [(task, found) for task, found in retrieved if isinstance(found, Selection)]
    skipped = [found for _, found in (*classified, *retrieved) if isinstance(found, Skipped)]
    if not classify and not retrieve:
        reasons = "; ".join(f"{task.task}: {task.reason}" for task in skipped)
        raise DataError(
            f"suite {suite.name!r} has no task for these sets ({reasons}); the sets' label tasks: "
            f"{', '.join(sorted(pool.tasks())) or 'none'}; name another suite or other sets"
        )
    return classify, retrieve, skipped


def _wanted(selections: Sequence[Selection]) -> dict[int, list[int]]:
    rows: dict[int, set[int]] = {}
    for selection in selections:
        for item in selection.items:
            rows.setdefault(item.set_index, set()).add(item.row)
    return {index: sorted(found) for index, found in sorted(rows.items())}


def _texts(
    classify: Sequence[tuple[ClassificationTask, Selection]], retrieve: Sequence[tuple[RetrievalTask, Selection]]
) -> list[str]:
    prompts = [prompt for task, _ in classify for many in task.all_prompts().values() for prompt in many]
    return prompts + [item.captions[0] for _, selection in retrieve for item in selection.items]


def _vectors(selection: Selection, images: Mapping[int, ImageEmbeddings]) -> Singles:
    """Return the embeddings of a selection's samples in its order, shape (n, D)."""
    dimensions = next(iter(images.values())).embeddings.shape[1]
    vectors = np.empty((len(selection.items), dimensions), dtype=np.float32)
    for set_index in selection.set_indices:
        places = [place for place, item in enumerate(selection.items) if item.set_index == set_index]
        vectors[places] = images[set_index].of([selection.items[place].row for place in places])
    return vectors


def _logit_scale(folder: Path) -> float:
    """Return the learned temperature's scale, read from the weights alone: a warm cache needs no model."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS_FILE, framework="np") as weights:
        return float(np.exp(weights.get_tensor("logit_scale").item()))
