"""Scores in a model card: a section with intervals and chance, and the hub's `model-index`, out of scores.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmed.cards import DISCLAIMER, Card
from clipmed.errors import ConfigError

SCORES_VERSIONS = (2,)
LEVELS = ("overall", "modality", "dataset", "task")
FILE_BYTES_MAX = 200_000_000
PHANTOM = "Some of it are scores on phantoms, procedurally drawn images: no result on medical ones."


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One score of a checkpoint, as scores.json has it."""

    suite: str
    level: str
    metric: str
    value: float
    checkpoint_digest: str
    n: int
    task: str | None = None
    dataset: str | None = None
    modality: str | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None

    @property
    def name(self) -> str:
        """What was scored."""
        return self.task or self.dataset or self.modality or "all modalities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Rows of a checkpoint, and what holds for all of them."""

    rows: tuple[ScoreRow, ...]
    main_metrics: dict[str, str]
    """by task"""
    phantom: bool
    interval: str


def read_scores(path: Path, digest: str) -> Scores:
    """Return the scores that a scores.json has of a checkpoint.

    Args:
        path: the file, as the evaluation wrote it.
        digest: of the checkpoint; scores of others are left out.

    Raises:
        ConfigError: not such a file, or one without scores of this checkpoint.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{path} has more than {FILE_BYTES_MAX} bytes; it is no scores.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] not in SCORES_VERSIONS:
            raise ConfigError(
                f"{path}: schema_version is {content['schema_version']!r}; allowed: "
                f"{', '.join(map(str, SCORES_VERSIONS))}; score the checkpoint again"
            )
        rows = [_row(entry) for entry in content["rows"]]
        interval = content["interval"]
        words = f"{float(interval['level']):.0%} interval, {interval['method']}"
        main = {str(name): str(task["main_metric"]) for name, task in content["tasks"].items()}
        phantom = bool(content.get("phantom"))
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} is not readable: {error.strerror}; give the scores.json of an evaluation") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not the scores.json of an evaluation: {error!r:.200}") from error
    own = tuple(row for row in rows if row.checkpoint_digest == digest)
    if not own:
        others = sorted({row.checkpoint_digest[:12] for row in rows})
        raise ConfigError(
            f"{path} has no scores of this checkpoint, whose digest is {digest[:12]}…; it has those of "
            f"{', '.join(others) or 'none'}; score this folder"
        )
    return Scores(rows=own, main_metrics=main, phantom=phantom, interval=words)


def with_scores(card: Card, many: Sequence[Scores]) -> Card:
    """Return the card with a section of scores, and with the same for the hub to read."""
    entries = [entry for scores in many for entry in _index(scores)]
    index = [{"name": card.title, "results": entries}]
    return card.with_section("Scores", scores_section(many)).with_metadata(model_index=index)


def scores_section(many: Sequence[Scores]) -> str:
    """Return the scores as a table: averages first, then every task by its main metric."""
    lines = [
        f"Zero-shot, with chance, {many[0].interval}. {DISCLAIMER}" + (f" {PHANTOM}" if _phantom(many) else ""),
        "",
        "| suite | scored | metric | value | interval | chance | images |",
        "|---|---|---|---|---|---|---|",
    ]
    shown = [row for scores in many for row in scores.rows if _is_shown(row, scores)]
    for row in sorted(shown, key=lambda row: (row.suite, LEVELS.index(row.level), row.name, row.metric)):
        interval = "–" if row.low is None or row.high is None else f"{row.low:.3f} … {row.high:.3f}"
        chance = "–" if row.chance is None else f"{row.chance:.3f}"
        cells = [row.suite, row.name, row.metric, f"{row.value:.3f}", interval, chance, str(row.n)]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _is_shown(row: ScoreRow, scores: Scores) -> bool:
    if row.level == "task":
        return scores.main_metrics.get(row.task or "", row.metric) == row.metric
    return row.level in {"overall", "modality"}


def _index(scores: Scores) -> list[dict[str, Any]]:
    """Return `model-index` results: one a task, with its main metric."""
    return [
        {
            "task": {"type": "zero-shot-image-classification", "name": row.name},
            "dataset": {"type": row.dataset or row.name, "name": row.dataset or row.name},
            "metrics": [{"type": row.metric, "name": row.metric, "value": round(row.value, 4)}],
        }
        for row in scores.rows
        if row.level == "task" and _is_shown(row, scores)
    ]


def _phantom(many: Sequence[Scores]) -> bool:
    return any(scores.phantom for scores in many)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _row(entry: dict[str, Any]) -> ScoreRow:
    value = _number(entry["value"])
    if value is None or entry["level"] not in LEVELS:
        raise ValueError(f"a row with value {entry['value']!r} and level {entry['level']!r}")
    return ScoreRow(
        suite=str(entry["suite"]),
        level=str(entry["level"]),
        metric=str(entry["metric"]),
        value=value,
        checkpoint_digest=str(entry["checkpoint_digest"]),
        n=int(entry["n"]),
        task=_text(entry.get("task")),
        dataset=_text(entry.get("dataset")),
        modality=_text(entry.get("modality")),
        low=_number(entry.get("low")),
        high=_number(entry.get("high")),
        chance=_number(entry.get("chance")),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a number that is {number}")
    return number
