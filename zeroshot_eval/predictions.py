"""What a checkpoint answered, sample by sample: one parquet a checkpoint and task, for comparisons and audits.

OUT/predictions/<checkpoint>/<task>.parquet. The schema's metadata says what was asked (`Header`); every row has

    key, group, source, modality, sha256, facts (JSON text or null)

and by kind of task

    classification, probe   target int32, scores list<float32>: cosines (decision values of a probe) by class
    multi_label             target list<int8> (1, 0, -1 for unknown), scores list<float32> by class
    retrieval               direction, caption (its place among the image's, -1 for a query that is an
                            image), rank_best and rank_worst (ties for and against us), num_correct, gallery: int32
    choice                  target int32, scores list<float32> over the row's options, set_id, category
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.files import atomic_file, atomic_folder
from clipmed.records import canonical_json
from zeroshot_eval.selection import Item

SCHEMA_VERSION = 1
METADATA_KEY = b"clipmed"
PREDICTIONS_FOLDER = "predictions"

TaskKind = Literal["classification", "multi_label", "retrieval", "choice", "probe"]
Singles = npt.NDArray[np.float32]
Targets = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was asked, of whom. `classes` are in the order of the scores."""

    suite: str
    task: str
    kind: TaskKind
    checkpoint: str
    """the checkpoint's name"""
    checkpoint_digest: str
    data_digest: str
    logit_scale: float
    modality: str
    main_metric: str
    classes: tuple[str, ...] = ()
    ordinal: bool = False
    held_out: bool = False
    pairs: bool = False
    """multi_label: scores are differences of the cosines with prompts that affirm and that deny a class"""
    dataset: str = ""
    """sources of the samples, joined by a plus sign"""


@dataclass(frozen=True, slots=True)
class Predictions:
    """One file of answers: the header and the rows."""

    header: Header
    table: pa.Table

    @property
    def keys(self) -> list[str]:
        """The name of each row's sample."""
        return self.column("key")

    @property
    def groups(self) -> list[str]:
        """The group of each row's sample."""
        return self.column("group")

    @property
    def facts(self) -> list[dict[str, str]]:
        """What else is known of each row's sample."""
        return [json.loads(text) if text else {} for text in self.column("facts")]

    @property
    def targets(self) -> Targets:
        """Targets: class or option indices (n,), or (n, C) for multi_label."""
        found = self.table["target"].combine_chunks()
        if pa.types.is_list(found.type):
            return _matrix(found).astype(np.int8)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    @property
    def scores(self) -> Singles:
        """Scores by class, shape (n, C); see `option_scores` for choice."""
        return _matrix(self.table["scores"].combine_chunks()).astype(np.float32)

    @property
    def option_scores(self) -> list[Singles]:
        """Scores over each row's own options."""
        return [np.asarray(row, dtype=np.float32) for row in self.column("scores")]

    def column(self, name: str) -> list[Any]:
        """Return a column as Python values."""
        return list(self.table[name].to_pylist())


def classification_columns(targets: Targets, scores: Singles) -> dict[str, pa.Array]:
    """Return the columns of a classification or probe: targets (n,), scores (n, C)."""
    return {"target": numbers(targets, np.int32), "scores": _lists(scores.astype(np.float32))}


def multi_label_columns(targets: Targets, scores: Singles) -> dict[str, pa.Array]:
    """Return the columns of a multi-label classification: targets and scores (n, C)."""
    return {"target": _lists(targets.astype(np.int8)), "scores": _lists(scores.astype(np.float32))}


def numbers(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> pa.Array:
    """Return numbers (n,) as a column; without pyarrow's own conversion, which imports masked arrays first."""
    whole = np.ascontiguousarray(values, dtype=dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(whole.dtype), len(whole), [None, pa.py_buffer(whole)])


def choice_columns(
    targets: Sequence[int], scores: Sequence[Sequence[float]], set_ids: Sequence[str], categories: Sequence[str]
) -> dict[str, pa.Array]:
    """Return the columns of questions with options: the right one, and a score an option."""
    return {
        "target": pa.array(targets, pa.int32()),
        "scores": pa.array([np.asarray(row, dtype=np.float32) for row in scores], pa.list_(pa.float32())),
        "set_id": pa.array(set_ids, pa.string()),
        "category": pa.array(categories, pa.string()),
    }


def make_predictions(header: Header, items: Sequence[Item], columns: Mapping[str, Any]) -> Predictions:
    """Put together the rows of one file; `columns` are those of the task's kind, a row an item."""
    facts = [canonical_json(item.facts) if item.facts else None for item in items]
    common = {
        "key": pa.array([item.key for item in items], pa.string()),
        "group": pa.array([item.group for item in items], pa.string()),
        "source": pa.array([item.source for item in items], pa.string()),
        "modality": pa.array([item.modality for item in items], pa.string()),
        "sha256": pa.array([item.sha256 for item in items], pa.string()),
        "facts": pa.array(facts, pa.string()),
    }
    return Predictions(header, pa.table(common | dict(columns)))


def predictions_path(out: Path, checkpoint: str, task: str) -> Path:
    """Return where the answers of a checkpoint to a task lie below an evaluation's folder."""
    return out / PREDICTIONS_FOLDER / slug(checkpoint) / f"{slug(task)}.parquet"


def write_predictions(out: Path, predictions: Predictions) -> Path:
    """Write one file below an evaluation's folder, atomically; return its path."""
    path = predictions_path(out, predictions.header.checkpoint, predictions.header.task)
    with atomic_file(path) as temporary:
        _write(predictions, temporary)
    return path


def replace_predictions(out: Path, every: Sequence[Predictions]) -> None:
    """Write all answers of an evaluation, in the place of those that an earlier one left in its folder.

    The disk is not waited for: a damaged file is refused where it is read, and scoring again writes it in seconds.
    """
    folder = out / PREDICTIONS_FOLDER
    with atomic_folder(folder, durable=False) as partial:
        for one in every:
            path = partial / predictions_path(out, one.header.checkpoint, one.header.task).relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(one, path)


def read_predictions(path: Path) -> Predictions:
    """Read one file of answers.

    Raises:
        DataError: no such file, no such format, or of another schema version.
    """
    try:
        table = pq.read_table(path)
        values = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except FileNotFoundError as error:
        raise DataError(f"no predictions at {path}; `python -m zeroshot_eval score` writes them") from error
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise DataError(f"{path} holds no predictions of zeroshot_eval: {error}; score the checkpoint again") from error
    version = values.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version!r}; allowed: {SCHEMA_VERSION}; score the checkpoint again")
    checkpoint = values.pop("checkpoint")
    known = {name: value for name, value in values.items() if name in Header.__slots__}
    known["classes"] = tuple(known["classes"])
    return Predictions(Header(checkpoint=checkpoint["name"], checkpoint_digest=checkpoint["digest"], **known), table)


def list_predictions(out: Path) -> dict[str, list[Path]]:
    """Return the files of an evaluation's folder by the slug of their checkpoint, sorted."""
    folder = out / PREDICTIONS_FOLDER
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: sorted(path.glob("*.parquet")) for path in found if path.is_dir()}


def slug(name: str) -> str:
    """Return a name as that of a file: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"


def _write(predictions: Predictions, path: Path) -> None:
    table = predictions.table.replace_schema_metadata({METADATA_KEY: _header_json(predictions.header)})
    pq.write_table(table, path, compression="zstd")


def _header_json(header: Header) -> bytes:
    values = {name: getattr(header, name) for name in Header.__slots__}
    digest = values.pop("checkpoint_digest")
    values |= {"schema_version": SCHEMA_VERSION, "checkpoint": {"name": header.checkpoint, "digest": digest}}
    return canonical_json(values | {"classes": list(header.classes)}).encode()


def _lists(values: npt.NDArray[Any]) -> pa.ListArray:
    offsets = np.arange(0, values.size + 1, max(1, values.shape[1]), dtype=np.int32)
    return pa.ListArray.from_arrays(numbers(offsets, np.int32), numbers(values.reshape(-1), values.dtype))


def _matrix(lists: pa.ListArray) -> npt.NDArray[Any]:
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(len(lists), -1)
