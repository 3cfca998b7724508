"""What a form asks: labels and prompts, within bounds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from clipmed.labels import label_prompts
from clipmed.serve.limits import Limits, RefusedError


def read_classes(fields: Mapping[str, Sequence[str]], limits: Limits) -> dict[str, list[str]]:
    """Return the labels of a form's fields, in order, each with its prompts.

    Args:
        fields: `labels`, one a line or one a field; `prompts`, if given, a JSON object of lists of texts by label. A
            label without prompts of its own gets the usual templates.
        limits: how many, and how long.

    Raises:
        ClipmedError: labels or prompts that are too many, too long, twice there, or of a wrong form.
    """
    labels = [line.strip() for value in fields.get("labels", ()) for line in value.splitlines() if line.strip()]
    if len(labels) > limits.labels:
        raise RefusedError(422, f"labels: got {len(labels)}; allowed: 2 to {limits.labels}")
    own = _own_prompts(fields.get("prompts", ()), labels, limits)
    longest = max(map(len, [*labels, *itertools.chain(*own.values())]), default=0)
    if longest > limits.letters:
        raise RefusedError(422, f"a label or prompt has {longest} letters; allowed: {limits.letters}; shorten it")
    return label_prompts(label_prompts(labels) | own)


def read_number(fields: Mapping[str, Sequence[str]], name: str, allowed: range) -> int | None:
    """Return the whole number of a field, of those allowed; None where the field is not there, or empty.

    Raises:
        RefusedError: 422, something else.
    """
    given = [value.strip() for value in fields.get(name, ()) if value.strip()]
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch("[0-9]{1,9}", given[0]) or int(given[0]) not in allowed:
        said = ", ".join(given)[:40]
        raise RefusedError(
            422, f"{name}: got {said!r}; allowed: one whole number from {allowed.start} to {allowed.stop - 1}"
        )
    return int(given[0])


def _own_prompts(values: Sequence[str], labels: Sequence[str], limits: Limits) -> dict[str, list[str]]:
    given = [value for value in values if value.strip()]
    if not given:
        return {}
    wanted = 'prompts: must be one JSON object such as {"label": ["a prompt", "another"]}'
    try:
        prompts: Any = json.loads(given[0], object_pairs_hook=_once)
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a label is there twice")
    return found


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)
