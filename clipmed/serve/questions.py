"""What a form asks: labels and prompts, within bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipmed.serve.limits import Limits, RefusedError


@dataclass(frozen=True, slots=True)
class Question:
    """Labels in order, and prompts of those labels that have their own."""

    labels: tuple[str, ...]
    prompts: dict[str, list[str]]

    def classes(self, templates: Sequence[str]) -> list[str] | dict[str, list[str]]:
        """Return what `ClipModel.classify` takes: a label without prompts of its own is put into the templates."""
        if not self.prompts:
            return list(self.labels)
        filled = {label: [template.replace("{}", label) for template in templates] for label in self.labels}
        return filled | self.prompts


def read_question(fields: Mapping[str, Sequence[str]], limits: Limits) -> Question:
    """Return the question of a form's fields.

    Args:
        fields: `labels`, one a line or one a field; `prompts`, if given, a JSON object of lists of texts by label.
        limits: how many, and how long.

    Raises:
        RefusedError: 422, labels or prompts that are out of bounds, twice there, or of a wrong form.
    """
    labels = tuple(_lines(fields.get("labels", ())))
    if len(labels) > limits.labels:
        raise RefusedError(422, f"labels: got {len(labels)}; allowed: 2 to {limits.labels}")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if len(labels) < 2 or twice:
        given = f"{twice[0]!r} twice" if twice else f"{len(labels)}"
        raise RefusedError(422, f"labels: got {given}; give two or more different ones, one a line")
    prompts = _prompts(fields.get("prompts", ()), labels, limits)
    for text in (*labels, *(prompt for own in prompts.values() for prompt in own)):
        if len(text) > limits.label_letters:
            raise RefusedError(
                422, f"a label or prompt has {len(text)} letters; allowed: {limits.label_letters}; shorten it"
            )
    return Question(labels, prompts)


def read_count(fields: Mapping[str, Sequence[str]], name: str, default: int, most: int) -> int:
    """Return a whole number from 1 to `most`.

    Raises:
        RefusedError: 422, something else.
    """
    given = [value.strip() for value in fields.get(name, ()) if value.strip()]
    if not given:
        return default
    if len(given) > 1 or not (given[0].isascii() and given[0].isdecimal() and 1 <= int(given[0][:9]) <= most):
        raise RefusedError(422, f"{name}: got {given[0][:40]!r}; allowed: one whole number from 1 to {most}")
    return int(given[0])


def _lines(values: Sequence[str]) -> list[str]:
    return [line.strip() for value in values for line in value.splitlines() if line.strip()]


def _prompts(values: Sequence[str], labels: Sequence[str], limits: Limits) -> dict[str, list[str]]:
    given = [value for value in values if value.strip()]
    if not given:
        return {}
    wanted = 'prompts: must be one JSON object such as {"label": ["a prompt", "another"]}'
    try:
        prompts: Any = json.loads(given[0])
    except (ValueError, RecursionError) as error:
        raise RefusedError(422, wanted) from error
    if len(given) > 1 or not isinstance(prompts, dict) or not all(map(_is_texts, prompts.values())):
        raise RefusedError(422, wanted)
    unknown = sorted(prompts.keys() - set(labels))
    if unknown:
        raise RefusedError(
            422, f"prompts: got some for {unknown[0]!r}, which is none of the labels; add it or correct it"
        )
    most = max(map(len, prompts.values()), default=0)
    if most > limits.prompts:
        raise RefusedError(422, f"prompts: got {most} for one label; allowed: 1 to {limits.prompts}")
    return {label: [text.strip() for text in texts] for label, texts in prompts.items()}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)
