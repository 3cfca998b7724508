"""Suites on disk: those that ship with this package and YAML files of one's own, read strictly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from clipmed.configuration import from_dict, nearest
from clipmed.errors import ConfigError
from zeroshot_eval.suite import Suite

SUITES_FOLDER = Path(__file__).parent / "suites"
TASK_LISTS = ("tasks", "retrieval", "probes", "choices")
LISTS = ("templates", "sources", "only_classes", "tags", "shots")
LISTS_BY_CLASS = ("classes", "prompts", "negative_prompts")


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
    _place_choices(data, path.parent)
    return from_dict(Suite, data, str(path))


def suite_names() -> list[str]:
    """Return the names of the suites that ship with this package."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def _unknown_suite(name: str) -> ConfigError:
    names = suite_names()
    return ConfigError(
        f"no suite is called {name!r}{nearest(name, names)} Allowed: {', '.join(names)}, auto, or the path of a .yaml "
        "file"
    )


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
    for task in (task for kind in TASK_LISTS for task in (data.get(kind) or ())):
        if not isinstance(task, dict):
            raise ConfigError(f"{where}: a task is a mapping; got {task!r}")
        lists = {key: task[key] for key in LISTS if key in task}
        for name in LISTS_BY_CLASS:
            by_class = task.get(name, {})
            lists |= (
                {f"{name}.{key}": value for key, value in by_class.items()}
                if isinstance(by_class, dict)
                else {name: by_class}
            )
        for key, value in lists.items():
            if not isinstance(value, list):
                raise ConfigError(
                    f"{where}: {task.get('name')}: {key}: got {value!r}; allowed: a list, such as [{value}]"
                )


def _place_choices(data: dict[str, Any], folder: Path) -> None:
    """Let the relative locations of choice tasks start from the suite's own folder."""
    for task in data.get("choices") or ():
        for key in ("location", "images"):
            if isinstance(value := task.get(key), str) and value:
                task[key] = str(folder / value)
