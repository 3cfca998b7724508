"""GMAI-MMBench: questions of up to five options about images in base64 (Chen et al. 2024, arXiv 2408.03361).

Published as TSV with the columns index, image (a PNG in base64, or the index of the row that holds it), question, A …
E, answer (VAL only), category, clinical vqa task, department, perceptual granularity, split. An item is a row. Answers
of TEST are private: its rows are counted as skipped.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clipmed.errors import DataError
from zeroshot_eval.choices.digests import files_digest
from zeroshot_eval.choices.images import ImageCheck, TableImages, decode_base64
from zeroshot_eval.choices.questions import (
    Intake,
    ItemSkippedError,
    Question,
    QuestionSet,
    SkipReason,
    checked_options,
    facet_fields,
    text_field,
)
from zeroshot_eval.choices.tables import TextRow, TextTable, table_files

LETTERS = string.ascii_uppercase[:10]
_FACETS = {
    "clinical vqa task": "clinical VQA task",
    "department": "department",
    "perceptual granularity": "perceptual granularity",
    "split": "split",
}
_LONGEST_INDEX = 64  # a shorter image cell is the index of the row that holds the image
_NOTHING = frozenset({"", "nan"})


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    length: int


class _Cells:
    """Where the images of a TSV file lie, by the index of their row."""

    def __init__(self, table: TextTable, column: str) -> None:
        self._table = table
        self._column = column
        self.places: dict[str, _Place] = {}

    def image(self, ref: str) -> bytes:
        place = self.places.get(ref)
        if place is None:
            raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"no row {ref!r} holds an image")
        return decode_base64(self._table.cell(place.offset, place.length, self._column).strip())


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read a TSV file, or the one in a folder; images lie in the rows.

    Raises:
        DataError: no such file, a heading without the columns, or no question with a public answer in it.
    """
    del images  # they lie in the table
    files = table_files(location, (".tsv",))
    if len(files) > 1:
        raise DataError(f"{location}: {len(files)} TSV files; give one of them: {', '.join(f.name for f in files)}")
    table = TextTable(files[0])
    names = {column if column in LETTERS else column.strip().lower(): column for column in table.columns}
    if missing := {"index", "image", "question", "A", "B"} - names.keys():
        raise DataError(f"{files[0]}: heading lacks {', '.join(sorted(missing))}; got {', '.join(table.columns)}")
    cells = _Cells(table, names["image"])
    source = TableImages(cells.image)
    check = ImageCheck(source.read)
    intake = Intake()
    waiting = [_kept(row, names, cells) for row in table]
    for item, row in waiting:
        intake.take(item, partial(_questions, item, row, check))
    return intake.finish("gmai", files[0].stem, files_digest(files), source)


def _kept(row: TextRow, names: Mapping[str, str], cells: _Cells) -> tuple[str, dict[str, str] | None]:
    """Return a row's name and its cells but the image's, of which the place is noted."""
    if row.cells is None:
        return f"row {row.number}", None
    values = {name: row.cells[column].strip() for name, column in names.items()}
    item = values["index"] or f"row {row.number}"
    if len(values["image"]) > _LONGEST_INDEX:
        cells.places.setdefault(item, _Place(row.offset, row.length))
        values["image"] = item
    return item, values


def _questions(item: str, row: Mapping[str, str] | None, check: ImageCheck) -> list[Question]:
    if row is None:
        raise ItemSkippedError(SkipReason.ROW_TOO_LARGE, f"{item} is above the size limit of a row")
    options = _options(row)
    answer = _answer(row.get("answer", ""), options)
    facets = facet_fields(row, _FACETS)
    return [
        Question(
            key=item,
            image=check.require(row["image"]),
            question=text_field(row, "question"),
            options=options,
            answer=answer,
            set_id=item,
            category=row.get("category", ""),
            group=row["image"],
            facets=facets,
            items=(item,),
        )
    ]


def _options(row: Mapping[str, str]) -> tuple[str, ...]:
    cells = [row.get(letter, "") for letter in LETTERS]
    given = [cell.lower() not in _NOTHING for cell in cells]
    count = sum(given)
    if not all(given[:count]):
        raise ItemSkippedError(SkipReason.OPTIONS_INVALID, f"options: got {cells!r}; a gap lies between them")
    return checked_options(cells[:count])


def _answer(cell: str, options: tuple[str, ...]) -> int:
    if cell.lower() in _NOTHING:
        raise ItemSkippedError(SkipReason.ANSWER_PRIVATE, "the row has no answer")
    if len(cell) == 1 and cell.upper() in LETTERS[: len(options)]:
        return LETTERS.index(cell.upper())
    if cell in options:
        return options.index(cell)
    raise ItemSkippedError(
        SkipReason.ANSWER_INVALID, f"answer: got {cell!r}; allowed: {', '.join(LETTERS[: len(options)])}"
    )
