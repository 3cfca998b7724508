"""The page where a person reads captions: by class what was accepted and refused and why, with images beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.errors import ConfigError
from clipmed.files import write_text
from dataset_builders.captions.review_measures import (
    BIN_TOKENS,
    count_tokens,
    length_histogram,
    measure_diversity,
)
from dataset_builders.captions.review_pools import (
    MEASURED,
    ClassName,
    ClassPool,
    Pools,
    SubjectPool,
    codes_of,
    read_pools,
)
from shards.browse import TEMPLATES, thumbnail
from shards.caption_store import Attempt, CaptionStore, Outcome, Request

TEMPLATE = "review.html.j2"
_PLAIN_ANCHOR = re.compile(r"[A-Za-z0-9_.-]+")
_LONGEST_TEXT = 400  # characters shown of a caption or a native text
_LONGEST_DETAIL = 200
_MOST_ABSENT = 12  # findings named that a subject is known not to have
_MOST_ERRORS = 5  # different errors shown of a captioner


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewConfig:
    """How much the page shows. Its counts are of everything."""

    subjects_per_class: int = 12
    """most subjects of a class whose captions are shown, those of most samples first; a third of them are failed ones
    where there are any"""
    max_subjects: int = 400
    """most subjects shown in all, in equal shares; every class shows one at least"""
    captions_per_subject: int = 40
    """most accepted captions shown of a subject, and as many refused ones"""
    images_per_class: int = 8
    """most images of a class"""
    max_images: int = 700
    """most images in all, in equal shares"""
    thumbnail_side: int = 128
    """longest side of the images, in pixels"""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")


def write_review(store: Path, sources: Sequence[Path], out: Path, config: ReviewConfig | None = None) -> None:
    """Write the review of a caption store to `out`, one HTML file that needs nothing else.

    Args:
        store: the caption store.
        sources: folders of the spools and shard sets that it was made for: their classes, counts and images.
        out: the file to write.
        config: how much to show.

    Raises:
        ConfigError: no sources.
        DataError: no caption store, or a source that is neither a spool nor a set.
    """
    if not sources:
        raise ConfigError("no sources: got none; allowed: folders of spools and shard sets; give those captioned")
    with CaptionStore.open(store, "read") as opened:
        page = render_review(opened, sources, config or ReviewConfig())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def render_review(store: CaptionStore, sources: Sequence[Path], config: ReviewConfig) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pools = read_pools(store, sources, config.images_per_class)
    ranked = sorted(pools.classes.values(), key=lambda pool: (-pool.samples, pool.name))
    classes = [pool for pool in ranked if pool.subjects]
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = _Shown(store, pools, config, len(classes))
    return environment.get_template(TEMPLATE).render(
        name=store.path.name,
        digest=store.digest(),
        sources=[path.resolve().name for path in sources],
        counts=store.counts(),
        reasons=_ranked(pools.reasons),
        pools=pools,
        standings=_standings(pools.subjects.values()),
        captioners=[
            {"captioned": captioned, "errors": _ranked(captioned.errors)[:_MOST_ERRORS]}
            for _, captioned in sorted(pools.captioned.items())
        ],
        classes=[shown.of_class(pool) for pool in tqdm(classes, "classes", delay=2)],
        without=shown.left_out,
        others=[pool for pool in ranked if not pool.subjects],
        modalities=sorted({modality for pool in classes for modality in pool.modalities}),
        bin_tokens=BIN_TOKENS,
        measured=MEASURED,
    )


def anchor(name: ClassName) -> str:
    """Return the id that a class has on the page, the same on every page: task.class, and a digest where need be."""
    plain = f"{name.task or 'modality'}.{name.class_id}"
    if _PLAIN_ANCHOR.fullmatch(plain):
        return plain
    return f"{'_'.join(_PLAIN_ANCHOR.findall(plain))}-{sha256(plain.encode()).hexdigest()[:8]}"


class _Shown:
    """What the page shows of each class, within the limits, and a count of what it leaves out."""

    def __init__(self, store: CaptionStore, pools: Pools, config: ReviewConfig, num_classes: int) -> None:
        self._store, self._pools, self._config = store, pools, config
        self._most_subjects = min(config.subjects_per_class, max(1, config.max_subjects // max(1, num_classes)))
        self._most_images = min(config.images_per_class, max(1, config.max_images // max(1, num_classes)))
        self._images_left = config.max_images
        self._requests = sorted(pools.captioned)
        self.left_out = {"subjects": 0, "captions": 0}

    def of_class(self, pool: ClassPool) -> dict[str, Any]:
        """Return what the template shows of a class."""
        subjects = [self._pools.subjects[subject] for subject in pool.subjects]
        chosen = self._choose(pool, subjects)
        self.left_out["subjects"] += len(subjects) - len(chosen)
        accepted, refused = list(pool.accepted_texts), list(pool.refused_texts)
        pictures = pool.pictures[: min(self._most_images, self._images_left)]
        self._images_left -= len(pictures)
        return {
            "pool": pool,
            "anchor": anchor(pool.name),
            "standings": _standings(subjects),
            "reasons": _ranked(pool.reasons),
            "diversity": measure_diversity(accepted),
            "lengths": list(zip(length_histogram(accepted), length_histogram(refused), strict=True)),
            "pictures": [thumbnail(picture.read(), self._config.thumbnail_side) for picture in pictures],
            "subjects": [self._of_subject(subject, pool) for subject in chosen],
            "subjects_left_out": len(subjects) - len(chosen),
        }

    def _choose(self, pool: ClassPool, subjects: Sequence[SubjectPool]) -> list[SubjectPool]:
        """Return the subjects of most samples; up to a third of them may be failed ones that would not be among them.

        Subjects that nobody was asked about come last: there is nothing to read of them.
        """
        ranked = sorted(subjects, key=lambda each: (each.standing == "pending", -pool.subjects[each.id], each.id))
        failed = [each.id for each in ranked if each.standing == "failed"][: self._most_subjects // 3]
        rest = [each.id for each in ranked if each.id not in failed][: self._most_subjects - len(failed)]
        chosen = {*failed, *rest}
        return [each for each in ranked if each.id in chosen]

    def _of_subject(self, subject: SubjectPool, pool: ClassPool) -> dict[str, Any]:
        found = [
            self._store.outcome(Request(subject=subject.id, captioner=name, prompt=prompt))
            for name, prompt in self._requests
        ]
        outcomes = [outcome for outcome in found if outcome is not None]
        texts = [(outcome, text) for outcome in outcomes for text in outcome.texts]
        accepted = [self._of_text(*each) for each in texts if not each[1].reasons]
        refused = [self._of_text(*each) for each in texts if each[1].reasons]
        most = self._config.captions_per_subject
        self.left_out["captions"] += max(0, len(accepted) - most) + max(0, len(refused) - most)
        is_image = subject.id.startswith("image:")
        return {
            "subject": subject,
            "samples": pool.subjects[subject.id],
            "native": _cut(subject.native, _LONGEST_TEXT) if subject.native else "",
            "picture": thumbnail(subject.picture.read(), self._config.thumbnail_side) if is_image else None,
            "absent": [finding.name for finding in subject.facts.absent[:_MOST_ABSENT]],
            "absent_left_out": max(0, len(subject.facts.absent) - _MOST_ABSENT),
            "codes": sorted({code for _, text in texts for code in codes_of(text)}),
            "accepted": accepted[:most],
            "refused": refused[:most],
            "num_accepted": len(accepted),
            "num_refused": len(refused),
            "errors": [_cut(error, _LONGEST_DETAIL) for error in _errors(outcomes)],
        }

    def _of_text(self, outcome: Outcome, text: Attempt) -> dict[str, Any]:
        reasons = [reason.partition(":")[::2] for reason in text.reasons]
        request = outcome.request
        return {
            "text": _cut(text.text, _LONGEST_TEXT),
            "tokens": count_tokens(text.text),
            "attempt": text.attempt,
            "captioner": f"{request.captioner} ({request.prompt})" if len(self._requests) > 1 else "",
            "reasons": [(code, _cut(detail.strip(), _LONGEST_DETAIL)) for code, detail in reasons],
        }


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _errors(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.error for outcome in outcomes if outcome.error))


def _standings(subjects: Iterable[SubjectPool]) -> dict[str, int]:
    counts = {"done": 0, "failed": 0, "pending": 0}
    for subject in subjects:
        counts[subject.standing] += 1
    return counts


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} … ({len(text):,} characters)"
