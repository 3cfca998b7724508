"""micro-Bench: rows with an image and captions to choose from (Lozano et al. 2024, arXiv 2407.01791).

Published as Arrow (or Parquet) with the columns image_id, image {bytes, path}, dataset, domain, modality, submodality,
stain … and captions, whose members such as classification_0 are {options, answer_idx}. An item is one such member of a
row; a member without options is counted as skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zeroshot_eval.choices.digests import files_digest
from zeroshot_eval.choices.images import ImageCheck, TableImages
from zeroshot_eval.choices.questions import (
    Intake,
    ItemSkippedError,
    Question,
    QuestionSet,
    SkipReason,
    checked_index,
    checked_options,
    facet_fields,
    text_field,
)
from zeroshot_eval.choices.tables import ArrowTable, table_files

_FACETS = {"dataset": "subset", "domain": "domain", "subdomain": "subdomain", "modality": "modality"}
_COLUMNS = ("image_id", *_FACETS, "captions")


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read the Arrow or Parquet files of a folder, or one of them; images lie in the rows.

    Raises:
        DataError: no such files, files without the columns, or no question in them.
    """
    del images  # they lie in the table
    files = table_files(location, (".arrow", ".parquet"))
    table = ArrowTable(files)
    source = TableImages(partial(_image, table))
    check = ImageCheck(source.read)
    intake = Intake()
    for ref, row in table.rows(_COLUMNS):
        captions = row.get("captions")
        if not isinstance(captions, Mapping):
            intake.skip(f"row {ref}", SkipReason.ROW_INVALID, f"captions: got {type(captions).__name__}")
            continue
        for name, choice in captions.items():
            if name.startswith("classification"):
                item = f"{row.get('image_id')}/{name}"
                intake.take(item, partial(_questions, item, row, name, choice, partial(check.require, ref)))
    return intake.finish("microbench", location.name, files_digest(files), source)


def _questions(item: str, row: Mapping[str, Any], name: str, choice: Any, image: partial[str]) -> list[Question]:
    if not isinstance(choice, Mapping) or not choice.get("options"):
        raise ItemSkippedError(SkipReason.OPTIONS_INVALID, f"{name}: the row has none of these captions")
    options = checked_options(choice["options"])
    facets = facet_fields(row, _FACETS)
    return [
        Question(
            key=item,
            image=image(),
            options=options,
            answer=checked_index(choice.get("answer_idx"), len(options)),
            set_id=item,
            category=facets.get("subset", ("unnamed",))[0],
            group=text_field(row, "image_id"),
            facets={"captions": (name,)} | facets,
            items=(item,),
        )
    ]


def _image(table: ArrowTable, ref: str) -> bytes:
    value = table.value(ref, "image")
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes) or not data:
        raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"row {ref} holds no image bytes")
    return data
