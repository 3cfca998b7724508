"""Builds the page of each task out of the results and embeddings of every checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from tqdm import tqdm

from zeroshot_eval.calibration import Answers, calibration
from zeroshot_eval.charts import PromptSpread, prompt_strip, reliability
from zeroshot_eval.evaluation import CheckpointRun, Evaluation
from zeroshot_eval.examples import Group, choose_examples
from zeroshot_eval.figures import key, line_chart
from zeroshot_eval.findings import Findings, answers_of
from zeroshot_eval.grid import number
from zeroshot_eval.leakage_page import leak_sentences
from zeroshot_eval.naming import metric_name, modality_name, spaced
from zeroshot_eval.page import main_metrics
from zeroshot_eval.pictures import Pictures
from zeroshot_eval.prompt_sensitivity import PromptSensitivity
from zeroshot_eval.prompt_spread import spread_metric
from zeroshot_eval.retrieval_examples import Gallery, Query, choose_queries
from zeroshot_eval.retrieval_scoring import asked_captions
from zeroshot_eval.scores import dataset_name
from zeroshot_eval.scoring import TaskResult
from zeroshot_eval.subgroup_plots import subgroup_plot
from zeroshot_eval.suite import ClassificationTask, RetrievalTask
from zeroshot_eval.summary import ScoreIndex
from zeroshot_eval.task_pages import (
    Panel,
    TaskPage,
    caveats,
    confusions,
    fit_words,
    lead,
    more_metrics,
    shots_chart,
    task_metrics,
    tie_words,
)

Singles = npt.NDArray[np.float32]
DIRECTIONS = {"image_to_text": "Captions found by image", "text_to_image": "Images found by caption"}
SUBGROUP_SAMPLES = 500


class PageBuilder:
    """Makes the pages of an evaluation's tasks."""

    def __init__(self, evaluation: Evaluation, index: ScoreIndex, findings: Findings, pictures: Pictures) -> None:
        self.evaluation, self.index, self.findings, self.pictures = evaluation, index, findings, pictures
        self._answers = [answers_of(evaluation, run) for run in evaluation.runs]

    def pages(self) -> list[TaskPage]:
        """Return the page of every scored task, in the order of the suites."""
        names = list(main_metrics(self.evaluation))
        return [self._page(name) for name in tqdm(names, "report", unit="task", file=sys.stderr, delay=2)]

    def _page(self, name: str) -> TaskPage:
        runs = [run for run in self.evaluation.runs if any(result.task.name == name for result in run.results)]
        results = [run.result(name) for run in runs]
        first, task = results[0], results[0].task
        page = TaskPage(
            name=name,
            kind=first.kind,
            title=spaced(name),
            modality=modality_name(first.modality),
            dataset=dataset_name(first).replace("+", " + "),
            note=getattr(task, "note", ""),
            lead=" ".join(filter(None, [lead(first), fit_words(results), tie_words(results)])),
            marks=tuple(self.findings.chips.get(name, ())),
            warnings=(*leak_sentences(self.evaluation, name), *caveats(results)),
            metrics=task_metrics(self.index, name, task.main, self.findings.best.get(name)),
            held_out=first.held_out,
            more=tuple(more_metrics(self.index, name)),
        )
        return page if len(runs) < len(self.evaluation.runs) else self._detailed(page, results)

    def _detailed(self, page: TaskPage, results: Sequence[TaskResult]) -> TaskPage:
        """Add what is worked out of all checkpoints together."""
        first, task = results[0], results[0].task
        page = replace(self._by_subgroup(page, first), confusions=tuple(confusions(self.index, results)))
        if isinstance(task, RetrievalTask):
            return replace(page, queries=self._queries(page.name))
        if first.kind == "probe":
            note = "Few training images a class: mean over draws, 95 % interval over groups."
            return replace(page, sizes=shots_chart(self.index, page.name), sizes_note=note)
        if not isinstance(task, ClassificationTask):
            return page
        page = replace(page, groups=tuple(self._examples(page.name)), prompts=task.all_prompts())
        if first.kind != "classification":
            return page
        spreads = {run.facts.name: run.prompt_spreads.get(page.name) for run in self.evaluation.runs}
        metric = spread_metric(task)
        return replace(
            page,
            reliability=tuple(self._reliability(run, page.name) for run in self.evaluation.runs),
            prompts_plot=_strip(spreads, first),
            prompts_note=_strip_note(spreads, metric),
            sizes=_sizes(spreads, metric),
            sizes_note="Fewer prompts a class, drawn at random: median and quartiles.",
        )

    def _by_subgroup(self, page: TaskPage, result: TaskResult) -> TaskPage:
        config = self.evaluation.config.intervals()
        if config is None or not result.columns:
            return page
        main = result.measures.get(result.task.main)
        drawn = replace(config, samples=min(config.samples, SUBGROUP_SAMPLES))
        plot, notes = subgroup_plot(
            [stored[page.name] for stored in self._answers], drawn, main.chance if main is not None else None
        )
        return replace(page, subgroups=plot, subgroups_notes=tuple(notes))

    def _examples(self, name: str) -> list[Group]:
        answers = [stored[name] for stored in self._answers]
        return choose_examples(answers, self.index.checkpoints, self.pictures, self.evaluation.config.seed)

    def _reliability(self, run: CheckpointRun, name: str) -> Panel:
        result = run.result(name)
        assert result.scores is not None
        targets = result.selection.targets.astype(np.int64)
        found = calibration(Answers(targets, result.scores, result.selection.groups), run.texts.logit_scale)
        place = self.evaluation.runs.index(run)
        note = f"ECE {number(found.ece)}, Brier {number(found.brier)}"
        label = f"{run.facts.name}, {spaced(name)}: share of right answers over confidence; {note}"
        return Panel(key=key(place), name=run.facts.name, note=note, body=reliability(found.bins, label, place))

    def _queries(self, name: str) -> tuple[tuple[str, tuple[Query, ...]], ...]:
        runs, result = self.evaluation.runs, self.evaluation.runs[0].result(name)
        task, items = result.task, result.selection.items
        assert isinstance(task, RetrievalTask)
        shown = [self.pictures.may_show(item.source) for item in items]
        if not any(shown):
            return ()
        captions, owner = asked_captions(task, result.selection)
        texts, place_of_caption = np.unique(captions, return_inverse=True)
        gallery = Gallery(
            keys=[item.key for item in items],
            sources=[item.source for item in items],
            texts=texts.tolist(),
            images=owner,
            captions=place_of_caption.astype(np.int64),
            parts=[item.modality for item in items] if task.gallery == "modality" else (),
            shown=shown,
        )
        images = [run.vectors(result.selection) for run in runs]
        vectors = [run.texts.rows(gallery.texts) for run in runs]
        found = choose_queries(gallery, images, vectors, self.pictures, self.evaluation.config.seed)
        return tuple(
            (heading, tuple(query for query in found if query.direction == direction))
            for direction, heading in DIRECTIONS.items()
        )


def _strip(spreads: Mapping[str, PromptSensitivity | None], result: TaskResult) -> Markup:
    task = result.task
    known = {name: found for name, found in spreads.items() if found is not None}
    if not known or not isinstance(task, ClassificationTask):
        return Markup("")
    rows = {
        name: PromptSpread(
            singles=tuple((task.templates[at], value) for at, value in found.templates.items()),
            ensemble=found.ensemble,
            median=found.samples.median,
            low=found.samples.quartiles[0],
            high=found.samples.quartiles[1],
        )
        for name, found in known.items()
    }
    return prompt_strip(rows, result.measures[spread_metric(task)].chance)


def _strip_note(spreads: Mapping[str, PromptSensitivity | None], metric: str) -> str:
    count = max((len(found.samples.values) for found in spreads.values() if found is not None), default=0)
    return (
        f"Scores by {metric_name(metric)}. The mark is the ensemble of all prompts, small dots are single templates, "
        f"the box spans the quartiles of {count} sets of one random prompt a class, the stroke in it their median."
    )


def _sizes(spreads: Mapping[str, PromptSensitivity | None], metric: str) -> Markup:
    """Return the curves over the number of prompts, where there are three sizes or more."""
    known = {name: found.curve for name, found in spreads.items() if found is not None and len(found.curve) > 2}
    if len(known) < len(spreads) or not known:
        return Markup("")
    lines = {name: [(float(size), spread.median) for size, spread in curve.items()] for name, curve in known.items()}
    bands = {
        name: [(float(size), *spread.quartiles) for size, spread in curve.items()] for name, curve in known.items()
    }
    label = f"{metric_name(metric)} over the number of prompts a class, median and quartiles over random choices"
    return line_chart(lines, "prompts a class", label, bands)


def used_splits(results: Sequence[TaskResult]) -> list[str]:
    """Return the splits whose images the results show."""
    return sorted(
        {result.task.split for result in results if isinstance(result.task, ClassificationTask | RetrievalTask)}
    )
