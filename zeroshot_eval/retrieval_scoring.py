"""Results of retrieval tasks on cached embeddings, both ways and by both rules of what is correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.predictions import numbers
from zeroshot_eval.retrieval import (
    Direction,
    Pairs,
    Ranks,
    rank_pairs,
    rank_pairs_within,
    retrieval_chance,
    retrieval_statistic,
    tie_bounds,
)
from zeroshot_eval.scoring import Measure, TaskResult, Texts, measure
from zeroshot_eval.selection import Item, Selection
from zeroshot_eval.suite import RetrievalTask

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def score_retrieval(
    suite: str,
    task: RetrievalTask,
    selection: Selection,
    embedded: tuple[Singles, Texts],
    config: BootstrapConfig | None,
) -> TaskResult:
    """Score one retrieval task both ways; arguments are those of `score_classification`.

    Where captions repeat, figures of the other rule of what is correct stand beside the task's own, as
    `image_to_text/own_recall@5` or `image_to_text/same_text_recall@5`.
    """
    images, texts = embedded
    captions, owner = asked_captions(task, selection)
    names, text_of_caption = np.unique(captions, return_inverse=True)
    pairs = Pairs(images, texts.rows(captions), owner, text_of_caption.astype(np.int64))
    rows_by_direction: dict[Direction, list[Item]] = {
        "image_to_text": list(selection.items),
        "text_to_image": [selection.items[at] for at in owner],
    }
    own_rule, other_rule = ("same_text", "own") if task.positives == "same_text" else ("own", "same_text")
    rules = {own_rule: ""} | ({other_rule: f"{other_rule}_"} if len(names) < len(captions) else {})
    ranks = {rule: _ranks(task, selection, pairs, same_text=rule == "same_text") for rule in rules}
    measures: dict[str, Measure] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for rule, prefix in rules.items():
        for direction, found in ranks[rule].items():
            groups = [item.group for item in rows_by_direction[direction]]
            part, _ = measure(retrieval_statistic(found), groups, config, retrieval_chance(found))
            named = {name: f"{direction}/{prefix}{name}" for name in part}
            size = len(groups)
            measures |= {
                named[name]: Measure(one.value, one.chance, one.replicates, size) for name, one in part.items()
            }
            bounds |= {named[name]: ends for name, ends in tie_bounds(found).items() if ends[0] < ends[1]}
    return TaskResult(
        suite=suite,
        task=task,
        kind="retrieval",
        selection=selection,
        rows=tuple(item for rows in rows_by_direction.values() for item in rows),
        measures=measures,
        columns=_retrieval_columns(ranks[own_rule], owner),
        details=_retrieval_details(selection, captions, owner, text_of_caption)
        | {"unreported": ranks[own_rule]["image_to_text"].unreported(), "ties": bounds},
    )


def asked_captions(task: RetrievalTask, selection: Selection) -> tuple[list[str], Ints]:
    """Return the captions that are asked and searched, and the sample (its place in the selection) of each."""
    pairs = [
        (caption, place)
        for place, item in enumerate(selection.items)
        for caption in (item.captions if task.captions == "all" else item.captions[:1])
    ]
    return [caption for caption, _ in pairs], np.asarray([place for _, place in pairs], dtype=np.int64)


def _ranks(task: RetrievalTask, selection: Selection, pairs: Pairs, *, same_text: bool) -> dict[Direction, Ranks]:
    if task.gallery == "modality":
        return rank_pairs_within(pairs, [item.modality for item in selection.items], same_text=same_text)
    return rank_pairs(pairs, same_text=same_text)


def _retrieval_columns(ranks: Mapping[Direction, Ranks], owner: Ints) -> dict[str, pa.Array]:
    both = list(ranks.items())
    first_of_image = np.searchsorted(owner, owner)  # captions of an image lie one after the other
    caption = np.concatenate([np.full(len(both[0][1].best), -1), np.arange(len(owner)) - first_of_image])
    return {
        "direction": pa.array([direction for direction, found in both for _ in found.best]),
        "caption": numbers(caption, np.int32),
        "rank_best": numbers(np.concatenate([found.best for _, found in both]), np.int32),
        "rank_worst": numbers(np.concatenate([found.worst for _, found in both]), np.int32),
        "num_correct": numbers(np.concatenate([found.num_correct for _, found in both]), np.int32),
        "gallery": numbers(np.concatenate([found.gallery for _, found in both]), np.int32),
    }


def _retrieval_details(
    selection: Selection, captions: Sequence[str], owner: Ints, text_of_caption: npt.NDArray[np.integer]
) -> dict[str, Any]:
    """Count captions, distinct texts, and the images of which a caption is another image's too."""
    links = np.unique(np.stack([text_of_caption, owner]), axis=1)
    images_of_text = np.bincount(links[0])
    shared = np.unique(links[1][images_of_text[links[0]] > 1])
    return {
        "images": len(selection.items),
        "captions": len(captions),
        "distinct": len(images_of_text),
        "shared": len(shared),
    }
