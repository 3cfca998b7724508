"""Suites: zero-shot tasks and retrieval tasks as data, read from YAML and checked before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clipmed.configuration import from_dict, nearest
from clipmed.errors import ConfigError
from clipmed.records import Modality, Split

SUITES_FOLDER = Path(__file__).parent / "suites"
MIXED = "mixed"  # a task whose classes are of several modalities; in no average over modalities
MODALITIES = (*(str(modality) for modality in Modality), MIXED)
SPLITS = tuple(str(split) for split in Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationTask:
    """One zero-shot classification: candidate classes with their prompts, and which samples are asked."""

    name: str
    """unique name within the suite"""
    task: str
    """label task of the shard sets whose classes are predicted"""
    modality: str
    """modality whose average this task enters; `mixed` for none"""
    classes: dict[str, tuple[str, ...]]
    """candidate class ids, each with the phrases that stand for it"""
    templates: tuple[str, ...]
    """sentences with one {} for the phrase; every phrase is put into every template"""
    split: str = "test"
    """split whose samples are asked"""
    held_out: bool = False
    """a combination that training never saw: reported apart, in no average"""
    sources: tuple[str, ...] = ()
    """only samples of these sources; all if empty"""
    only_classes: tuple[str, ...] = ()
    """only samples of these classes, against all candidate classes; all if empty"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        _check_choice(where, "modality", self.modality, MODALITIES)
        _check_choice(where, "split", self.split, SPLITS)
        if len(self.classes) < 2:
            raise ConfigError(f"{where}: got {len(self.classes)} classes; allowed: two or more")
        self._check_prompts(where)
        for name in self.only_classes:
            _check_choice(where, "only_classes", name, tuple(self.classes))

    def _check_prompts(self, where: str) -> None:
        if not self.templates:
            raise ConfigError(f"{where}: no templates; give one or more, such as 'an image of {{}}'")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(
                    f"{where}: template {template!r} has {template.count('{}')} places for the phrase; allowed: "
                    "exactly one {}"
                )
        for class_id, phrases in self.classes.items():
            if not phrases or not all(phrase.strip() for phrase in phrases):
                raise ConfigError(
                    f"{where}: class {class_id!r} has no prompts or an empty one; give one or more phrases"
                )
        uses = Counter(
            phrase for many in self.classes.values() for phrase in {phrase.casefold().strip() for phrase in many}
        )
        if twice := [phrase for phrase, count in uses.items() if count > 1]:
            raise ConfigError(
                f"{where}: the phrase {twice[0]!r} stands for two classes; give each class its own phrases"
            )

    def prompts(self) -> dict[str, list[str]]:
        """Return every class's prompts: each phrase in each template."""
        return {
            class_id: [template.replace("{}", phrase) for phrase in phrases for template in self.templates]
            for class_id, phrases in self.classes.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalTask:
    """Retrieval of captions by image and of images by caption over the samples of a split."""

    name: str
    """unique name within the suite"""
    split: str = "test"
    """split whose samples are the queries and the gallery"""
    sources: tuple[str, ...] = ()
    """only samples of these sources; all if empty"""
    modality: str | None = None
    """only samples of this modality"""
    note: str = ""
    """caveat that the report prints beside the scores"""

    def __post_init__(self) -> None:
        where = f"retrieval {self.name!r}"
        _check_choice(where, "split", self.split, SPLITS)
        if self.modality is not None:
            _check_choice(where, "modality", self.modality, MODALITIES[:-1])


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

    def __post_init__(self) -> None:
        names = Counter([*(task.name for task in self.tasks), *(query.name for query in self.retrieval)])
        if not names:
            raise ConfigError(f"suite {self.name!r} has no tasks; give tasks or retrieval")
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"suite {self.name!r}: two tasks are called {twice[0]!r}; give each its own name")


def load_suite(name_or_path: str) -> Suite:
    """Read a suite that ships with this package, by name, or one from a YAML file.

    Raises:
        ConfigError: no such suite (with the nearest name), or one that is not sound; says where.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SUITES_FOLDER / f"{name_or_path}.yaml"
        if path.parent != SUITES_FOLDER or not path.is_file():
            raise _unknown_suite(name_or_path)
    elif not path.is_file():
        raise ConfigError(f"no such suite file: {path}; give a .yaml file or one of: {', '.join(suite_names())}")
    data = _read_unique(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a suite is a mapping with name, title and tasks; got {type(data).__name__}")
    _refuse_bare_text(data, str(path))
    return from_dict(Suite, data, str(path))


def suite_names() -> list[str]:
    """Return the names of the suites that ship with this package."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def _unknown_suite(name: str) -> ConfigError:
    names = suite_names()
    return ConfigError(
        f"no suite is called {name!r}{nearest(name, names)} Allowed: {', '.join(names)}, or the path of a .yaml file"
    )


def _check_choice(where: str, field: str, value: str, allowed: Iterable[str]) -> None:
    choices = tuple(allowed)
    if value not in choices:
        raise ConfigError(f"{where}: {field}: got {value!r}{nearest(value, choices)} Allowed: {', '.join(choices)}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, refusing a key that comes twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build one mapping."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            raise ConfigError(
                f"key {twice[0]!r} comes twice in one mapping, at line {node.start_mark.line + 1}; keep one of the two"
            )
        return dict(super().construct_mapping(node, deep=deep))


def _read_unique(path: Path) -> Any:
    loader = _UniqueKeyLoader(path.read_text(encoding="utf-8"))
    try:
        return loader.get_single_data()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from error
    finally:
        loader.dispose()


def _refuse_bare_text(data: dict[str, Any], where: str) -> None:
    """Refuse a string where a list is meant: it would be taken apart into letters."""
    for task in (*(data.get("tasks") or ()), *(data.get("retrieval") or ())):
        if not isinstance(task, dict):
            raise ConfigError(f"{where}: a task is a mapping; got {task!r}")
        classes = task.get("classes", {})
        lists = {key: task[key] for key in ("templates", "sources", "only_classes") if key in task}
        lists |= {f"classes.{key}": value for key, value in classes.items()} if isinstance(classes, dict) else {}
        for key, value in lists.items():
            if not isinstance(value, list):
                raise ConfigError(
                    f"{where}: {task.get('name')}: {key}: got {value!r}; allowed: a list, such as [{value}]"
                )
