"""What the server answers, and the work behind it: plain functions, run in a worker thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipmed.api import ClipModel
from clipmed.calibration import TemperatureSource
from clipmed.errors import ConfigError
from clipmed.labels import DEFAULT_TEMPLATES
from clipmed.serve.limits import Limits

if TYPE_CHECKING:
    from PIL import Image

    from clipmed.search import SearchIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One label of one checkpoint: its share of the probability, and the cosine behind it."""

    label: str
    probability: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one checkpoint says of an image; `scores` are in the order of the labels and sum to 1.

    It is calibrated where its temperature was fitted on images of these labels, with these prompts.
    """

    checkpoint: str
    label: str
    calibrated: bool
    temperature: TemperatureSource
    scores: list[Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """An image's size in pixels, upright, and what each checkpoint says of it."""

    width: int
    height: int
    results: list[Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One image of the index: its row, file name, caption, cosine to the image given, and its thumbnail's address."""

    row: int
    name: str
    caption: str | None
    score: float
    thumbnail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The images of the index most like an image, best first."""

    checkpoint: str
    hits: list[Neighbour]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFacts:
    """On what a checkpoint's temperature was fitted; above 1 it was too sure before."""

    temperature: float
    images: int
    labels: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """One checkpoint that is served."""

    name: str
    digest: str
    embed_dim: int
    image_size: int
    context_length: int
    calibration: CalibrationFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """The index that is served, and the checkpoint that it was built by."""

    images: int
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFacts:
    """What a form may hold."""

    upload_bytes: int
    labels: int
    letters: int
    prompts: int
    hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is served, and within which limits."""

    checkpoints: list[CheckpointFacts]
    index: IndexFacts | None
    limits: LimitFacts
    templates: list[str]


def facts(models: Mapping[str, ClipModel], index: SearchIndex | None, builder: str, limits: Limits) -> Facts:
    """Return what is served, and within which limits; `builder` is the checkpoint that the index was built by."""
    return Facts(
        checkpoints=[
            CheckpointFacts(
                name=name,
                digest=model.digest,
                embed_dim=model.embed_dim,
                image_size=model.two_tower.image_size,
                context_length=model.two_tower.context_length,
                calibration=_calibration_facts(model),
            )
            for name, model in models.items()
        ],
        index=IndexFacts(images=len(index), checkpoint=builder) if index is not None else None,
        limits=LimitFacts(
            upload_bytes=limits.upload_bytes,
            labels=limits.labels,
            letters=limits.letters,
            prompts=limits.prompts,
            hits=limits.hits,
        ),
        templates=list(DEFAULT_TEMPLATES),
    )


def _calibration_facts(model: ClipModel) -> CalibrationFacts | None:
    fitted = model.calibration
    if fitted is None:
        return None
    return CalibrationFacts(temperature=fitted.temperature, images=fitted.num_images, labels=list(fitted.labels))


def classified(
    models: Mapping[str, ClipModel], picture: Image.Image, classes: Mapping[str, Sequence[str]]
) -> Classified:
    """Return what every checkpoint says of an RGB picture, for {label: prompts}."""
    results = []
    for name, model in models.items():
        (result,) = model.classify(picture, classes)
        scores = [
            Score(label=label, probability=probability, cosine=result.cosines[label])
            for label, probability in result.probabilities.items()
        ]
        verdict = Verdict(
            checkpoint=name,
            label=result.label,
            calibrated=result.calibrated,
            temperature=result.temperature,
            scores=scores,
        )
        results.append(verdict)
    return Classified(width=picture.width, height=picture.height, results=results)


def similar(name: str, model: ClipModel, index: SearchIndex, picture: Image.Image, count: int) -> Similar:
    """Return the index's images most like an RGB picture; all of them if `count` is more."""
    (hits,) = index.search(model.embed_images(picture), min(count, len(index)))
    return Similar(
        checkpoint=name,
        hits=[
            Neighbour(
                row=hit.row,
                name=Path(hit.path).name,
                caption=hit.caption,
                score=hit.score,
                thumbnail=f"/api/thumbnails/{hit.row}" if index.has_thumbnails else None,
            )
            for hit in hits
        ],
    )


def builder_of(index: SearchIndex, models: Mapping[str, ClipModel]) -> str:
    """Return the name of the checkpoint that an index was built by.

    Raises:
        ConfigError: it is none of those served: embeddings of different checkpoints cannot be compared.
    """
    built_by = index.facts.checkpoint
    for name, model in models.items():
        if model.digest == built_by.digest:
            return name
    served = ", ".join(f"{name} ({model.digest[:16]}…)" for name, model in models.items())
    raise ConfigError(
        f"{index.folder} was built by {built_by.location} with digest {built_by.digest[:16]}…: got {served}; serve "
        "that checkpoint too, or build the index anew"
    )
