"""The guard over captions that exist already: what it refuses, by reason."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipmed.errors import DataError
from clipmed.records import canonical_json
from dataset_builders.captions.facts import CaptionFacts, read_facts
from dataset_builders.captions.guard import Guard, GuardConfig, Refusal
from dataset_builders.captions.subjects import NATIVE, read_rows

_KEPT = 20  # examples of each reason


@dataclass(slots=True)
class CheckResult:
    """Captions seen and refused; `reasons` counts captions by reason, and a caption may have several."""

    seen: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """reason: (text, detail) of the first that were refused for it"""

    def add(self, text: str, refusals: Sequence[Refusal], number: int = 1) -> None:
        """Count a caption that `number` samples have."""
        self.seen += number
        self.refused += number * bool(refusals)
        for code, detail in {str(refusal.code): refusal.detail for refusal in refusals}.items():
            self.reasons[code] += number
            if len(self.examples[code]) < _KEPT:
                self.examples[code].append((text, detail))


def check_source(path: Path, config: GuardConfig) -> CheckResult:
    """Judge the captions of a spool's or a shard set's labelled samples; native ones are passed over.

    Raises:
        DataError: neither a spool nor a set.
    """
    tasks, rows = read_rows(path)
    counted: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.facts is not None:
            counted.update((row.facts, caption["text"]) for caption in row.captions if caption["origin"] not in NATIVE)
    guard, result = Guard(config), CheckResult()
    read: dict[str, CaptionFacts] = {}
    for (facts, text), number in sorted(counted.items()):
        if facts not in read:
            read[facts] = read_facts(facts, tasks)
        result.add(text, guard.check(text, read[facts]), number)
    return result


def check_file(path: Path, config: GuardConfig) -> CheckResult:
    """Judge the captions of a JSONL file: text, facts and tasks a line.

    Raises:
        DataError: a line that is not as it should be, by number.
    """
    guard, result = Guard(config), CheckResult()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            text, facts = _read_line(line, f"{path}, line {number}")
            result.add(text, guard.check(text, facts))
    return result


def _read_line(line: str, where: str) -> tuple[str, CaptionFacts]:
    try:
        row: dict[str, Any] = json.loads(line)
        text, facts = row["text"], read_facts(canonical_json(row["facts"]), row.get("tasks", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f'{where}: {type(error).__name__}: {error}; allowed: {{"text": …, "facts": {{…}}, "tasks": {{…}}}}'
        ) from error
    if not isinstance(text, str):
        raise DataError(f"{where}: text is {type(text).__name__}; allowed: a string")
    return text, facts
