"""What an evaluation asks, before anything is embedded: the samples of every task, the images, and the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from clipmed.errors import ConfigError, DataError
from zeroshot_eval.auto_suite import AUTO, own_suite
from zeroshot_eval.collections import Collection
from zeroshot_eval.embedding import Place
from zeroshot_eval.retrieval_scoring import asked_captions
from zeroshot_eval.selection import (
    Pool,
    Selection,
    Skipped,
    select_classification,
    select_labelled,
    select_retrieval,
)
from zeroshot_eval.suite import ChoiceTask, ClassificationTask, ProbeTask, RetrievalTask, Suite, Task
from zeroshot_eval.suite_files import load_suite

if TYPE_CHECKING:  # the readers of questions are imported where there are questions: they cost as much as a warm run
    from zeroshot_eval.choice_scoring import QuestionImages


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One task with its samples."""

    suite: Suite
    task: Task
    selection: Selection
    """the samples that are scored; none of a choice task, whose images are in `questions`"""
    train: Selection | None = None
    """the samples that a probe is fitted on"""
    val: Selection | None = None
    """the samples that a probe's regularisation is chosen on, where there are any"""
    questions: QuestionImages | None = None

    def selections(self) -> tuple[Selection, ...]:
        """Return all samples whose images the task needs."""
        return tuple(one for one in (self.selection, self.train, self.val) if one is not None)

    def question_images(self) -> list[tuple[tuple[Place, str], int]]:
        """Return where the images of questions lie with their digest, and how many there are; none of other tasks."""
        if self.questions is None or not isinstance(self.task, ChoiceTask):
            return []
        from zeroshot_eval.choice_scoring import question_place

        return [((question_place(self.task), self.questions.image_digest), len(self.questions.refs))]

    def texts(self) -> list[str]:
        """Return the texts that the task needs."""
        task = self.task
        if isinstance(task, ClassificationTask):
            many = (*task.all_prompts().values(), *task.negative_prompts.values())
            return [prompt for prompts in many for prompt in prompts]
        if isinstance(task, RetrievalTask):
            return asked_captions(task, self.selection)[0]
        if isinstance(task, ChoiceTask) and self.questions is not None:
            return self.questions.texts(task)
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The tasks of an evaluation that can be scored, and those that cannot."""

    suites: tuple[Suite, ...]
    asked: tuple[Asked, ...] = field(repr=False)
    skipped: tuple[Skipped, ...]
    repeated: int
    """samples that an earlier collection holds already; scored once"""

    def rows(self) -> dict[int, list[int]]:
        """Return the rows that any task needs, by collection."""
        found: dict[int, set[int]] = {}
        for one in self.asked:
            for selection in one.selections():
                for item in selection.items:
                    found.setdefault(item.set_index, set()).add(item.row)
        return {index: sorted(rows) for index, rows in sorted(found.items())}

    def texts(self) -> list[str]:
        """Return the distinct texts that any task needs, sorted."""
        return sorted({text for one in self.asked for text in one.texts()})


def make_plan(names: Sequence[str], collections: Sequence[Collection], only: Sequence[str] = ()) -> Plan:
    """Read the suites and select the samples of their tasks.

    Args:
        names: suites by name or path; `auto` asks what the data themselves say.
        collections: where the images lie.
        only: names or tags of the tasks to keep; all if empty.

    Raises:
        ConfigError: a suite that is not sound, or a class that the data do not know.
        DataError: no task is left to score.
    """
    suites = tuple(own_suite(collections) if name == AUTO else load_suite(name) for name in names)
    _refuse_shared_names(suites)
    pool = Pool(collections)
    chosen = [(suite, task) for suite in suites for task in suite.all_tasks() if _is_chosen(task, only)]
    if not chosen:
        known = sorted({word for suite in suites for task in suite.all_tasks() for word in (task.name, *task.tags)})
        raise ConfigError(f"tasks: none is called or tagged {', '.join(only)}; allowed: {', '.join(known)}")
    found = [_ask(suite, task, pool) for suite, task in chosen]
    asked = tuple(one for one in found if isinstance(one, Asked))
    skipped = tuple(one for one in found if isinstance(one, Skipped))
    if not asked:
        raise _nothing_left(suites, skipped, pool)
    return Plan(suites=suites, asked=asked, skipped=skipped, repeated=pool.duplicates.total())


def _ask(suite: Suite, task: Task, pool: Pool) -> Asked | Skipped:
    found: Asked | Selection | Skipped
    if isinstance(task, ProbeTask):
        found = _ask_probe(suite, task, pool)
    elif isinstance(task, ChoiceTask):
        found = _ask_questions(suite, task)
    elif isinstance(task, ClassificationTask):
        found = select_classification(task, pool)
    else:
        found = select_retrieval(task, pool)
    if isinstance(found, Selection):
        return Asked(suite=suite, task=task, selection=found)
    return replace(found, suite=suite.name) if isinstance(found, Skipped) else found


def _ask_probe(suite: Suite, task: ProbeTask, pool: Pool) -> Asked | Skipped:
    """Select all splits of a probe; without validation samples a share of the training groups will serve."""
    task = replace(task, classes=task.classes or tuple(pool.vocabulary(task.task) or ()))
    train, val, test = (select_labelled(task, split, pool) for split in (task.train, task.val, task.test))
    if isinstance(test, Skipped):
        return test
    if isinstance(train, Skipped):
        return train
    return Asked(suite=suite, task=task, selection=test, train=train, val=None if isinstance(val, Skipped) else val)


def _ask_questions(suite: Suite, task: ChoiceTask) -> Asked | Skipped:
    from zeroshot_eval.choice_scoring import question_place

    place = question_place(task)
    if not place.is_there():
        return Skipped(task.name, f"nothing is at {task.location}; fetch the {task.format} files to there")
    nothing = Selection((), np.empty(0, dtype=np.int64))
    return Asked(suite=suite, task=task, selection=nothing, questions=place.open())


def _is_chosen(task: Task, only: Sequence[str]) -> bool:
    return not only or bool(set(only) & {task.name, *task.tags})


def _refuse_shared_names(suites: Iterable[Suite]) -> None:
    """Refuse two tasks of one name: scores and predictions are kept by it."""
    names = Counter(task.name for suite in suites for task in suite.all_tasks())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"suites: two of them have a task {twice[0]!r}; score them into two folders")


def _nothing_left(suites: Sequence[Suite], skipped: Sequence[Skipped], pool: Pool) -> DataError:
    reasons = "; ".join(f"{one.task}: {one.reason}" for one in skipped)
    names = ", ".join(repr(suite.name) for suite in suites)
    return DataError(
        f"suite {names} has no task for these sets ({reasons}); the sets' label tasks: "
        f"{', '.join(sorted(pool.tasks())) or 'none'}; name another suite or other sets"
    )
