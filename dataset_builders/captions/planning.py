"""What a captioning run would ask, need and cost, before anything is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builders.captions.captioner import Captioner, CaptionRequest
from dataset_builders.captions.llm import LlmCaptioner
from dataset_builders.captions.making import MakeConfig, open_captioner, read_states, still_wanted
from dataset_builders.captions.pricing import Spent, expected_answer_tokens
from dataset_builders.captions.subjects import Subject, read_subjects
from shards.caption_store import CaptionStore

_MEASURED = 500  # subjects, evenly spread, whose questions are worded to estimate tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An estimate. The lower figures are for a guard that accepts enough at once, the upper ones for all tries."""

    subjects: int
    samples: int
    done: int
    failed: int
    pending: int
    requests: tuple[int, int]
    tokens_in: tuple[int, int]
    tokens_out: tuple[int, int]
    cost: tuple[float, float]
    seconds: tuple[float, float]
    """at the given rate"""
    example: tuple[dict[str, Any], ...]
    """the conversation of the first question; none where no model is asked"""


def plan_captions(config: MakeConfig, sources: Sequence[Path], path: Path | None, requests_per_s: float) -> Plan:
    """Estimate a run of `make_captions`; nothing is asked and nothing written.

    Args:
        config: which captions.
        sources: folders of finished spools and of shard sets.
        path: the caption store; it need not be there.
        requests_per_s: answers that the endpoint gives a second.

    Raises:
        ClipmedError: the sources, the store or the config cannot be used.
    """
    captioner = open_captioner(config)
    subjects = read_subjects(sources, config.about)
    states = {subject.id: "pending" for subject in subjects}
    if path is not None and path.exists():
        with CaptionStore.open(path, "read") as store:
            states = read_states(captioner, subjects, store)
    counted = Counter(states.values())
    left = still_wanted(states, subjects, retry_failed=config.retry_failed)
    one = _one_request(config, captioner, left)
    requests = (len(left), len(left) * (config.tries if config.captioner == "llm" else 1))
    tokens_in = tuple(number * one.tokens_in for number in requests)
    tokens_out = tuple(number * one.tokens_out for number in requests)
    example: tuple[dict[str, Any], ...] = ()
    if isinstance(captioner, LlmCaptioner) and left:
        example = tuple(captioner.messages(first_request(config, left[0])))
    return Plan(
        subjects=len(subjects),
        samples=sum(subject.num_samples for subject in subjects),
        done=counted["done"],
        failed=counted["failed"],
        pending=counted["pending"],
        requests=requests,
        tokens_in=(tokens_in[0], tokens_in[1]),
        tokens_out=(tokens_out[0], tokens_out[1]),
        cost=(config.prices.cost(tokens_in[0], tokens_out[0]), config.prices.cost(tokens_in[1], tokens_out[1])),
        seconds=(requests[0] / requests_per_s, requests[1] / requests_per_s),
        example=example,
    )


def first_request(config: MakeConfig, subject: Subject) -> CaptionRequest:
    """Return the first question about a subject."""
    return CaptionRequest(
        subject=subject.id,
        facts=subject.facts,
        number=config.captions,
        native=subject.native,
        read_image=subject.read_image,
    )


def _one_request(config: MakeConfig, captioner: Captioner, subjects: Sequence[Subject]) -> Spent:
    """Return what a request needs on average."""
    if not isinstance(captioner, LlmCaptioner) or not subjects:
        return Spent(1)
    measured = subjects[:: max(1, len(subjects) // _MEASURED)]
    tokens = sum(captioner.most(first_request(config, subject)).tokens_in for subject in measured)
    return Spent(1, round(tokens / len(measured)), expected_answer_tokens(config.captions))
