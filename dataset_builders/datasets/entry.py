"""The catalogue entry: everything that is particular to one dataset, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.configuration import from_dict, nearest, read_yaml
from clipmed.errors import ConfigError
from clipmed.images import ImageConfig
from clipmed.records import SOURCE_NAME
from dataset_builders.captions.facts import CONTEXT_FACTS
from dataset_builders.datasets.layout import MODALITIES, Layout, check_values
from dataset_builders.readers.config import ReaderConfig

CATALOGUE = Path(__file__).parent.parent / "catalogue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Wording to score a task zero-shot with, apart from the wording of training captions."""

    templates: tuple[str, ...]
    """sentences with {} for the words of a class"""
    classes: dict[str, tuple[str, ...]]
    """class id: words that state it, of one kind for all classes"""

    def __post_init__(self) -> None:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(f"prompts.templates: {template!r} must hold {{}} once")
        if not self.templates or not all(self.classes.values()):
            raise ConfigError("prompts: every class needs words, and there must be a template")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question that the labels answer."""

    classes: dict[str, str]
    """class id: display name, a noun phrase in lower case such as 'a pituitary tumor'"""
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """class id: other noun phrases that mean the same"""
    negative: tuple[str, ...] = ()
    """class ids that say that nothing was found, such as normal"""
    multi_label: bool = False
    """an image may have several classes, or none"""
    ordinal: bool = False
    """the classes are grades, in rising order"""
    stated: bool = True
    """captions state the class as a finding; false where it only says what was imaged"""
    class_modality: dict[str, str] = field(default_factory=dict)
    """class id: modality, where the class decides it"""
    class_body_part: dict[str, str] = field(default_factory=dict)
    """class id: body part, where the class decides it"""
    prompts: Prompts | None = None
    """wording to score the task zero-shot with; made of display names and synonyms if none is given"""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes: got none; allowed: one or more")
        for class_id, name in self.classes.items():
            if not class_id.strip() or "|" in class_id or not name.strip():
                raise ConfigError(
                    f"class {class_id!r} with the name {name!r}: allowed: an id without '|' and a name, neither empty"
                )
        for what in ("class_modality", "class_body_part", "synonyms", "negative"):
            self._check_known(what, tuple(getattr(self, what)))
        check_values("class_modality", self.class_modality, MODALITIES)
        if self.prompts is not None and set(self.prompts.classes) != set(self.classes):
            raise ConfigError(f"prompts.classes: allowed: each of {', '.join(self.classes)}, and no other")

    def _check_known(self, what: str, class_ids: tuple[str, ...]) -> None:
        for class_id in class_ids:
            if class_id not in self.classes:
                near = nearest(class_id, list(self.classes))
                raise ConfigError(f"{what}: unknown class {class_id!r}{near} Classes: {', '.join(self.classes)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file as its provider offers it."""

    file: str
    """its name"""
    url: str = ""
    """where it is offered; empty where only a person who asked gets it"""
    bytes: int | None = None
    """its size"""
    md5: str = ""
    """its MD5 in hex, where the provider states it"""
    sha256: str = ""
    """its SHA-256 in hex, where the provider states it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One dataset of the catalogue."""

    name: str
    """the source's name in keys and reports: lower-case letters, digits and '_'"""
    title: str
    """what people call the dataset"""
    layout: Layout
    """where images, labels and texts are"""
    tasks: dict[str, Task] = field(default_factory=dict)
    """task: its classes; task names are unique over the catalogue. None where images have native texts alone"""
    modality: str | None = None
    """modality of every image, unless a class or a column decides it"""
    body_part: str | None = None
    """body part of every image, as captions say it"""
    view: str | None = None
    """view of every image, as captions say it, such as axial"""
    license: str = ""
    """the licence as the provider states it; empty if it states none"""
    terms: Literal["open", "registration", "request", "credentialed", "challenge", "unavailable", "drawn"] = "open"
    """how one gets it: open to all, after registration, on request, with credentials and a data use agreement, as a
    challenge's participant, no longer at all; drawn: by clipmed itself"""
    suites: tuple[str, ...] = ()
    """what the dataset is known from: unimed_train, unimed_eval, medmnist, and other published collections"""
    overlaps: tuple[str, ...] = ()
    """other entries that hold some of the same images: a score on one is void after training on the other"""
    tested_on: Literal["layout", "real"] = "layout"
    """real: the provider's own files were built with this entry. layout: only files made in the layout it documents"""
    bank: str = "general"
    """template bank of the captions: a shipped name or the path of a YAML file"""
    captions_per_image: int = 5
    """captions chosen for each image that has labels"""
    min_caption_chars: int = 10
    """native texts shorter than this are not used"""
    expected_items: dict[str, int] = field(default_factory=dict)
    """train, val, test, or all: how many images the provider has"""
    expected_counts: dict[str, int] = field(default_factory=dict)
    """class id, or task/class id: how many images the provider has of it"""
    num_units: int = 8
    """work units; more units means finer resuming and more parallelism"""
    max_file_mb: float = 128.0
    """largest image file, in MB"""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """how the images in its files are read: windows, slices, tiles"""
    image: ImageConfig = field(default_factory=ImageConfig)
    """what an image must be, and how it is stored"""
    citation: str = ""
    """the paper or record to cite"""
    url: str = ""
    """where the dataset is described"""
    downloads: tuple[Download, ...] = ()
    """the files to get"""
    access: str = ""
    """how to obtain and unpack it, and what to mind when using it"""

    def __post_init__(self) -> None:
        if not SOURCE_NAME.fullmatch(self.name):
            raise ConfigError(f"name: got {self.name!r}; allowed: lower-case letters, digits and '_'")
        if min(self.num_units, self.captions_per_image, self.min_caption_chars) < 1:
            raise ConfigError(
                f"num_units={self.num_units}, captions_per_image={self.captions_per_image}, "
                f"min_caption_chars={self.min_caption_chars}; allowed: 1 or more"
            )
        if self.modality is not None:
            check_values("modality", {"modality": self.modality}, MODALITIES)
        self._check_tasks()
        self._check_modality()
        for name in self.expected_counts:
            self.class_named(name)

    def class_named(self, name: str) -> tuple[str, str]:
        """Return (task, class id) of a class id, or of task/class id.

        Raises:
            ConfigError: no such class, or one that several tasks have.
        """
        pairs = [(task, class_id) for task, content in self.tasks.items() for class_id in content.classes]
        found = [pair for pair in pairs if name in {pair[1], "/".join(pair)}]
        if len(found) != 1:
            known = [class_id for _, class_id in pairs]
            raise ConfigError(
                f"expected_counts: {len(found)} classes are called {name!r}; allowed: a class id, or task/class id"
                f"{nearest(name, known)}"
            )
        return found[0]

    def _check_tasks(self) -> None:
        if set(self.layout.labels) != set(self.tasks):
            raise ConfigError(
                f"layout.labels name the tasks {sorted(self.layout.labels)}, "
                f"tasks are {sorted(self.tasks)}; give each task its labels"
            )
        for task in self.tasks:
            if not SOURCE_NAME.fullmatch(task) or task in CONTEXT_FACTS:
                raise ConfigError(
                    f"tasks: got {task!r}; allowed: lower-case letters, digits and '_', and none of "
                    f"{', '.join(CONTEXT_FACTS)}"
                )
            labels, classes = self.layout.labels[task], tuple(self.tasks[task].classes)
            check_values("labels.values", labels.values, (*classes, ""))
            for what in (labels.columns, labels.ranges):
                check_values(f"labels of {task}", {class_id: class_id for class_id in what}, classes)

    def _check_modality(self) -> None:
        by_class = any(set(task.class_modality) == set(task.classes) for task in self.tasks.values())
        if self.modality is None and self.layout.modality is None and not by_class:
            raise ConfigError(
                "modality is missing; give modality, layout.modality, or a task's class_modality for every class"
            )


def load_entry(name: str | Path) -> Entry:
    """Read a shipped entry by its name, or any entry by the path of its YAML file.

    Raises:
        ConfigError: no such entry, an unknown key, or a value that is not allowed.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else CATALOGUE / f"{name}.yaml"
    if not path.is_file():
        known = shipped_entries()
        raise ConfigError(
            f"no catalogue entry {str(name)!r}{nearest(str(name), known)} "
            "python -m dataset_builders list shows them; or give the path of a YAML file"
        )
    return from_dict(Entry, read_yaml(path), str(path))


def shipped_entries() -> list[str]:
    """Return the names of the entries that come with clipmed."""
    return sorted(path.stem for path in CATALOGUE.glob("*.yaml"))
