"""Med-MAT: single-choice questions over many datasets (Cai et al. 2024, arXiv 2412.20070).

Published as JSON lists, one a dataset or subset: {id, caption (the label), image, Question, Answer, Question-choice,
Answer-choice, data-no}. The options stand in the text of Question-choice, after letters. An item is a row. A table
subsets.csv beside the files (columns no, modality, area, task) gives each data-no its triple.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
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
    checked_options,
    text_field,
)
from zeroshot_eval.choices.tables import TextTable, json_rows, table_files

SUBSETS = "subsets.csv"
TRIPLE = ("modality", "area", "task")
_LETTERS = string.ascii_uppercase[:10]
_ANSWER = re.compile(r"\(?([A-J])(?:[).:]|$)")
Triples = Mapping[str, dict[str, tuple[str, ...]]]


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read a JSON file, or those of a folder.

    Args:
        location: the file or the folder.
        images: the folder that the paths of images start from; that of the files unless given.

    Raises:
        DataError: no such file, or no usable row.
    """
    files = table_files(location, (".json",))
    root = location if location.is_dir() else location.parent
    triples = _triples(root / SUBSETS)
    folder = ImageFolder(images or root)
    check = ImageCheck(folder.read)
    intake = Intake()
    for file in files:
        for number, row in enumerate(json_rows(file)):
            name = row.get("id") if isinstance(row, Mapping) else None
            item = f"{file.stem}/{number if name is None else name}"
            intake.take(item, partial(_questions, item, row, check, triples))
    return intake.finish("medmat", location.stem, files_digest(files), folder)


def split_options(text: str) -> tuple[str, list[str]]:
    """Return the question and the options of a text such as "Which organ? A. Liver B. Lung".

    The first option is the last A before the first B, so that an A in the question is not taken for it.
    """
    second = _marker("B").search(text)
    starts = [] if second is None else [m for m in _marker("A").finditer(text) if m.end() <= second.start() + 1]
    if second is None or not starts:
        return text.strip(), []
    marks = [starts[-1], second]
    for letter in _LETTERS[2:]:
        mark = _marker(letter).search(text, marks[-1].end())
        if mark is None:
            break
        marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = [text[mark.end() : end].strip(" \t\r\n,;") for mark, end in zip(marks, ends, strict=True)]
    return text[: marks[0].start()].strip(), options


def _marker(letter: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|(?<=[\s,;(])){letter}[.):]\s*")


def _questions(item: str, row: Any, check: ImageCheck, triples: Triples) -> list[Question]:
    if not isinstance(row, Mapping):
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"got a {type(row).__name__}; an object is needed")
    question, found = split_options(text_field(row, "Question-choice"))
    options = checked_options(found)
    number = str(row.get("data-no", "")).strip()
    facets = triples.get(number.lstrip("0"), {})
    image = check.require(text_field(row, "image"))
    return [
        Question(
            key=item,
            image=image,
            question=question.rstrip("( \n"),
            options=options,
            answer=_answer(text_field(row, "Answer-choice"), options),
            set_id=item,
            category=number or "unknown",
            group=image,
            facets={"data-no": (number or "unknown",)} | facets,
            items=(item,),
        )
    ]


def _answer(text: str, options: tuple[str, ...]) -> int:
    folded = [option.casefold() for option in options]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    match = _ANSWER.match(text)
    rest = text[match.end() :].strip() if match else ""
    if match is None or match[1] not in _LETTERS[: len(options)]:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"Answer-choice: got {text!r}; allowed: one option")
    index = _LETTERS.index(match[1])
    if rest and rest.casefold() != folded[index]:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"Answer-choice: got {text!r}, but {options[index]!r}")
    return index


def _triples(path: Path) -> Triples:
    if not path.is_file():
        return {}
    table = TextTable(path)
    if missing := {"no", *TRIPLE} - set(table.columns):
        raise DataError(f"{path}: heading lacks {', '.join(sorted(missing))}; got {', '.join(table.columns)}")
    rows = [row.cells for row in table if row.cells is not None]
    return {row["no"].strip().lstrip("0"): {name: (row[name].strip(),) for name in TRIPLE} for row in rows}
