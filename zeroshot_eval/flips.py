"""Images that one of two checkpoints alone has right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from zeroshot_eval.pairing import Pair
from zeroshot_eval.predictions import Predictions
from zeroshot_eval.rescoring import Bools, answers, is_right


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An image that one checkpoint alone has right. Answers are class ids, or numbers of options, counted from 1."""

    task: str
    key: str
    source: str
    modality: str
    truth: str
    first: str
    second: str
    right: Literal["first", "second"]


def find_flips(both: Pair, limit: int) -> Iterator[Flip]:
    """Yield up to `limit` images that the first alone has right, then as many of the second, in the order of rows."""
    ours, theirs = is_right(both.first), is_right(both.second)
    if ours is None or theirs is None:
        return
    given = [_spoken(both.first, answers(one)) for one in (both.first, both.second)]
    truths = _spoken(both.first, both.first.targets)
    columns = [both.first.column(name) for name in ("key", "source", "modality")]
    sides: dict[Literal["first", "second"], Bools] = {"first": ours & ~theirs, "second": theirs & ~ours}
    for right, mask in sides.items():
        for row in np.flatnonzero(mask)[:limit].tolist():
            key, source, modality = (column[row] for column in columns)
            yield Flip(
                task=both.first.header.task,
                key=key,
                source=source,
                modality=modality,
                truth=truths[row],
                first=given[0][row],
                second=given[1][row],
                right=right,
            )


def _spoken(predictions: Predictions, chosen: npt.NDArray[np.integer]) -> list[str]:
    """Return class ids, or numbers of options; a tie between options is no answer."""
    classes = predictions.header.classes
    return [("none" if at < 0 else classes[at] if classes else str(at + 1)) for at in chosen.tolist()]
