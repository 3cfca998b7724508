"""The kind of a figure by a linear classifier on the image embeddings of an OpenCLIP checkpoint.

kind_classifier.safetensors   mean, std (D,); weight (C, D); bias (C,): float32
kind_classifier.json          classes, checkpoint and its digest, settings, and what was measured on held-out figures
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoints import checkpoint_digest, checkpoint_folder
from clipmed.errors import ConfigError, DataError
from clipmed.files import atomic_folder, write_json
from clipmed.images import ArrayHWC
from dataset_builders.figures.kinds import FigureKind

if TYPE_CHECKING:
    import torch

    from clipmed.api import ClipModel

WEIGHTS_FILE = "kind_classifier.safetensors"
FACTS_FILE = "kind_classifier.json"
_TENSORS = ("mean", "std", "weight", "bias")
_HELD_OUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a classifier of figure kinds is trained."""

    checkpoint: str
    """the checkpoint that embeds: a folder, or hf-hub:org/name"""
    penalties: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1, 1.0)
    """strengths of the L2 penalty to choose from, by cross-validation"""
    folds: int = 5
    """parts of the cross-validation"""
    batch_size: int = 64
    """images embedded at once"""
    device: str = "cpu"
    """where images are embedded, such as cpu or cuda"""

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError(f"penalties: got {self.penalties}; allowed: one or more numbers above 0")
        if self.folds < 2 or self.batch_size < 1:
            raise ConfigError(f"got folds={self.folds}, batch_size={self.batch_size}; allowed: 2 or more, 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A figure with its kind; figures of one group are never both trained and tested on."""

    path: Path
    kind: FigureKind
    group: str


class Classifier:
    """A trained classifier; a `KindClassifier`."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Read a classifier's folder; the checkpoint is loaded with the first figure.

        Raises:
            DataError: a file is missing or damaged.
        """
        self._facts, self._tensors = _read(folder)
        self._device = device
        self._model: ClipModel | None = None
        self.kinds = [FigureKind(name) for name in self._facts["classes"]]
        self.name = f"classifier:{self._facts['digest'][:12]}"

    def kind_of(self, image: ArrayHWC) -> tuple[FigureKind, float]:
        """Return the most probable kind of an RGB image, uint8 of shape (H, W, 3), and its probability."""
        return self.kinds_of([image])[0]

    def kinds_of(self, images: Sequence[Any]) -> list[tuple[FigureKind, float]]:
        """Return the same for several images at once: arrays, paths or bytes."""
        if self._model is None:
            self._model = _load_checkpoint(self._facts["checkpoint"], self._device, self._facts["checkpoint_digest"])
        tensors = self._tensors
        scores = _standard(self._model.embed_images(images).cpu(), tensors) @ tensors["weight"].T + tensors["bias"]
        best, numbers = scores.softmax(dim=1).max(dim=1)
        pairs = zip(numbers.tolist(), best.tolist(), strict=True)
        return [(self.kinds[number], probability) for number, probability in pairs]


def read_labels(table: Path, root: Path | None = None) -> list[Labelled]:
    """Return the rows of a CSV file with the columns path, kind and, if it has one, group; paths start from `root`.

    Raises:
        DataError: a column is missing, a kind is unknown, a file is not there, or fewer than two kinds are given.
    """
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"path", "kind"} <= rows[0].keys():
        raise DataError(f"{table}: got columns {', '.join(rows[0]) if rows else 'none'}; it needs path and kind")
    labelled = [_labelled(row, number, table, root or table.parent) for number, row in enumerate(rows, start=2)]
    kinds = {item.kind for item in labelled}
    if len(kinds) < 2:
        raise DataError(f"{table}: got figures of {len(kinds)} kind; a classifier needs two or more")
    return labelled


def train(labelled: Sequence[Labelled], config: TrainConfig, out: Path) -> dict[str, Any]:
    """Train a classifier, write its folder whole, and return its facts.

    Multinomial logistic regression with an L2 penalty, fitted by L-BFGS in float64 to standardised unit-length
    embeddings, kinds weighted equally. A fifth of the groups, chosen by their hash, is held out and measured; the
    penalty with the best mean recall in the cross-validation of the rest is taken. The same input gives the same bytes.

    Raises:
        DataError: a kind has no figure left to train on once a fifth is held out.
    """
    from safetensors.torch import save_file

    digest = checkpoint_digest(checkpoint_folder(config.checkpoint))
    model = _load_checkpoint(config.checkpoint, config.device, digest)
    features = model.embed_images([item.path for item in labelled], config.batch_size).cpu().double()
    classes = [kind for kind in FigureKind if any(item.kind is kind for item in labelled)]
    data = _Data(features, [classes.index(item.kind) for item in labelled], [item.group for item in labelled])
    rest, held_out = data.split(lambda place: place % _HELD_OUT == 0)
    _check_split(rest, held_out, classes)
    recalls = {penalty: _cross_validated(rest, penalty, config.folds, len(classes)) for penalty in config.penalties}
    penalty = max(recalls, key=lambda one: (recalls[one], one))
    confusion = _confusion(_fit(rest, penalty, len(classes)), held_out, len(classes))
    tensors = {name: tensor.float() for name, tensor in _fit(data, penalty, len(classes)).items()}
    facts = {
        "classes": [str(kind) for kind in classes],
        "checkpoint": config.checkpoint,
        "checkpoint_digest": digest,
        "penalty": penalty,
        "cross_validation": {f"{one:g}": round(recall, 4) for one, recall in recalls.items()},
        "num_figures": len(labelled),
        "num_held_out": len(held_out.labels),
        "held_out": measured(confusion, classes),
    }
    with atomic_folder(out) as partial:
        save_file({name: tensors[name].contiguous() for name in _TENSORS}, partial / WEIGHTS_FILE)
        facts["digest"] = hashlib.sha256((partial / WEIGHTS_FILE).read_bytes()).hexdigest()
        write_json(partial / FACTS_FILE, facts)
    return facts


def measured(confusion: list[list[int]], classes: Sequence[FigureKind]) -> dict[str, Any]:
    """Return accuracy, precision and recall by kind, and the confusion: rows are true kinds, columns told ones."""
    columns = list(zip(*confusion, strict=True))
    right = sum(confusion[number][number] for number in range(len(classes)))
    return {
        "accuracy": right / max(sum(map(sum, confusion)), 1),
        "recall": {str(kind): _share(confusion[number], number) for number, kind in enumerate(classes)},
        "precision": {str(kind): _share(columns[number], number) for number, kind in enumerate(classes)},
        "confusion": confusion,
    }


def confusion_of(pairs: Sequence[tuple[object, object]], classes: Sequence[object]) -> list[list[int]]:
    """Return how many figures of each true kind (rows) were told to be of each kind (columns), from (true, told)."""
    counts = Counter(pairs)
    return [[counts[row, column] for column in classes] for row in classes]


@dataclass(frozen=True, slots=True)
class _Data:
    """Features (N, D) in float64, class numbers, and groups."""

    features: torch.Tensor
    labels: list[int]
    groups: list[str]

    def split(self, chosen: Any) -> tuple[_Data, _Data]:
        """Return (the rest, those whose group's place is chosen). Places are numbers that a hash gives to groups."""
        inside = [bool(chosen(_place(group))) for group in self.groups]
        return self._where([not one for one in inside]), self._where(inside)

    def _where(self, mask: list[bool]) -> _Data:
        import torch

        numbers = [number for number, one in enumerate(mask) if one]
        index = torch.tensor(numbers, dtype=torch.long)
        return _Data(self.features[index], [self.labels[i] for i in numbers], [self.groups[i] for i in numbers])


def _place(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")


def _cross_validated(data: _Data, penalty: float, folds: int, num_classes: int) -> float:
    """The mean recall over the kinds, all folds together. Places are divided first: the held-out fifth used them."""
    total = [[0] * num_classes for _ in range(num_classes)]
    for fold in range(folds):
        rest, tested = data.split(lambda place, fold=fold: place // _HELD_OUT % folds == fold)
        if not tested.labels or len(set(rest.labels)) < 2:
            continue
        found = _confusion(_fit(rest, penalty, num_classes), tested, num_classes)
        total = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(total, found, strict=True)]
    return sum(_share(row, number) for number, row in enumerate(total)) / num_classes


def _fit(data: _Data, penalty: float, num_classes: int) -> dict[str, torch.Tensor]:
    """Minimise the weighted cross-entropy plus penalty / 2 · |weight|²."""
    import torch

    labels = torch.tensor(data.labels)
    counts = torch.bincount(labels, minlength=num_classes).double().clamp(min=1)
    spread = data.features.std(dim=0, unbiased=False)
    found = {"mean": data.features.mean(dim=0), "std": torch.where(spread > 1e-6, spread, torch.ones_like(spread))}
    inputs = _standard(data.features, found)
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scores = inputs @ weight.T + bias
        loss = (
            torch.nn.functional.cross_entropy(scores, labels, weight=1 / counts) + penalty / 2 * weight.square().sum()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return {**found, "weight": weight.detach(), "bias": bias.detach()}


def _confusion(fitted: dict[str, torch.Tensor], data: _Data, num_classes: int) -> list[list[int]]:
    told = (_standard(data.features, fitted) @ fitted["weight"].T + fitted["bias"]).argmax(dim=1).tolist()
    return confusion_of(list(zip(data.labels, told, strict=True)), range(num_classes))


def _standard(features: torch.Tensor, fitted: dict[str, torch.Tensor]) -> torch.Tensor:
    return (features - fitted["mean"]) / fitted["std"]


def _share(counts: Sequence[int], number: int) -> float:
    return counts[number] / sum(counts) if sum(counts) else 0.0


def _check_split(rest: _Data, held_out: _Data, classes: Sequence[FigureKind]) -> None:
    missing = [str(kind) for number, kind in enumerate(classes) if number not in rest.labels]
    if missing or not held_out.labels:
        raise DataError(
            f"too few groups: {len(set(rest.groups))} to train on with no {', '.join(missing) or 'missing kind'}, "
            f"{len(set(held_out.groups))} held out; label more figures"
        )


def _labelled(row: dict[str, str], number: int, table: Path, root: Path) -> Labelled:
    path = root / row["path"]
    if row["kind"] not in set(FigureKind):
        raise DataError(f"{table}:{number}: got kind {row['kind']!r}; allowed: {', '.join(FigureKind)}")
    if not path.is_file():
        raise DataError(f"{table}:{number}: no file {path}; paths start from the table's folder, or from --root")
    return Labelled(path=path, kind=FigureKind(row["kind"]), group=row.get("group") or row["path"])


def _load_checkpoint(location: str, device: str, digest: str) -> ClipModel:
    """Load a checkpoint, after making sure that it is the one that the digest was taken of."""
    from clipmed.api import load

    got = checkpoint_digest(checkpoint_folder(location))
    if got != digest:
        raise DataError(
            f"checkpoint {location}: digest {got[:12]}, but the classifier was trained on {digest[:12]}; "
            "put that checkpoint back, or train again"
        )
    return load(location, device)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        whole = facts["digest"] == digest and set(tensors) == set(_TENSORS) and bool(facts["classes"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} is no classifier of figure kinds: {error}; train one with `kinds train`") from error
    if not whole:
        raise DataError(f"{folder}: {WEIGHTS_FILE} is not the file that {FACTS_FILE} describes; train again")
    return facts, tensors
