"""Questions with options about images, and true or false statements; what was left out of a file is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol

from clipmed.errors import ConfigError, DataError

Format = Literal["microbench", "mediconfusion", "probmed", "negation", "gmai", "medmat"]
PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "option": "{option}",
        "question_option": "{question} {option}",
        "question_answer": "Question: {question} Answer: {option}",
    }
)
MAX_DETAIL = 200  # characters of a skip's detail: file contents may be long


class SkipReason(StrEnum):
    """Why an item gives no question. Images that do not open have the codes of `clipmed.rejects` instead."""

    ROW_INVALID = "row_invalid"  # a field is missing, empty or of the wrong kind
    ROW_TOO_LARGE = "row_too_large"  # a row of a table above the size limit
    OPTIONS_INVALID = "options_invalid"  # fewer than two options, a gap between them, or the same text twice
    ANSWER_INVALID = "answer_invalid"  # an answer that is none of the options
    ANSWER_PRIVATE = "answer_private"  # the publisher keeps the answer back
    DUPLICATE_ID = "duplicate_id"  # an item of the same id came before
    TWIN_MISSING = "twin_missing"  # the adversarial counterpart of the statement is not there
    PATH_UNSAFE = "path_unsafe"  # an absolute path, a parent folder, or a link out of the folder
    IMAGE_MISSING = "image_missing"  # the row names no image, or one that is not there
    IMAGE_TOO_LARGE = "image_too_large"  # above the size limit
    IMAGE_ENCODING = "image_encoding"  # text that is not base64


class ItemSkippedError(DataError):
    """An item gives no question; caught by `Intake` and counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about one image, of which one option is right."""

    key: str
    image: str
    """reference of the image in its set, for `image_bytes`"""
    options: tuple[str, ...]
    answer: int
    """index of the right option"""
    question: str = ""
    """the question as it is asked; empty where the options are whole captions"""
    set_id: str
    """questions that belong together, such as the two of a pair; the key where a question stands alone"""
    category: str
    group: str
    """the unit that intervals resample: an image, a pair, or all pairs that share images"""
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """what scores are broken down by, such as {"department": ("Cardiology",)}"""
    items: tuple[str, ...]
    """the items of the file that the question is made of"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement about one image, true or false of it: a question that is answered with yes or no."""

    key: str
    image: str
    text: str
    true: bool
    pair: str
    """a true statement and its false twin share it"""
    probe: str
    """the statements that must all be judged rightly to count as one answer: of one image and one category"""
    category: str
    group: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skip:
    """An item that gave no question, and why."""

    item: str
    reason: str
    detail: str


class ImageSource(Protocol):
    """Where the images of a set lie."""

    def read(self, ref: str) -> bytes:
        """Return the encoded bytes of an image; ItemSkippedError where they cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class TextStyle:
    """The text that is embedded for an option: a sentence with {option} in it and, if wanted, {question}.

    Where a question is empty, a sentence with {question} is left aside and the option stands alone.
    """

    prompt: str = "{option}"

    def __post_init__(self) -> None:
        if self.prompt.count("{option}") != 1 or self.prompt.count("{question}") > 1:
            raise ConfigError(
                f"prompt of options: got {self.prompt!r}; allowed: {', '.join(PROMPTS)}, or a sentence with "
                "{option} once and {question} at most once"
            )

    def text(self, question: str, option: str) -> str:
        """Return the text of one option of a question."""
        before, after = self.prompt.split("{option}")
        if "{question}" not in self.prompt:
            return f"{before}{option}{after}"
        if not question:
            return option
        return f"{before.replace('{question}', question)}{option}{after.replace('{question}', question)}"


def text_style(prompt: str = "") -> TextStyle:
    """Return the style of a name in `PROMPTS`, of a sentence of one's own, or of the option alone if empty."""
    return TextStyle(PROMPTS.get(prompt, prompt) or PROMPTS["option"])


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """All questions and statements of a published file. Items seen = items used + items skipped, always."""

    format: Format
    name: str
    digest: str
    """SHA-256 of the files that the questions were read from"""
    questions: tuple[Question, ...]
    statements: tuple[Statement, ...] = ()
    skipped: tuple[Skip, ...] = ()
    num_items: int
    """items seen: rows, pairs, or captions of a row, as the format has them"""
    images: ImageSource = field(repr=False)

    def __post_init__(self) -> None:
        used, skipped = self.num_used, len(self.skipped)
        assert self.num_items == used + skipped, f"{self.num_items} items seen, {used} used, {skipped} skipped"

    @property
    def units(self) -> tuple[Question | Statement, ...]:
        """The questions, then the statements."""
        return (*self.questions, *self.statements)

    @property
    def num_used(self) -> int:
        """Items that are part of a question or a statement."""
        return len({item for unit in self.units for item in unit.items})

    @property
    def skip_counts(self) -> dict[str, int]:
        """Skipped items by reason, the most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())

    def without_images(self, unreadable: Mapping[str, str]) -> QuestionSet:
        """Return the set without what needs one of these images; its items are skipped, with the given detail.

        Args:
            unreadable: {image reference: why its pixels could not be had}.
        """
        lost = {
            item: f"{unit.image}: {unreadable[unit.image]}"
            for unit in self.units
            if unit.image in unreadable
            for item in unit.items
        }
        return replace(
            self,
            questions=tuple(unit for unit in self.questions if not lost.keys() & set(unit.items)),
            statements=tuple(unit for unit in self.statements if not lost.keys() & set(unit.items)),
            skipped=(*self.skipped, *(Skip(item, "image_corrupt", detail) for item, detail in lost.items())),
        )


def texts(question_set: QuestionSet, style: TextStyle) -> list[str]:
    """Return the distinct texts to embed, sorted."""
    found = {style.text(unit.question, option) for unit in question_set.questions for option in unit.options}
    return sorted(found | {unit.text for unit in question_set.statements})


def image_refs(question_set: QuestionSet) -> list[str]:
    """Return the references of the distinct images to embed, sorted."""
    return sorted({unit.image for unit in question_set.units})


def image_bytes(question_set: QuestionSet, ref: str) -> bytes:
    """Return the encoded bytes of an image of the set.

    Raises:
        ItemSkippedError: the image is no longer there, or lies outside the set's folder.
    """
    return question_set.images.read(ref)


class Intake:
    """Collects what the items of a file give, and why others give nothing."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.statements: list[Statement] = []
        self.skipped: list[Skip] = []
        self.num_items = 0
        self._seen: set[str] = set()

    def take(self, item: str, make: Callable[[], Sequence[Question | Statement]]) -> None:
        """Count an item and keep the questions and statements that `make` gives, or the reason why it gives none."""
        self.num_items += 1
        try:
            if item in self._seen:
                raise ItemSkippedError(SkipReason.DUPLICATE_ID, f"{item} came before")
            self._seen.add(item)
            made = make()
        except ItemSkippedError as error:
            self.skipped.append(Skip(item, str(error.reason), error.detail))
            return
        self.questions += [unit for unit in made if isinstance(unit, Question)]
        self.statements += [unit for unit in made if isinstance(unit, Statement)]

    def skip(self, item: str, reason: SkipReason, detail: str) -> None:
        """Count an item that gives nothing."""
        self.num_items += 1
        self.skipped.append(Skip(item, str(reason), detail[:MAX_DETAIL]))

    def finish(self, form: Format, name: str, digest: str, images: ImageSource) -> QuestionSet:
        """Return the set.

        Raises:
            DataError: no item gave a question or a statement.
        """
        if not self.questions and not self.statements:
            counts = Counter(skip.reason for skip in self.skipped).most_common()
            why = ", ".join(f"{count} {reason}" for reason, count in counts) or "the file has no items"
            first = f"; first: {self.skipped[0].item}: {self.skipped[0].detail}" if self.skipped else ""
            raise DataError(f"{name}: no question of the {form} format to ask: {why}{first}")
        return QuestionSet(
            format=form,
            name=name,
            digest=digest,
            questions=tuple(self.questions),
            statements=tuple(self.statements),
            skipped=tuple(self.skipped),
            num_items=self.num_items,
            images=images,
        )


def text_field(row: Mapping[str, object], name: str) -> str:
    """Return a field that must hold text.

    Raises:
        ItemSkippedError: the field is not there, is empty, or is no text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ItemSkippedError(SkipReason.ROW_INVALID, f"{name}: got {value!r}; a text is needed")
    return value.strip()


def facet_fields(row: Mapping[str, object], names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return facets from the fields that hold text; `names` maps a field to the facet's name."""
    pairs = ((facet, row.get(name)) for name, facet in names.items())
    return {facet: (value.strip(),) for facet, value in pairs if isinstance(value, str) and value.strip()}


def checked_options(options: Sequence[object]) -> tuple[str, ...]:
    """Return the options of a question, stripped.

    Raises:
        ItemSkippedError: fewer than two, one that is no text, or two of the same text.
    """
    found = tuple(option.strip() for option in _texts(options))
    if len(found) < 2 or len({option.casefold() for option in found}) < len(found):
        raise ItemSkippedError(
            SkipReason.OPTIONS_INVALID, f"options: got {list(found)!r}; two or more different ones are needed"
        )
    return found


def checked_index(answer: object, num_options: int) -> int:
    """Return the index of the right option.

    Raises:
        ItemSkippedError: no whole number, or one that no option has.
    """
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < num_options:
        raise ItemSkippedError(SkipReason.ANSWER_INVALID, f"answer: got {answer!r}; allowed: 0 to {num_options - 1}")
    return answer


def _texts(options: Sequence[object]) -> Iterator[str]:
    for option in options:
        if not isinstance(option, str) or not option.strip():
            raise ItemSkippedError(SkipReason.OPTIONS_INVALID, f"option: got {option!r}; a text is needed")
        yield option
