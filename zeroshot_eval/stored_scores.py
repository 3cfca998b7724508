"""What other commands read of an evaluation's scores.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipmed.errors import DataError

SCORES_FILE = "scores.json"
_PARTS = {"rows", "tasks", "checkpoints", "sets"}


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the content of an evaluation's scores.json.

    Raises:
        DataError: none there, or none of this version.
    """
    path = folder / SCORES_FILE
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no scores at {path}; give a folder that `python -m zeroshot_eval score` wrote") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}; score the checkpoint again") from error
    if not isinstance(scores, dict) or not scores.keys() >= _PARTS:
        raise DataError(f"{path} holds no scores of this version of zeroshot_eval; score the checkpoint again")
    return scores


def scored_sets(folder: Path) -> tuple[str, ...]:
    """Return where the collections lay that an evaluation scored."""
    return tuple(str(entry["location"]) for entry in read_scores(folder)["sets"])
