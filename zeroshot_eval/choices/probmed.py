"""ProbMed: each true statement about an image with a false twin (Yan et al. 2024, arXiv 2405.20421).

Published as a JSON list: {id, image, image_type, qa_type, question, answer} (files of responses call the answer
gt_ans). qa_type is modality_gt or modality_hallu, body_part_gt or body_part_hallu, entity_gt_N or entity_hallu_N,
grounding_gt_N or grounding_hallu_N; abnormality and entity_hallu without a number stand alone. An item is a row. It
gives a statement to judge; a pair gives one question too, of which the true statement is the right option. A row that
should have a twin and has none is skipped: a statement counts only with its counterpart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipmed.errors import DataError
from zeroshot_eval.choices.digests import files_digest
from zeroshot_eval.choices.images import ImageCheck, ImageFolder
from zeroshot_eval.choices.questions import (
    Intake,
    ItemSkippedError,
    Question,
    QuestionSet,
    SkipReason,
    Statement,
    text_field,
)
from zeroshot_eval.choices.statements import statement
from zeroshot_eval.choices.tables import json_rows

_FILES = ("test.json", "probmed.json")
_TYPE = re.compile(r"(?P<family>modality|body_part|entity|grounding)_(?P<side>gt|hallu)(?:_(?P<number>\w+))?")
_ALONE = {"abnormality", "entity_hallu"}
_ANSWERS = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class _Row:
    item: str
    image_id: str
    image: str
    image_type: str
    qa_type: str
    family: str
    text: str
    true: bool

    @property
    def pair(self) -> str:
        """What a true statement and its false twin share."""
        return f"{self.image_id}/{self.qa_type.replace('_hallu', '').replace('_gt', '')}"


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read the JSON file, or a folder with it in it.

    Args:
        location: test.json or probmed.json, or their folder.
        images: the folder that the paths of images start from; that of the file unless given.

    Raises:
        DataError: no such file, or no usable row in it.
    """
    file = next((location / name for name in _FILES if (location / name).is_file()), location)
    if not file.is_file():
        raise DataError(f"{location}: neither {' nor '.join(_FILES)}; give the file, or the folder that it lies in")
    folder = ImageFolder(images or file.parent)
    check = ImageCheck(folder.read)
    rows = json_rows(file)
    usable = _usable(rows, check)
    pairs = defaultdict(list)
    for row in usable.values():
        if isinstance(row, _Row) and row.qa_type not in _ALONE:
            pairs[row.pair].append(row)
    intake = Intake()
    for number in range(len(rows)):
        found = usable[number]
        name = _name(rows[number], number)
        intake.take(name, partial(_units, found, pairs))
    return intake.finish("probmed", file.stem, files_digest([file]), folder)


def _usable(rows: list[Any], check: ImageCheck) -> dict[int, _Row | ItemSkippedError]:
    """Return each row, or why it cannot be used; of rows that ask the same, the first."""
    found: dict[int, _Row | ItemSkippedError] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows):
        name = _name(row, number)
        if name in seen:
            found[number] = ItemSkippedError(SkipReason.DUPLICATE_ID, f"{name} came before")
            continue
        seen.add(name)
        try:
            found[number] = _row(row, name, check)
        except ItemSkippedError as error:
            found[number] = error
    return found


def _name(row: Any, number: int) -> str:
    named = isinstance(row, Mapping) and isinstance(row.get("id"), str | int) and isinstance(row.get("qa_type"), str)
    return f"{row['id']}/{row['qa_type']}" if named else f"row {number}"


def _row(row: Any, name: str, check: ImageCheck) -> _Row:
    if not isinstance(row, Mapping):
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"got a {type(row).__name__}; an object is needed")
    qa_type = text_field(row, "qa_type")
    match = _TYPE.fullmatch(qa_type)
    if match is None and qa_type not in _ALONE:
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"qa_type: got {qa_type!r}")
    answer = row.get("answer", row.get("gt_ans"))
    true = _ANSWERS.get(answer.strip().lower().rstrip(".")) if isinstance(answer, str) else None
    if true is None:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"answer: got {answer!r}; allowed: yes, no")
    if match is not None and true != (match["side"] == "gt"):
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"{qa_type} is answered with {answer!r}")
    image_type = row.get("image_type")
    return _Row(
        item=name,
        image_id=str(row.get("id")),
        image=check.require(text_field(row, "image")),
        image_type=image_type if isinstance(image_type, str) else "unknown",
        qa_type=qa_type,
        family=match["family"] if match else qa_type,
        text=statement(text_field(row, "question")),
        true=true,
    )


def _units(row: _Row | ItemSkippedError, pairs: Mapping[str, list[_Row]]) -> list[Question | Statement]:
    if isinstance(row, ItemSkippedError):
        raise row
    if row.qa_type in _ALONE:
        return [_statement(row)]
    pair = pairs[row.pair]
    if len(pair) != 2:
        raise ItemSkippedError(SkipReason.TWIN_MISSING, f"{row.qa_type} has no usable counterpart")
    if not row.true:
        return [_statement(row)]
    twin = next(other for other in pair if not other.true)
    if twin.image != row.image:
        raise ItemSkippedError(SkipReason.ROW_INVALID, "the twin is about another image")
    return [_statement(row), _question(row, twin)]


def _statement(row: _Row) -> Statement:
    family = "entity" if row.qa_type == "entity_hallu" else row.family
    return Statement(
        key=row.item,
        image=row.image,
        text=row.text,
        true=row.true,
        pair=row.pair,
        probe=f"{row.image_id}/{family}",
        category=family,
        group=row.image_id,
        items=(row.item,),
    )


def _question(row: _Row, twin: _Row) -> Question:
    return Question(
        key=row.pair,
        image=row.image,
        options=(row.text, twin.text),
        answer=0,
        set_id=row.pair,
        category=row.family,
        group=row.image_id,
        facets={"probe": (row.family,), "image type": (row.image_type,)},
        items=(row.item, twin.item),
    )
