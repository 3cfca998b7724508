"""Labels of zero-shot classification and their prompts: checked before anything is computed."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmed.errors import ClipmedError, ConfigError

DEFAULT_TEMPLATES = ("{}", "a medical image showing {}", "an image of {}")


def label_prompts(
    labels: Sequence[str] | Mapping[str, Sequence[str]], templates: Sequence[str] = DEFAULT_TEMPLATES
) -> dict[str, list[str]]:
    """Return the prompts of each label, in the order given.

    Args:
        labels: label names, put into `templates`; or {label: prompts}, used as they are.
        templates: sentences with one `{}` each for the label.

    Raises:
        ClipmedError: fewer than two labels; a label twice, however it is spaced or capitalised; a label or prompt that
            is empty or no text; two labels with the same prompts; a template without one `{}`.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | Mapping):
        raise ClipmedError(
            f"labels must be a list of texts, or {{label: prompts}}: got {labels!r}; write [{labels!r}, …]"
        )
    names = list(labels)
    _check_names(names)
    if not isinstance(labels, Mapping):
        _check_templates(templates)
        return {name: [template.replace("{}", name) for template in templates] for name in names}
    for name, prompts in labels.items():
        _check_prompts(name, prompts)
    _check_differ(labels)
    return {name: list(prompts) for name, prompts in labels.items()}


def read_prompts(path: Path) -> dict[str, list[str]]:
    """Return {label: prompts} of a YAML or JSON file; `label_prompts` checks them.

    Raises:
        ConfigError: no such file, or one that holds no such mapping, or a label twice.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            found = json.loads(text, object_pairs_hook=_pairs)
        else:
            found = yaml.load(text, Loader=_prompts_loader())  # noqa: S506 (derives from the safe loader)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path} is not readable as a YAML or JSON file of prompts: {said}") from error
    if not isinstance(found, dict) or not all(isinstance(prompts, list) for prompts in found.values()):
        raise ConfigError(
            f"{path}: allowed: labels with a list of prompts each, such as `pneumonia: [a chest X-ray …]`"
        )
    return found


def folded(label: str) -> str:
    """Return a label as it is compared: without case, outer and double spaces, and ways of writing one letter."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def _check_names(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ClipmedError(f"labels: got {name!r}, a {type(name).__name__}; allowed: texts; write it in quotes")
        if not name.strip():
            raise ClipmedError(f"labels: got an empty one, {name!r}; allowed: texts that say something")
    first: dict[str, str] = {}
    twice = [(first[key], name) for name in names if (key := folded(name)) in first or first.update({key: name})]
    if len(names) < 2 or twice:
        given = f"{len(names)} of them"
        if twice:
            one, other = twice[0]
            given = f"{one!r} twice" if one == other else f"{one!r} and {other!r}, which are one to the model"
        raise ClipmedError(f"classification needs two or more different labels: got {given}")


def _check_templates(templates: Sequence[str]) -> None:
    if isinstance(templates, str) or not templates:
        raise ClipmedError(f"templates: got {templates!r}; allowed: a list of sentences with one '{{}}' each")
    wrong = [one for one in templates if not isinstance(one, str) or one.count("{}") != 1]
    if wrong:
        raise ClipmedError(f"a template needs one '{{}}' for the label: got {wrong[0]!r}")


def _check_prompts(name: str, prompts: Any) -> None:
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ClipmedError(f"the prompts of {name!r}: got {prompts!r}; allowed: a list of texts; write [{prompts!r}]")
    wrong = [one for one in prompts if not isinstance(one, str) or not one.strip()]
    if wrong or not prompts:
        given = repr(wrong[0]) if wrong else "an empty list"
        raise ClipmedError(f"every label needs prompts that are not empty: got {given} for {name!r}")


def _check_differ(labels: Mapping[str, Sequence[str]]) -> None:
    seen: dict[frozenset[str], str] = {}
    for name, prompts in labels.items():
        other = seen.setdefault(frozenset(map(folded, prompts)), name)
        if other != name:
            raise ClipmedError(f"labels {other!r} and {name!r} have the same prompts; no model can tell them apart")


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"prompts: {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _prompts_loader() -> Any:
    """Return a safe YAML loader that refuses a key that is there twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        return _pairs(
            [(loader.construct_object(key), loader.construct_object(value, deep=True)) for key, value in node.value]
        )

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader
