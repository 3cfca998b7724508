"""Negation: a true caption against the same one negated, in the forms of three published sets.

NegBench (Alhamoud et al. 2025, arXiv 2501.09425), CSV: image_path (or filepath), caption_0 … caption_3,
correct_answer, correct_answer_template. CXR-Align (Ko and Park, CVPR 2025), JSON: {source: {image id:
{report, negation, omitted, chosen}}}, images as <id>.jpg or .png. Triples, CSV, TSV or a JSON list: image, positive,
negated, and omitted if there is one. An item is a row.

The area under the ROC curve of affirmed and negated prompts, and the gap between them, is for labelled tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from zeroshot_eval.choices.digests import files_digest
from zeroshot_eval.choices.images import ImageCheck, ImageFolder
from zeroshot_eval.choices.questions import (
    Intake,
    ItemSkippedError,
    Question,
    QuestionSet,
    SkipReason,
    checked_index,
    checked_options,
    text_field,
)
from zeroshot_eval.choices.tables import JsonObject, TextTable, read_json
from zeroshot_eval.ranking import mean_defined, rank, rank_areas

Floats = npt.NDArray[np.float64]
_CONTRASTS = {"negated": "negated", "negation": "negated", "omitted": "omitted"}
_ENDINGS = (".jpg", ".png", ".jpeg")


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read a file of one of the three forms.

    Args:
        location: the CSV, TSV or JSON file.
        images: the folder that the paths of images start from, or where images are named by their ids; that of the
            file unless given.

    Raises:
        DataError: the file has none of the forms, or no usable row.
    """
    if location.suffix.lower() not in {".csv", ".tsv", ".json"} or not location.is_file():
        raise DataError(f"{location}: a file ending in .csv, .tsv or .json is needed")
    folder = ImageFolder(images or location.parent)
    check = ImageCheck(folder.read)
    intake = Intake()
    for item, row in _rows(location):
        intake.take(item, partial(_questions, item, row, check))
    return intake.finish("negation", location.stem, files_digest([location]), folder)


def negation_gap(
    targets: npt.NDArray[np.integer], affirmed: Floats, negated: Floats, weights: Floats
) -> dict[str, Floats]:
    """Return how well affirmed and negated prompts tell images with a finding from those without, each of shape (B,).

    `auroc_affirmed` ranks images by the cosine with "{finding}"; `auroc_negated` by the cosine with "no {finding}",
    lowest first, since it should be low where the finding is. `negation_gap` is the first less the second: zero where
    negation is understood as well as affirmation, one half where it is ignored. `auroc_contrast` ranks by the
    difference of the two cosines, as a softmax over the two prompts does. Macro means over the findings that the
    weights leave with both kinds of images.

    Args:
        targets: shape (n, C): 1 present, 0 absent, -1 unknown.
        affirmed: cosines with the affirmed prompts, shape (n, C).
        negated: cosines with the negated prompts, shape (n, C).
        weights: shape (B, n).
    """
    scores = {"affirmed": affirmed, "negated": -negated, "contrast": affirmed - negated}
    present, known = targets == 1, targets >= 0
    found = {}
    for name, values in scores.items():
        rankings = [rank(present[:, c], values[:, c], known[:, c]) for c in range(targets.shape[1])]
        found[f"auroc_{name}"] = mean_defined(rank_areas(rankings, weights)[0])
    return found | {"negation_gap": found["auroc_affirmed"] - found["auroc_negated"]}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() != ".json":
        for row in TextTable(path):
            yield f"row {row.number}", row.cells
        return
    content = read_json(path)
    if isinstance(content, list):
        yield from ((f"row {number}", row) for number, row in enumerate(content))
    elif isinstance(content, JsonObject) and all(isinstance(part, JsonObject) for part in content.values()):
        for source, cases in content.items():
            names = [*cases, *cases.repeated]
            yield from ((f"{source}/{name}", _case(name, cases[name], source)) for name in names)
    else:
        raise DataError(f"{path}: a list of rows, or an object of sources and their images by id, is needed")


def _case(image_id: str, case: Any, source: str) -> Any:
    """A case of CXR-Align as a row of a triple; its image is named by its id."""
    if not isinstance(case, Mapping):
        return case
    return {**case, "positive": case.get("report"), "image_id": image_id, "category": case.get("chosen"), "set": source}


def _questions(item: str, row: Any, check: ImageCheck) -> list[Question]:
    if not isinstance(row, Mapping):
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"got a {type(row).__name__}; an object of fields is needed")
    image = _image(row, check)
    if "caption_0" in row:
        return [_captions(item, row, image)]
    positive = text_field(row, "positive")
    contrasts = {
        contrast: row[name].strip()
        for name, contrast in _CONTRASTS.items()
        if isinstance(row.get(name), str) and row[name].strip()
    }
    if "negated" not in contrasts:
        raise ItemSkippedError(SkipReason.ROW_INVALID, "neither negated nor negation holds a text")
    category = row.get("category")
    return [
        Question(
            key=f"{item}/{contrast}",
            image=image,
            options=checked_options([positive, text]),
            answer=0,
            set_id=f"{item}/{contrast}",
            category=category if isinstance(category, str) else contrast,
            group=image,
            facets={"contrast": (contrast,)},
            items=(item,),
        )
        for contrast, text in contrasts.items()
    ]


def _captions(item: str, row: Mapping[str, Any], image: str) -> Question:
    names = [f"caption_{number}" for number in range(10) if row.get(f"caption_{number}") not in {None, ""}]
    options = checked_options([row[name] for name in names])
    answer = row.get("correct_answer")
    if isinstance(answer, str) and answer.strip().removesuffix(".0").isdecimal():
        answer = int(answer.strip().removesuffix(".0"))
    template = row.get("correct_answer_template")
    category = template if isinstance(template, str) and template else "unknown"
    return Question(
        key=item,
        image=image,
        options=options,
        answer=checked_index(answer, len(options)),
        set_id=item,
        category=category,
        group=image,
        facets={"template": (category,)},
        items=(item,),
    )


def _image(row: Mapping[str, Any], check: ImageCheck) -> str:
    path = next((row[name] for name in ("image", "image_path", "filepath") if row.get(name)), None)
    if isinstance(path, str):
        return check.require(path)
    image_id = row.get("image_id")
    if not isinstance(image_id, str):
        raise ItemSkippedError(SkipReason.IMAGE_MISSING, "none of image, image_path and filepath names an image")
    refs = [f"{folder}{image_id}{ending}" for folder in ("", "images/") for ending in _ENDINGS]
    for ref in refs:
        try:
            return check.require(ref)
        except ItemSkippedError as error:
            if error.reason != SkipReason.IMAGE_MISSING:
                raise
    raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"no image of the id {image_id!r}, such as {refs[0]!r}")
