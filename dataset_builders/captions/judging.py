"""The guard over a subject's texts, in the order in which they came; and over a store's when the rules have changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from clipmed.errors import DataError
from dataset_builders.captions.captioner import WordsCaptioner
from dataset_builders.captions.guard import Guard, GuardCode, GuardConfig, Refusal
from dataset_builders.captions.subjects import About, Subject, read_subjects
from shards.caption_store import Attempt, CaptionStore, Outcome


def refusals_of(guard: Guard, subject: Subject, text: str, accepted: Sequence[str]) -> tuple[str, ...]:
    """Return why a text is refused, each reason as `code: detail`; none if it may be kept beside the accepted ones."""
    if subject.native is None:
        found = guard.check(text, subject.facts, accepted)
    else:
        found = guard.check_rewrite(text, subject.native)
        if text.casefold() in map(str.casefold, accepted):
            found = (*found, Refusal(GuardCode.DUPLICATE, "the same as an accepted rewrite"))
    return tuple(f"{refusal.code}: {refusal.detail}" for refusal in found)


def recheck(path: Path, sources: Sequence[Path], config: GuardConfig) -> dict[str, int]:
    """Judge every text of a store anew, by the guard as it is now; nothing is asked.

    Args:
        path: the caption store.
        sources: the spools and shard sets that it was made for, whose vocabulary names the classes.
        config: what a caption must be.

    Returns:
        Counts: texts; refused_now and accepted_now, whose verdict has changed; done and failed subjects after it;
        and subjects_unknown, which no source holds, left as they are.

    Raises:
        DataError: no such store, or sources that share no subject with it.
    """
    guard = Guard(config)
    counts: Counter[str] = Counter(dict.fromkeys(("texts", "refused_now", "accepted_now", "done", "failed"), 0))
    with CaptionStore.open(path, "write") as store:
        outcomes = [found for found in store.outcomes() if found.request.captioner != WordsCaptioner.name]
        subjects = _subjects({outcome.request.subject.partition(":")[0] for outcome in outcomes}, sources)
        counts["subjects_unknown"] = sum(outcome.request.subject not in subjects for outcome in outcomes)
        if outcomes and counts["subjects_unknown"] == len(outcomes):
            raise DataError(f"{path} holds captions of none of these sources; give those that it was made for")
        for outcome in outcomes:
            if subject := subjects.get(outcome.request.subject):
                judged = _judged(guard, subject, outcome, counts)
                store.rejudge(judged)
                counts[judged.state] += 1
    return dict(counts)


def _subjects(kinds: Iterable[str], sources: Sequence[Path]) -> dict[str, Subject]:
    about: dict[str, About] = {"facts": "facts", "image": "image", "text": "text"}
    return {subject.id: subject for kind in sorted(kinds) for subject in read_subjects(sources, about[kind])}


def _judged(guard: Guard, subject: Subject, outcome: Outcome, counts: Counter[str]) -> Outcome:
    accepted: list[str] = []
    texts: list[Attempt] = []
    for attempt in outcome.texts:
        reasons = refusals_of(guard, subject, attempt.text, accepted)
        if not reasons:
            accepted.append(attempt.text)
        if bool(reasons) != bool(attempt.reasons):
            counts["refused_now" if reasons else "accepted_now"] += 1
        texts.append(replace(attempt, reasons=reasons))
    counts["texts"] += len(texts)
    return replace(outcome, texts=tuple(texts), state="done" if accepted else "failed")
