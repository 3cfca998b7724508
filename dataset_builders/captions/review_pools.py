"""What the review page is made of: a store's outcomes and the samples of spools and sets, brought together by class."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from clipmed.records import canonical_json
from dataset_builders.captions.facts import CaptionFacts, read_facts
from dataset_builders.captions.subjects import MACHINE_MADE, NATIVE, SourceRow, read_rows
from shards.caption_store import Attempt, CaptionStore, Outcome, subject_of_facts, subject_of_image, subject_of_text

Standing = Literal["done", "failed", "pending"]
MEASURED = 500  # different accepted captions of a class, at most, that its plots are made of
_FALLBACKS = 3  # captions shown of those that serve where the store has none


class ClassName(NamedTuple):
    """A class of a task; of samples whose labels state nothing, no task and the modality."""

    task: str
    class_id: str


class Picture(NamedTuple):
    """An image of a source: the digest of its stored JPEG, and how to read it."""

    sha256: str
    read: Callable[[], bytes]


@dataclass(slots=True)
class SubjectPool:
    """One subject that the sources hold: what is known of it, and what serves its samples otherwise."""

    id: str
    facts: CaptionFacts
    native: str | None
    picture: Picture
    fallback: tuple[str, ...]
    """template captions of its first sample, or native ones where it has none"""
    standing: Standing
    samples: int = 0
    classes: set[ClassName] = field(default_factory=set)


@dataclass(slots=True)
class ClassPool:
    """Everything of one class. `served` counts samples by what captions them: store, native, template, or earlier.

    Earlier are the captions of a store that a packed set took up before.
    """

    name: ClassName
    title: str
    max_pictures: int
    samples: int = 0
    modalities: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    subjects: Counter[str] = field(default_factory=Counter)
    """samples of the class by subject"""
    pictures: list[Picture] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    accepted_texts: dict[str, None] = field(default_factory=dict)
    refused_texts: dict[str, None] = field(default_factory=dict)

    def add_picture(self, picture: Picture) -> None:
        """Keep the images whose digests come first: as good as drawn by lot, and the same in any order of reading."""
        kept = self.pictures
        if len(kept) == self.max_pictures and (not kept or picture.sha256 >= kept[-1].sha256):
            return
        place = bisect.bisect_left(kept, picture.sha256, key=lambda known: known.sha256)
        if place == len(kept) or kept[place].sha256 != picture.sha256:
            kept.insert(place, picture)
            del kept[self.max_pictures :]

    def add_outcome(self, outcome: Outcome) -> None:
        """Count the texts of an outcome."""
        for text in outcome.texts:
            self.refused += bool(text.reasons)
            self.accepted += not text.reasons
            self.reasons.update(codes_of(text))
            texts = self.refused_texts if text.reasons else self.accepted_texts
            if len(texts) < MEASURED:
                texts.setdefault(text.text)


@dataclass(slots=True)
class Captioned:
    """What one captioner with one prompt did."""

    captioner: str
    prompt: str
    counts: Counter[str] = field(default_factory=Counter)
    """done, failed, accepted, refused, tokens_in, tokens_out"""
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Pools:
    """The classes and subjects of the sources, and how many subjects of the store are in none of them."""

    classes: dict[ClassName, ClassPool]
    subjects: dict[str, SubjectPool]
    samples: int
    served: Counter[str]
    foreign: int
    reasons: Counter[str] = field(default_factory=Counter)
    """refused captions by code of reason; one may have several"""
    captioned: dict[tuple[str, str], Captioned] = field(default_factory=dict)


def read_standings(store: CaptionStore) -> dict[str, Standing]:
    """Return the subjects of a store, done where any captioner's caption was accepted."""
    found: dict[str, Standing] = {}
    for outcome in store.outcomes():
        subject = outcome.request.subject
        found[subject] = "done" if outcome.state == "done" or found.get(subject) == "done" else "failed"
    return found


def read_pools(store: CaptionStore, sources: Sequence[Path], max_pictures: int) -> Pools:
    """Return the samples of spools and shard sets by class, with what the store counts of them.

    Args:
        store: the caption store. Subjects are taken of the kinds that it holds; of an empty one, facts.
        sources: folders that a builder or `shards pack` wrote.
        max_pictures: images kept for each class.

    Raises:
        DataError: a folder that is neither a spool nor a set.
    """
    standings = read_standings(store)
    kinds = {subject.partition(":")[0] for subject in standings} or {"facts"}
    pools = Pools({}, {}, 0, Counter(), 0)
    for path in sources:
        _take_source(pools, path, standings, kinds, max_pictures)
    pools.foreign = len(standings.keys() - pools.subjects.keys())
    for outcome in store.outcomes():
        _count(pools, outcome)
        if outcome.request.subject in pools.subjects:
            for name in pools.subjects[outcome.request.subject].classes:
                pools.classes[name].add_outcome(outcome)
    return pools


def codes_of(text: Attempt) -> list[str]:
    """Return the codes of a text's reasons, which a store holds as `code: detail`, each once, by name."""
    return sorted({reason.split(":", 1)[0] for reason in text.reasons})


def _take_source(
    pools: Pools, path: Path, standings: Mapping[str, Standing], kinds: set[str], max_pictures: int
) -> None:
    tasks, rows = read_rows(path)
    cache: dict[str, CaptionFacts] = {}
    for row in rows:
        known = row.facts if row.facts is not None else canonical_json({"modality": row.modality})
        if known not in cache:
            cache[known] = read_facts(known, tasks)
        facts, picture = cache[known], Picture(row.sha256, row.read_image)
        subjects = [_subject(pools, row, kind, facts, standings) for kind in _subjects_of(row, kinds)]
        served = _served(row, [subject.standing for subject in subjects])
        pools.samples += 1
        pools.served[served] += 1
        for subject in subjects:
            subject.samples += 1
        for name, title in _classes_of(facts):
            pool = pools.classes.setdefault(name, ClassPool(name, title, max_pictures))
            pool.samples += 1
            pool.modalities[row.modality] += 1
            pool.sources[path.resolve().name] += 1
            pool.served[served] += 1
            pool.subjects.update(subject.id for subject in subjects)
            pool.add_picture(picture)
            for subject in subjects:
                subject.classes.add(name)


def _subjects_of(row: SourceRow, kinds: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the ids of what captions of a sample are made for, each with its native text where it is one."""
    if "facts" in kinds and row.facts is not None:
        yield subject_of_facts(row.facts), None
    if "image" in kinds:
        yield subject_of_image(row.sha256), None
    if "text" in kinds:
        for text in dict.fromkeys(caption["text"] for caption in row.captions if caption["origin"] in NATIVE):
            yield subject_of_text(text), text


def _subject(
    pools: Pools, row: SourceRow, key: tuple[str, str | None], facts: CaptionFacts, standings: Mapping[str, Standing]
) -> SubjectPool:
    subject, native = key
    if subject not in pools.subjects:
        pools.subjects[subject] = SubjectPool(
            id=subject,
            facts=facts if native is None else CaptionFacts(modality=row.modality),
            native=native,
            picture=Picture(row.sha256, row.read_image),
            fallback=_fallback(row),
            standing=standings.get(subject, "pending"),
        )
    return pools.subjects[subject]


def _fallback(row: SourceRow) -> tuple[str, ...]:
    templates = [caption["text"] for caption in row.captions if caption["origin"] == "template"]
    native = [caption["text"] for caption in row.captions if caption["origin"] not in MACHINE_MADE]
    return tuple((templates or native)[:_FALLBACKS])


def _served(row: SourceRow, standings: Sequence[Standing]) -> str:
    if "done" in standings:
        return "store"
    origins = {caption["origin"] for caption in row.captions}
    if origins & set(NATIVE):
        return "native"
    return "template" if "template" in origins else "earlier"


def _classes_of(facts: CaptionFacts) -> list[tuple[ClassName, str]]:
    named = [(ClassName(finding.task, finding.class_id), finding.name) for finding in facts.present]
    return named or [(ClassName("", facts.modality), f"{facts.modality}, no finding stated")]


def _count(pools: Pools, outcome: Outcome) -> None:
    key = (outcome.request.captioner, outcome.request.prompt)
    captioned = pools.captioned.setdefault(key, Captioned(*key))
    refused = sum(bool(text.reasons) for text in outcome.texts)
    captioned.counts.update(
        {
            outcome.state: 1,
            "accepted": len(outcome.texts) - refused,
            "refused": refused,
            "tokens_in": outcome.tokens_in,
            "tokens_out": outcome.tokens_out,
        }
    )
    for text in outcome.texts:
        pools.reasons.update(codes_of(text))
    if outcome.error:
        captioned.errors[outcome.error] += 1
