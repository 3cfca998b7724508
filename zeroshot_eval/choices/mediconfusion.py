"""MediConfusion: pairs of alike images, one question, two options (Sepehri et al. 2024, arXiv 2409.15477).

Published as dataset.json: {id: {im_1, im_2 (paths in ROCO), im_1_local, im_2_local (numbers of downloaded copies),
category_1, category_2 (lists), question, option_A, option_B, im_1_correct, im_2_correct, …}}. An item is a pair; it
gives two questions. Pairs share images (176 pairs have 228), so the group of a pair is all pairs that it is linked to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from zeroshot_eval.choices.tables import JsonObject, read_json

_FILES = ("dataset.json", "data/dataset.json")


def read(location: Path, images: Path | None = None) -> QuestionSet:
    """Read dataset.json, or a folder with it in it or in data/.

    Args:
        location: the file or the folder.
        images: the folder of ROCO, or of the downloaded copies; the folder of dataset.json and the images/ in it
            unless given.

    Raises:
        DataError: no such file, or no pair in it.
    """
    file = next((location / name for name in _FILES if (location / name).is_file()), location)
    if not file.is_file():
        raise DataError(f"{location}: no dataset.json; give the file, or the folder that it lies in")
    pairs = read_json(file)
    if not isinstance(pairs, JsonObject):
        raise DataError(f"{file}: got a JSON {type(pairs).__name__}; an object of pairs by id is needed")
    folder = ImageFolder(images or file.parent)
    check = ImageCheck(folder.read)
    groups = _linked(pairs)
    intake = Intake()
    for key, pair in pairs.items():
        intake.take(key, partial(_questions, key, pair, check, groups.get(key, key)))
    for key in pairs.repeated:
        intake.skip(key, SkipReason.DUPLICATE_ID, "a pair of the same id came before")
    return intake.finish("mediconfusion", file.parent.name, files_digest([file]), folder)


def _questions(key: str, pair: Any, check: ImageCheck, group: str) -> list[Question]:
    if not isinstance(pair, Mapping):
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"got a {type(pair).__name__}; an object is needed")
    options = checked_options([pair.get("option_A"), pair.get("option_B")])
    answers = [_answer(pair, f"im_{side}_correct") for side in (1, 2)]
    if answers[0] == answers[1]:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, "both images have the same answer")
    categories = tuple(sorted({*_categories(pair, 1), *_categories(pair, 2)}))
    return [
        Question(
            key=f"{key}/{side}",
            image=_image(pair, side, check),
            question=text_field(pair, "question"),
            options=options,
            answer=answer,
            set_id=key,
            category=", ".join(categories),
            group=group,
            facets={"category": categories} if categories else {},
            items=(key,),
        )
        for side, answer in enumerate(answers, start=1)
    ]


def _answer(pair: Mapping[str, Any], name: str) -> int:
    value = pair.get(name)
    if value not in {"A", "B"}:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"{name}: got {value!r}; allowed: A, B")
    return "AB".index(value)


def _categories(pair: Mapping[str, Any], side: int) -> list[str]:
    value = pair.get(f"category_{side}")
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _image(pair: Mapping[str, Any], side: int, check: ImageCheck) -> str:
    """Return the first reference that leads to an image: the downloaded copy, else the path in ROCO."""
    number = pair.get(f"im_{side}_local")
    refs = [f"images/{number}.jpg", f"{number}.jpg"] if isinstance(number, int) else []
    path = pair.get(f"im_{side}")
    refs += [path] if isinstance(path, str) else []
    if not refs:
        raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"im_{side}: got {path!r}")
    for ref in refs[:-1]:
        try:
            return check.require(ref)
        except ItemSkippedError as error:
            if error.reason != SkipReason.IMAGE_MISSING:
                raise
    return check.require(refs[-1])


def _linked(pairs: Mapping[str, Any]) -> dict[str, str]:
    """Return the first pair of those that each pair is linked to through images that they share."""
    first: dict[str, str] = {}  # an image or pair -> one that it is linked to, nearer to the first

    def root(name: str) -> str:
        while first.setdefault(name, name) != name:
            first[name] = first[first[name]]
            name = first[name]
        return name

    known = {key: pair for key, pair in pairs.items() if isinstance(pair, Mapping)}
    for key, pair in known.items():
        for image in _names(pair):
            first[root(image)] = root(key)
    leaders: dict[str, str] = {}
    return {key: leaders.setdefault(root(key), key) for key in known}


def _names(pair: Mapping[str, Any]) -> Sequence[str]:
    return [f"image {pair[name]}" for name in ("im_1", "im_2") if isinstance(pair.get(name), str)]
