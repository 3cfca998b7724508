"""The catalogue entry: everything that is particular to one labelled dataset, as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.configuration import from_dict, nearest, read_yaml
from clipmed.errors import ConfigError
from clipmed.images import ImageConfig
from clipmed.records import SOURCE_NAME, Modality, Split

CATALOGUE = Path(__file__).parent.parent / "catalogue"
MODALITIES = tuple(str(modality) for modality in Modality)
SPLITS = tuple(str(split) for split in Split)
# What providers call the splits; an entry's split_values adds to these and overrides them.
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_CSV_ONLY = (
    "file",
    "image_column",
    "image_folder",
    "image_suffix",
    "delimiter",
    "label_columns",
    "label_separator",
    "group_column",
    "split_column",
    "modality_column",
    "modality_values",
    "license_column",
)
_FOLDER_ONLY = ("pattern", "split_folders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the provider lays the dataset out on disk, below one root folder."""

    kind: Literal["folder_per_class", "csv"]
    """folder_per_class: <root>/<class>/<file>. csv: a table with one row an image"""
    split_folders: bool = False
    """folder_per_class: the layout is <root>/<split>/<class>/<file>"""
    pattern: str = "*"
    """folder_per_class: names of the files to take, such as *.png; others are left alone"""
    file: str | None = None
    """csv: the table, relative to the root"""
    image_column: str | None = None
    """csv: the column with the image's path"""
    image_folder: str = ""
    """csv: the folder that paths start from, relative to the root"""
    image_suffix: str = ""
    """csv: what to append where the table leaves the file ending out, such as .jpg"""
    delimiter: str = ","
    """csv: one character between cells"""
    label_columns: dict[str, str] = field(default_factory=dict)
    """csv: task: the column with its label"""
    label_separator: str = "|"
    """csv: what stands between the labels of a multi-label cell"""
    label_values: dict[str, str] = field(default_factory=dict)
    """label as the provider writes it (folder name or cell): class id; the others are class ids already"""
    group_column: str | None = None
    """csv: the column that says which rows must stay in one split, such as the patient"""
    split_column: str | None = None
    """csv: the column with the official split"""
    split_values: dict[str, str] = field(default_factory=dict)
    """split as the provider writes it: train, val or test; usual names are known"""
    modality_column: str | None = None
    """csv: the column with the modality, where the dataset mixes several"""
    modality_values: dict[str, str] = field(default_factory=dict)
    """csv: modality as the provider writes it: clipmed's name of it"""
    license_column: str | None = None
    """csv: the column with each image's licence"""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            unfit = item.name in (_FOLDER_ONLY if self.kind == "csv" else _CSV_ONLY)
            blank = {} if item.default is dataclasses.MISSING else item.default
            if unfit and getattr(self, item.name) != blank:
                raise ConfigError(f"layout.{item.name} does not belong to layout.kind {self.kind!r}; remove it")
        if self.kind == "csv":
            self._check_csv()
        _check_values("layout.split_values", self.split_values, SPLITS)
        _check_values("layout.modality_values", self.modality_values, MODALITIES)

    def _check_csv(self) -> None:
        for name in ("file", "image_column", "label_columns"):
            if not getattr(self, name):
                raise ConfigError(f"layout.{name} is missing; a csv layout needs it")
        if len(self.delimiter) != 1:
            raise ConfigError(f"layout.delimiter: got {self.delimiter!r}; allowed: one character")

    def columns(self) -> list[str]:
        """Return every column that the table must have."""
        named = (self.image_column, self.group_column, self.split_column, self.modality_column, self.license_column)
        return [name for name in (*named, *self.label_columns.values()) if name is not None]

    def split_of(self, written: str) -> str | None:
        """Return the split that the provider's word means, or None."""
        word = written.strip()
        return {**SPLIT_NAMES, **self.split_values}.get(word, SPLIT_NAMES.get(word.lower()))

    def class_of(self, written: str) -> str:
        """Return the class id that the provider's label means; the label itself where nothing is said of it."""
        word = written.strip()
        return self.label_values.get(word, word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question that the labels answer."""

    classes: dict[str, str]
    """class id: display name, a noun phrase in lower case such as 'a pituitary tumor'"""
    multi_label: bool = False
    """an image may have several classes, or none"""
    stated: bool = True
    """captions state the class as a finding; false where it only says what was imaged"""
    class_modality: dict[str, str] = field(default_factory=dict)
    """class id: modality, where the class decides it"""
    class_body_part: dict[str, str] = field(default_factory=dict)
    """class id: body part, where the class decides it"""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes: got none; allowed: one or more")
        for class_id, name in self.classes.items():
            if not class_id.strip() or "|" in class_id or not name.strip():
                raise ConfigError(
                    f"class {class_id!r} with the name {name!r}: allowed: an id without '|' and a name, neither empty"
                )
        for what in ("class_modality", "class_body_part"):
            for class_id in getattr(self, what):
                if class_id not in self.classes:
                    near = nearest(class_id, list(self.classes))
                    raise ConfigError(f"{what}: unknown class {class_id!r}{near} Classes: {', '.join(self.classes)}")
        _check_values("class_modality", self.class_modality, MODALITIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One labelled dataset of the catalogue."""

    name: str
    """the source's name in keys and reports: lower-case letters, digits and '_'"""
    title: str
    """what people call the dataset"""
    layout: Layout
    """where images and labels are"""
    tasks: dict[str, Task]
    """task: its classes; task names are unique over the catalogue"""
    modality: str | None = None
    """modality of every image, unless a class or a column decides it"""
    body_part: str | None = None
    """body part of every image, as captions say it"""
    license: str = ""
    """the licence as the provider states it; empty if it states none"""
    group_from: str | None = None
    """regular expression searched in the file name; what its groups capture names the patient or slide"""
    bank: str = "general"
    """template bank of the captions: a shipped name or the path of a YAML file"""
    captions_per_image: int = 5
    """captions chosen for each image"""
    expected_counts: dict[str, int] = field(default_factory=dict)
    """class id, or task/class id: how many images the provider has of it; used by check"""
    num_units: int = 8
    """work units; more units means finer resuming and more parallelism"""
    max_file_mb: float = 128.0
    """largest image file, in MB"""
    image: ImageConfig = field(default_factory=ImageConfig)
    """what an image must be, and how it is stored"""
    citation: str = ""
    """the paper or record to cite"""
    url: str = ""
    """where the dataset is described"""
    access: str = ""
    """how to obtain it, and what to mind when using it"""

    def __post_init__(self) -> None:
        if not SOURCE_NAME.fullmatch(self.name):
            raise ConfigError(f"name: got {self.name!r}; allowed: lower-case letters, digits and '_'")
        if min(self.num_units, self.captions_per_image) < 1:
            raise ConfigError(
                f"num_units={self.num_units}, captions_per_image={self.captions_per_image}; allowed: 1 or more"
            )
        if self.modality is not None:
            _check_values("modality", {"modality": self.modality}, MODALITIES)
        self._check_tasks()
        self._check_modality()
        self._check_group()
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
        if not self.tasks:
            raise ConfigError("tasks: got none; allowed: one or more")
        if self.layout.kind == "folder_per_class" and len(self.tasks) > 1:
            raise ConfigError(f"tasks: got {len(self.tasks)}; a folder_per_class layout labels one task")
        if self.layout.kind == "csv" and set(self.layout.label_columns) != set(self.tasks):
            raise ConfigError(
                f"layout.label_columns name the tasks {sorted(self.layout.label_columns)}, "
                f"tasks are {sorted(self.tasks)}; give each task its column"
            )
        reserved = {"modality", "body_part"} & set(self.tasks)
        if reserved:
            raise ConfigError(f"tasks: {sorted(reserved)[0]!r} is a fact of every image; give the task another name")
        known = {class_id for task in self.tasks.values() for class_id in task.classes}
        _check_values("layout.label_values", self.layout.label_values, tuple(sorted(known)))

    def _check_modality(self) -> None:
        by_class = any(set(task.class_modality) == set(task.classes) for task in self.tasks.values())
        if self.modality is None and self.layout.modality_column is None and not by_class:
            raise ConfigError(
                "modality is missing; give modality, layout.modality_column, or a task's class_modality for every class"
            )

    def _check_group(self) -> None:
        if self.group_from is None:
            return
        if self.layout.group_column is not None:
            raise ConfigError("group_from and layout.group_column are both given; keep the one that is right")
        try:
            groups = re.compile(self.group_from).groups
        except re.error as error:
            raise ConfigError(f"group_from: {self.group_from!r} is no regular expression: {error}") from error
        if groups < 1:
            raise ConfigError(f"group_from: {self.group_from!r} captures nothing; put the group's part in parentheses")


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


def _check_values(where: str, values: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    for value in values.values():
        if value not in allowed:
            raise ConfigError(f"{where}: got {value!r}{nearest(value, allowed)} Allowed: {', '.join(allowed)}")
