"""A few right and a few wrong images of each task, drawn at random by the seed, with the classes' probabilities."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.reader import ShardSet
from zeroshot_eval.classification import softmax
from zeroshot_eval.scoring import ClassificationResult

EXAMPLES = 3  # right ones, and as many wrong ones, of each task
THUMBNAIL_SIDE = 160
SHOWN_CLASSES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One image of the gallery. `thumbnail` is a data URI; `probabilities` are the highest and the true class's."""

    key: str
    thumbnail: str
    target: str
    predicted: str
    probabilities: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool:
        """Whether the prediction is the true class."""
        return self.target == self.predicted


def choose_examples(
    result: ClassificationResult, sets: Sequence[ShardSet], logit_scale: float, seed: int
) -> list[Example]:
    """Return up to `EXAMPLES` right images and as many wrong ones, right ones first."""
    right = result.predicted == result.selection.targets
    rng = np.random.default_rng(seed)
    chosen = [
        int(place)
        for is_right in (True, False)
        for place in sorted(rng.permutation(np.flatnonzero(right == is_right))[:EXAMPLES])
    ]
    return [_example(result, sets, logit_scale, place) for place in chosen]


def thumbnail(image_bytes: bytes) -> str:
    """Return a small JPEG of an image as a data URI."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _example(result: ClassificationResult, sets: Sequence[ShardSet], logit_scale: float, place: int) -> Example:
    item = result.selection.items[place]
    names = list(result.task.classes)
    probabilities = softmax(result.cosines[place] * logit_scale)
    target = int(result.selection.targets[place])
    highest = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES].tolist()
    shown = highest if target in highest else [*highest[:-1], target]
    return Example(
        key=item.key,
        thumbnail=thumbnail(sets[item.set_index].image_bytes(item.row)),
        target=names[target],
        predicted=names[int(result.predicted[place])],
        probabilities=tuple((names[index], float(probabilities[index])) for index in shown),
    )
