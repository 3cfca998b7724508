"""Images to look at, drawn by a seed: what every checkpoint gets right, what none does, and where two differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from clipmed.probabilities import softmax
from zeroshot_eval.figures import key
from zeroshot_eval.naming import spaced
from zeroshot_eval.pictures import Picture
from zeroshot_eval.predictions import Predictions

ALONE = 3  # right images, and as many wrong ones, where one checkpoint is shown
TOGETHER = 2  # images of each heading where several are compared
MOST_FLIPPED = 3  # checkpoints, the last ones, whose differences from the first are shown
SHOWN_ALONE, SHOWN_TOGETHER = 3, 2  # classes of each answer

Bools = npt.NDArray[np.bool_]
Show = Callable[[str, str], Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A class with what a checkpoint gives it: a probability, or a score of several-label tasks."""

    name: str
    value: float
    true: bool

    @property
    def percent(self) -> str:
        """The length of the bar, 0 … 100."""
        return f"{100 * min(max(self.value, 0.0), 1.0):.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one checkpoint says of an image: the highest classes, the highest first, and the true one."""

    checkpoint: int
    right: bool
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image with its true class and every checkpoint's answer."""

    picture: Picture
    target: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Examples under one heading, with how many images it could have been."""

    heading: Markup
    total: int
    kind: str
    """right | wrong | flip"""
    examples: tuple[Example, ...]


def choose_examples(answers: Sequence[Predictions], names: Sequence[str], show: Show, seed: int) -> list[Group]:
    """Return the examples of a task that every checkpoint has answered.

    Args:
        answers: one a checkpoint, of kind classification or multi_label, over the same images in the same order.
        names: the checkpoints' names, in the same order.
        show: gives the picture of (key, source).
        seed: of the draw; the same images are drawn for any checkpoints that are right and wrong alike.
    """
    asked = _Asked(answers)
    rng = np.random.default_rng(seed)
    groups = []
    for heading, kind, chosen in _headings(asked.rights, names):
        places = np.flatnonzero(chosen)
        if len(places):
            drawn = sorted(rng.permutation(places)[: ALONE if len(answers) == 1 else TOGETHER].tolist())
            found = tuple(asked.example(place, show) for place in drawn)
            groups.append(Group(heading=heading, total=len(places), kind=kind, examples=found))
    return groups


def is_right(targets: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> Bools:
    """Return for each image whether the class of the highest score is a true one, shape (n,).

    Args:
        targets: class indices (n,), or 1, 0 and -1 by class (n, C).
        scores: shape (n, C).
    """
    highest = scores.argmax(axis=1)
    if targets.ndim == 1:
        return np.asarray(targets == highest)
    return np.asarray(targets[np.arange(len(highest)), highest] == 1)


class _Asked:
    """A task's images with every checkpoint's scores; columns are read once."""

    def __init__(self, answers: Sequence[Predictions]) -> None:
        first = answers[0]
        assert all(each.keys == first.keys for each in answers)
        self.keys, self.sources, self.targets = first.keys, first.column("source"), first.targets
        self.classes = [spaced(name) for name in first.header.classes]
        self.single = self.targets.ndim == 1
        self.scores = [each.scores for each in answers]
        self.scales = [each.header.logit_scale for each in answers]
        self.num_shown = SHOWN_ALONE if len(answers) == 1 else SHOWN_TOGETHER
        self.rights = [is_right(self.targets, scores) for scores in self.scores]

    def example(self, place: int, show: Show) -> Example:
        target = self.targets[place]
        true = {int(target)} if self.single else set(np.flatnonzero(target == 1).tolist())
        return Example(
            picture=show(self.keys[place], self.sources[place]),
            target=", ".join(self.classes[index] for index in sorted(true)) or "none of the classes",
            answers=tuple(self._answer(number, place, true) for number in range(len(self.scores))),
        )

    def _answer(self, number: int, place: int, true: set[int]) -> Answer:
        scores = self.scores[number][place]
        values = softmax(scores * self.scales[number]) if self.single else scores
        shown = np.argsort(-values, kind="stable")[: self.num_shown].tolist()
        if true and not true & set(shown):
            shown = [*shown[:-1], min(true)]
        return Answer(
            checkpoint=number,
            right=bool(self.rights[number][place]),
            bars=tuple(Bar(name=self.classes[at], value=float(values[at]), true=at in true) for at in shown),
        )


def _headings(rights: Sequence[Bools], names: Sequence[str]) -> list[tuple[Markup, str, Bools]]:
    if len(rights) == 1:
        return [(Markup("Right"), "right", rights[0]), (Markup("Wrong"), "wrong", ~rights[0])]
    counts = np.sum(rights, axis=0)
    found: list[tuple[Markup, str, Bools]] = [
        (Markup("Right by every checkpoint"), "right", counts == len(rights)),
        (Markup("Wrong by every checkpoint"), "wrong", counts == 0),
    ]
    first, ours = rights[0], key(0, names[0])
    for number in range(max(1, len(rights) - MOST_FLIPPED), len(rights)):
        theirs, right = key(number, names[number]), rights[number]
        found.append((Markup("{} right, {} wrong").format(theirs, ours), "flip", right & ~first))
        found.append((Markup("{} wrong, {} right").format(theirs, ours), "flip", ~right & first))
    return found
