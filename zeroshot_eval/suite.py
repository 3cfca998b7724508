"""Suites: zero-shot, retrieval, probe and choice tasks as data, checked before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from clipmed.records import Modality, Split

MIXED = "mixed"  # a task whose classes are of several modalities; in no average over modalities
MODALITIES = (*(str(modality) for modality in Modality), MIXED)
SPLITS = tuple(str(split) for split in Split)

LabelKind = Literal["single", "multi_label"]
Phrases = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationTask:
    """One zero-shot classification: candidate classes with their prompts, and which samples are asked.

    A class's prompts are its phrases put into every template, and then its own full sentences.
    """

    name: str
    """unique name within the suite"""
    task: str
    """label task of the data whose classes are predicted"""
    modality: str
    """modality whose average this task enters; `mixed` for none"""
    kind: LabelKind = "single"
    """single: one class an image. multi_label: any number of classes an image, each asked by itself"""
    ordinal: bool = False
    """the classes are grades, in the order given: quadratic kappa is the main metric"""
    classes: Phrases = field(default_factory=dict)
    """candidate class ids, each with the phrases that stand for it; synonyms are further phrases"""
    templates: tuple[str, ...] = ()
    """sentences with one {} for the phrase; every phrase is put into every template"""
    prompts: Phrases = field(default_factory=dict)
    """full sentences by class, beside or instead of phrases and templates"""
    negative_prompts: Phrases = field(default_factory=dict)
    """multi_label only: full sentences by class that deny it; the score is then the softmax of the two"""
    main_metric: str = ""
    """the metric that stands for the task; balanced_accuracy if not given, quadratic_kappa for grades, auroc for
    multi_label"""
    dataset: str = ""
    """name of the dataset, as in the catalogue"""
    split: str = "test"
    """split whose samples are asked"""
    held_out: bool = False
    """a combination that training never saw: reported apart, in no average"""
    sources: tuple[str, ...] = ()
    """only samples of these sources; all if empty"""
    only_classes: tuple[str, ...] = ()
    """only samples of these classes, against all candidate classes; all if empty"""
    tags: tuple[str, ...] = ()
    """words to choose tasks by, such as a specialty"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        every = self.classes | {name: () for name in self.prompts if name not in self.classes}
        object.__setattr__(self, "classes", every)
        _check_choice(where, "modality", self.modality, MODALITIES)
        _check_choice(where, "split", self.split, SPLITS)
        fewest = 1 if self.kind == "multi_label" else 2
        if len(every) < fewest:
            raise ConfigError(f"{where}: got {len(every)} classes; allowed: {('', 'one', 'two')[fewest]} or more")
        self._check_prompts(where)
        self._check_negatives(where)
        for name in self.only_classes:
            _check_choice(where, "only_classes", name, tuple(every))
        if self.only_classes and self.kind != "single":
            raise ConfigError(f"{where}: only_classes: got some with kind {self.kind!r}; allowed: with single")
        if self.ordinal and self.kind != "single":
            raise ConfigError(
                f"{where}: ordinal: got kind {self.kind!r}; allowed: single, with classes that are grades"
            )

    def _check_prompts(self, where: str) -> None:
        if any(self.classes.values()) and not self.templates:
            raise ConfigError(f"{where}: no templates; give one or more, such as 'an image of {{}}'")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(
                    f"{where}: template {template!r} has {template.count('{}')} places for the phrase; allowed: "
                    "exactly one {}"
                )
        texts = {name: (*phrases, *self.prompts.get(name, ())) for name, phrases in self.classes.items()}
        _check_texts(where, "prompts", texts)
        _check_apart(where, "phrase", self.classes)
        _check_apart(where, "prompt", self.all_prompts())

    def _check_negatives(self, where: str) -> None:
        if not self.negative_prompts:
            return
        if self.kind != "multi_label":
            raise ConfigError(f"{where}: negative_prompts: got some with kind 'single'; allowed: with multi_label")
        for name in self.negative_prompts:
            _check_choice(where, "negative_prompts", name, tuple(self.classes))
        _check_texts(where, "negative_prompts", {name: self.negative_prompts.get(name, ()) for name in self.classes})
        positive = self.all_prompts()
        for name, texts in self.negative_prompts.items():
            if both := set(texts) & set(positive[name]):
                raise ConfigError(f"{where}: class {name!r}: {sorted(both)[0]!r} is a prompt and a negative prompt")

    def all_prompts(self) -> dict[str, list[str]]:
        """Return every class's prompts: each phrase in each template, then its full sentences."""
        return {
            class_id: [
                *(template.replace("{}", phrase) for phrase in phrases for template in self.templates),
                *self.prompts.get(class_id, ()),
            ]
            for class_id, phrases in self.classes.items()
        }

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The candidate classes, in the order of the columns of scores."""
        return tuple(self.classes)

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return self.main_metric or default_metric(self.kind, ordinal=self.ordinal)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalTask:
    """Retrieval of captions by image and of images by caption over the samples of a split."""

    name: str
    """unique name within the suite"""
    captions: Literal["first", "all"] = "first"
    """the captions of an image that are asked and searched"""
    positives: Literal["same_text", "own"] = "same_text"
    """same_text: any caption of the same text is correct. own: only the image's own. Where captions repeat, the other
    one is reported beside it"""
    gallery: Literal["all", "modality"] = "all"
    """all: search among all samples. modality: among those of the query's modality, one result a modality"""
    main_metric: str = ""
    """the metric that stands for the task; image_to_text/recall@5 if not given"""
    dataset: str = ""
    """name of the dataset, as in the catalogue"""
    split: str = "test"
    """split whose samples are the queries and the gallery"""
    sources: tuple[str, ...] = ()
    """only samples of these sources; all if empty"""
    modality: str | None = None
    """only samples of this modality"""
    tags: tuple[str, ...] = ()
    """words to choose tasks by"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"retrieval {self.name!r}"
        _check_choice(where, "split", self.split, SPLITS)
        if self.modality is not None:
            _check_choice(where, "modality", self.modality, MODALITIES[:-1])
            if self.gallery == "modality":
                raise ConfigError(f"{where}: gallery 'modality' with one modality; allowed: one of the two")

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return self.main_metric or "image_to_text/recall@5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTask:
    """A linear probe on image embeddings, and few-shot ones; hyperparameters are chosen on the validation split."""

    name: str
    """unique name within the suite"""
    task: str
    """label task of the data whose classes are predicted"""
    modality: str
    """modality that the task belongs to; `mixed` for several"""
    kind: LabelKind = "single"
    """single: one class an image. multi_label: any number"""
    ordinal: bool = False
    """the classes are grades, in the order given"""
    classes: tuple[str, ...] = ()
    """class ids; all that the data know if empty"""
    shots: tuple[int, ...] = ()
    """training images a class of each few-shot probe; the probe on all training images is always fitted"""
    repeats: int = 5
    """draws of the training images of each few-shot probe"""
    train: str = "train"
    """split to fit on"""
    val: str = "val"
    """split to choose the regularisation on"""
    test: str = "test"
    """split to score"""
    main_metric: str = ""
    """the metric that stands for the task; as for classification if not given"""
    dataset: str = ""
    """name of the dataset, as in the catalogue"""
    sources: tuple[str, ...] = ()
    """only samples of these sources; all if empty"""
    tags: tuple[str, ...] = ()
    """words to choose tasks by"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"probe {self.name!r}"
        _check_choice(where, "modality", self.modality, MODALITIES)
        for name in ("train", "val", "test"):
            _check_choice(where, name, getattr(self, name), SPLITS)
        if self.test in {self.train, self.val}:
            raise ConfigError(f"{where}: test: got {self.test!r}, which is fitted or chosen on; allowed: another split")
        if wrong := [shots for shots in self.shots if shots < 1]:
            raise ConfigError(f"{where}: shots: got {wrong[0]}; allowed: 1 or more")
        if self.repeats < 1:
            raise ConfigError(f"{where}: repeats: got {self.repeats}; allowed: 1 or more")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{where}: classes: one comes twice; give each once")

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return self.main_metric or default_metric(self.kind, ordinal=self.ordinal)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceTask:
    """Questions with options of their own, in a published format that `zeroshot_eval.choices` reads."""

    name: str
    """unique name within the suite"""
    format: str
    """name of the format, such as mediconfusion; `python -m zeroshot_eval list` shows them"""
    location: str
    """file or folder of the questions; a relative one starts from the suite's file"""
    images: str = ""
    """folder of the images; where the format's own files say if empty"""
    modality: str = MIXED
    """modality that the task belongs to; `mixed` for several"""
    prompt: str = ""
    """how an option becomes a text: a sentence with {question} and {option}; the format's own if empty"""
    main_metric: str = ""
    """the metric that stands for the task; the format's own if not given"""
    dataset: str = ""
    """name of the dataset, as in the catalogue"""
    tags: tuple[str, ...] = ()
    """words to choose tasks by"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"choice {self.name!r}"
        _check_choice(where, "modality", self.modality, MODALITIES)
        if not self.format or not self.location:
            raise ConfigError(f"{where}: format {self.format!r} at {self.location!r}; give both")

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        from zeroshot_eval.choices import MAIN_METRICS  # its readers are imported where there are questions

        by_format = (metric for name, metric in MAIN_METRICS.items() if name == self.format)
        return self.main_metric or next(by_format, "accuracy")


Task = ClassificationTask | RetrievalTask | ProbeTask | ChoiceTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tasks that are scored together. `phantom` says that the images are synthetic: the report then says so first."""

    name: str
    """short name, as in scores.json"""
    title: str
    """heading of the report"""
    phantom: bool = False
    """the images are phantoms: synthetic, without medical meaning"""
    note: str = ""
    """caveat that the report prints beneath the heading"""
    tasks: tuple[ClassificationTask, ...] = ()
    """zero-shot classification tasks"""
    retrieval: tuple[RetrievalTask, ...] = ()
    """retrieval tasks"""
    probes: tuple[ProbeTask, ...] = ()
    """linear probes"""
    choices: tuple[ChoiceTask, ...] = ()
    """questions with options"""

    def __post_init__(self) -> None:
        names = Counter(task.name for task in self.all_tasks())
        if not names:
            raise ConfigError(f"suite {self.name!r} has no tasks; give tasks, retrieval, probes or choices")
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"suite {self.name!r}: two tasks are called {twice[0]!r}; give each its own name")

    def all_tasks(self) -> tuple[Task, ...]:
        """Return the tasks of every kind."""
        return (*self.tasks, *self.retrieval, *self.probes, *self.choices)


def default_metric(kind: LabelKind, *, ordinal: bool) -> str:
    """Return the metric that stands for a task of labels where it names none."""
    if kind == "multi_label":
        return "auroc"
    return "quadratic_kappa" if ordinal else "balanced_accuracy"


def _check_choice(where: str, field_name: str, value: str, allowed: Iterable[str]) -> None:
    choices = tuple(allowed)
    if value not in choices:
        raise ConfigError(
            f"{where}: {field_name}: got {value!r}{nearest(value, choices)} Allowed: {', '.join(choices)}"
        )


def _check_texts(where: str, what: str, texts: Mapping[str, Sequence[str]]) -> None:
    for class_id, many in texts.items():
        if not many or not all(text.strip() for text in many):
            raise ConfigError(f"{where}: class {class_id!r} has no {what} or an empty one; give one or more")


def _check_apart(where: str, what: str, texts: Mapping[str, Sequence[str]]) -> None:
    """Refuse a text that stands for two classes: one of them could never win."""
    uses = Counter(text for many in texts.values() for text in {text.casefold().strip() for text in many})
    if twice := [text for text, count in uses.items() if count > 1]:
        raise ConfigError(f"{where}: the {what} {twice[0]!r} stands for two classes; give each class its own")
