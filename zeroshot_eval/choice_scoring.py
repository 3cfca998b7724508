"""Results of questions with options on cached embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.choices import (
    QuestionSet,
    image_bytes,
    image_refs,
    load_questions,
    score_questions,
    text_style,
    texts,
)
from zeroshot_eval.choices.questions import Question, Statement
from zeroshot_eval.predictions import choice_columns
from zeroshot_eval.scoring import TaskResult, Texts, measure
from zeroshot_eval.selection import Item, Selection
from zeroshot_eval.suite import ChoiceTask

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuestionImages:
    """The images of a question set by row; rows follow the sorted references."""

    question_set: QuestionSet = field(repr=False)

    @cached_property
    def refs(self) -> list[str]:
        """The reference of each row."""
        return image_refs(self.question_set)

    def texts(self, task: ChoiceTask) -> list[str]:
        """Return the texts to embed."""
        return texts(self.question_set, text_style(task.prompt))

    @cached_property
    def image_digest(self) -> str:
        """The digest of the images' bytes, in the order of the rows."""
        digest = hashlib.sha256()
        for ref in self.refs:
            digest.update(f"{ref}\0".encode())
            digest.update(hashlib.sha256(image_bytes(self.question_set, ref)).digest())
        return digest.hexdigest()

    def image_bytes(self, row: int) -> bytes:
        """Return an image's encoded bytes."""
        return image_bytes(self.question_set, self.refs[row])

    def key(self, row: int) -> str:
        """Return an image's reference."""
        return f"{self.question_set.name}/{self.refs[row]}"


@dataclass(frozen=True, slots=True)
class QuestionPlace:
    """Where a question set lies, as plain data."""

    form: str
    location: str
    images: str

    def is_there(self) -> bool:
        """Return whether anything lies at the location."""
        return Path(self.location).exists()

    def open(self) -> QuestionImages:
        """Read the questions."""
        return QuestionImages(
            load_questions(self.form, Path(self.location), Path(self.images) if self.images else None)  # type: ignore[arg-type]
        )


def question_place(task: ChoiceTask) -> QuestionPlace:
    """Return where the questions of a task lie."""
    return QuestionPlace(task.format, task.location, task.images)


def score_choice(
    suite: str,
    task: ChoiceTask,
    images: QuestionImages,
    embedded: tuple[Singles, Texts],
    config: BootstrapConfig | None,
    *,
    seed: int = 0,
) -> TaskResult:
    """Score a question set.

    Args:
        suite: name of the task's suite.
        task: what is asked.
        images: the questions and their images.
        embedded: the embeddings of the images by row (n, D), and the checkpoint's texts.
        config: how intervals are drawn; None draws none.
        seed: of the halves that thresholds of statements are fitted on.
    """
    rows, words = embedded
    by_ref: Mapping[str, Singles] = dict(zip(images.refs, rows, strict=True))
    question_set = images.question_set
    scored = score_questions(question_set, by_ref, words.embeddings, text_style(task.prompt), seed=seed)
    measures, undefined = measure(scored.statistic, scored.groups, config, scored.chance, scored.counts)
    items = tuple(_item(task, images, unit) for unit in question_set.units)
    questions = question_set.questions
    columns = choice_columns(
        [unit.answer for unit in questions],
        [row.scores.tolist() for row in scored.rows],
        [unit.set_id for unit in questions],
        [unit.category for unit in questions],
    )
    return TaskResult(
        suite=suite,
        task=task,
        kind="choice",
        selection=Selection(items, np.empty(0, dtype=np.int64), dict(question_set.skip_counts)),
        rows=items[: len(questions)],
        measures=measures,
        columns=columns if questions else {},
        undefined=undefined,
        data_digest=question_set.digest,
        details={"questions": len(questions), "statements": len(question_set.statements)},
    )


def _item(task: ChoiceTask, images: QuestionImages, unit: Question | Statement) -> Item:
    facets = {name: "|".join(values) for name, values in unit.facets.items()} if isinstance(unit, Question) else {}
    source = task.dataset or task.name
    return Item(
        set_index=-1,
        row=-1,
        key=unit.key,
        source=source,
        modality=task.modality,
        group=f"{source}/{unit.group}",
        labels={},
        captions=(),
        sha256="",
        facts={**facets, "image": unit.image, "category": unit.category},
    )
