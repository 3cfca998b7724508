"""The captioning engine: subjects of spools to a captioner, its answers to the guard, the outcome to the caption store.

A subject is done when captions of it were accepted, failed when every try was refused, and pending until then. Done and
failed are recorded, each in one transaction, and are not asked again. A question that the endpoint did not answer is
recorded nowhere: its subject stays pending, and the next run asks it. Templates serve whatever is not done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from clipmed.errors import ConfigError
from dataset_builders.captions.bank import load_bank
from dataset_builders.captions.captioner import (
    CaptionAnswer,
    Captioner,
    CaptionRequest,
    TemplateCaptioner,
    WordsCaptioner,
)
from dataset_builders.captions.endpoint import EndpointDownError, EndpointError, QuestionRefusedError
from dataset_builders.captions.guard import Guard, GuardConfig
from dataset_builders.captions.judging import refusals_of
from dataset_builders.captions.llm import LlmCaptionConfig, LlmCaptioner
from dataset_builders.captions.pricing import Budget, BudgetConfig, Prices, Spent
from dataset_builders.captions.prompts import SHIPPED
from dataset_builders.captions.subjects import About, Subject, read_subjects
from shards.caption_store import Attempt, CaptionStore, Outcome, Request

Ending = Literal["complete", "budget", "endpoint"]
_MOST_REASONS = 6  # told to the model when it is asked again
_READY = 2  # workers for each question under way: while one answer is judged, another question is out


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeConfig:
    """Which captions are made, by whom, and when it is enough."""

    about: About = "facts"
    """facts: the distinct facts of labelled images. image: every image, seen by the model. text: native captions, made
    cleaner and shorter"""
    captioner: Literal["llm", "templates", "words"] = "llm"
    """llm: a language model. templates: a bank. words: the label's words alone, which the guard does not judge"""
    bank: str = "general"
    """template bank: a shipped name or the path of a YAML file"""
    llm: LlmCaptionConfig = field(default_factory=LlmCaptionConfig)
    """the language model"""
    captions: int = 8
    """accepted captions wanted of each subject"""
    tries: int = 3
    """questions about one subject; the later ones say what was refused, and ask for what is missing"""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """what a caption must be"""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """limits of the run"""
    prices: Prices = field(default_factory=Prices)
    """what tokens cost"""
    retry_failed: bool = False
    """ask again about subjects all of whose captions were refused"""

    def __post_init__(self) -> None:
        if min(self.captions, self.tries) < 1:
            raise ConfigError(f"captions={self.captions}, tries={self.tries}; allowed: 1 or more")
        if self.about != "facts" and self.captioner != "llm":
            raise ConfigError(
                f"captioner {self.captioner!r} with about {self.about!r}; allowed: captioner 'llm', or about 'facts'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeReport:
    """What became of the subjects: subjects = done + failed + pending; the rest counts this run alone."""

    subjects: int
    done: int
    failed: int
    pending: int
    samples: int
    """samples that the subjects stand for"""
    samples_without: int
    """of these, the samples of subjects that are not done: templates or native captions serve them"""
    asked: int
    """subjects settled in this run"""
    accepted: int
    refused: dict[str, int]
    """refused captions by reason; one caption may have several"""
    answers_without_captions: int
    spent: Spent
    cost: float
    failures: dict[str, int]
    """tries that failed at the endpoint, by what happened"""
    ending: Ending
    message: str
    """why the run ended early"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A text that came, in which attempt, and why it was refused: reasons as code: detail, none if it was accepted."""

    text: str
    attempt: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """All texts that came for a subject, what they cost, and what else went wrong."""

    texts: tuple[Judged, ...]
    spent: Spent
    error: str

    @property
    def is_done(self) -> bool:
        """Whether at least one text was accepted."""
        return any(not judged.reasons for judged in self.texts)


class _BudgetSpentError(Exception):
    pass


def open_captioner(config: MakeConfig) -> Captioner:
    """Return the captioner that the config names.

    Raises:
        ConfigError: no such bank or prompt, or no model named.
    """
    if config.captioner == "words":
        return WordsCaptioner()
    if config.captioner == "templates":
        return TemplateCaptioner(load_bank(config.bank))
    prompt = config.llm.prompt or SHIPPED[config.about]
    captioner = LlmCaptioner(replace(config.llm, prompt=prompt), config.guard.max_tokens)
    if captioner.about != config.about:
        raise ConfigError(f"llm.prompt {prompt!r} is for {captioner.about!r}; allowed here: one for {config.about!r}")
    return captioner


def read_states(captioner: Captioner, subjects: Sequence[Subject], store: CaptionStore) -> dict[str, str]:
    """Return done, failed or pending for each subject, by its id."""
    return {subject.id: store.state(request_for(captioner, subject)) or "pending" for subject in subjects}


def request_for(captioner: Captioner, subject: Subject) -> Request:
    """Return the key under which the store keeps what a captioner made for a subject."""
    return Request(subject=subject.id, captioner=captioner.name, prompt=captioner.prompt)


def still_wanted(states: Mapping[str, str], subjects: Sequence[Subject], *, retry_failed: bool) -> list[Subject]:
    """Return the subjects that a run asks about."""
    over = {"done"} if retry_failed else {"done", "failed"}
    return [subject for subject in subjects if states[subject.id] not in over]


def make_captions(config: MakeConfig, sources: Sequence[Path], path: Path, *, progress: bool = True) -> MakeReport:
    """Make captions for the subjects of spools and shard sets that the store has none of yet.

    Interrupt or kill it whenever you like: what was recorded stays, and the next run goes on with the rest. With an
    endpoint that heeds seeds, and one captioner, the content of the store does not depend on how often it was.

    Args:
        config: which captions.
        sources: folders of finished spools and of shard sets.
        path: the caption store, made if it is not there.
        progress: show a bar on standard error.

    Raises:
        ClipmedError: the sources, the store or the config cannot be used. A failing endpoint raises nothing: see
            `MakeReport.ending`.
    """
    subjects = read_subjects(sources, config.about)
    return asyncio.run(_make(config, subjects, path, progress))


async def _make(config: MakeConfig, subjects: list[Subject], path: Path, progress: bool) -> MakeReport:
    captioner = open_captioner(config)
    try:
        with CaptionStore.open(path, "write") as store:
            run = _Run(config, captioner, store)
            if captioner.guarded:
                run.guard.prepare()
            await run.settle_all(subjects, progress)
            return run.report(subjects)
    finally:
        await captioner.close()


class _Run:
    """One run of the engine over one store."""

    def __init__(self, config: MakeConfig, captioner: Captioner, store: CaptionStore) -> None:
        self._config = config
        self._captioner = captioner
        self._store = store
        self.guard = Guard(config.guard)
        self._budget = Budget(config.budget, config.prices)
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._ending: Ending = "complete"
        self._message = ""

    async def settle_all(self, subjects: Sequence[Subject], progress: bool) -> None:
        """Settle all subjects that the store does not hold, until the budget or the endpoint ends it."""
        states = read_states(self._captioner, subjects, self._store)
        left = still_wanted(states, subjects, retry_failed=self._config.retry_failed)
        workers = min(len(left), self._config.llm.endpoint.concurrency * _READY)
        bar = tqdm(total=len(left), desc="captions", unit="subject", disable=not progress)
        # One thread writes: outcomes are counted one at a time, and the last write has ended when the block ends.
        with bar, ThreadPoolExecutor(1) as writer:
            shared = iter(left)
            tasks = [asyncio.create_task(self._work(shared, writer, bar)) for _ in range(workers)]
            try:
                for task in asyncio.as_completed(tasks):
                    await task
            except EndpointDownError as error:
                self._end("endpoint", str(error))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, subjects: Iterator[Subject], writer: Executor, bar: tqdm[Any]) -> None:
        for subject in subjects:
            try:
                settled = await self._settle(subject)
            except _BudgetSpentError:
                self._end("budget", "the budget has no room for another question")
                return
            except EndpointDownError:
                raise
            except EndpointError as error:
                self._end("endpoint", str(error))
                continue
            await asyncio.get_running_loop().run_in_executor(writer, self._record, subject, settled)
            bar.set_postfix_str(self._accepted_share(), refresh=False)
            bar.update()

    async def _settle(self, subject: Subject) -> Settled:
        """Ask about a subject until enough captions are accepted or the tries are used up."""
        config = self._config
        texts: list[Judged] = []
        spent, error = Spent(), ""
        refused: tuple[str, ...] = ()
        tries = config.tries if config.captioner == "llm" else 1
        for attempt in range(1, tries + 1):
            accepted = [judged.text for judged in texts if not judged.reasons]
            request = CaptionRequest(
                subject=subject.id,
                facts=subject.facts,
                number=config.captions - len(accepted),
                attempt=attempt,
                refused=refused,
                native=subject.native,
                read_image=subject.read_image,
            )
            try:
                answer = await self._ask(request)
            except QuestionRefusedError as refusal:
                error = str(refusal)
                break
            spent += Spent(1, answer.tokens_in, answer.tokens_out)
            judged = await asyncio.to_thread(self._judge, subject, answer, accepted, attempt)
            texts += judged
            error = answer.problem
            refused = tuple(dict.fromkeys(reason for each in judged for reason in each.reasons))[:_MOST_REASONS]
            if sum(not each.reasons for each in texts) >= config.captions:
                break
        return Settled(tuple(texts), spent, error)

    async def _ask(self, request: CaptionRequest) -> CaptionAnswer:
        """Ask within the budget."""
        most, spent = self._captioner.most(request), Spent(1)
        if not await self._budget.reserve(most):
            raise _BudgetSpentError
        try:
            answer = await self._captioner.captions(request)
            spent = Spent(1, answer.tokens_in, answer.tokens_out)
            return answer
        finally:
            await self._budget.settle(most, spent)

    def _judge(self, subject: Subject, answer: CaptionAnswer, accepted: Sequence[str], attempt: int) -> list[Judged]:
        kept = list(accepted)
        judged = []
        for text in answer.texts:
            reasons = refusals_of(self.guard, subject, text, kept) if self._captioner.guarded else ()
            judged.append(Judged(text, attempt, reasons))
            if not reasons:
                kept.append(text)
        return judged

    def _record(self, subject: Subject, settled: Settled) -> None:
        """Write the outcome; a failure that is asked again is replaced by what comes of it."""
        accepted = sum(not judged.reasons for judged in settled.texts)
        request = request_for(self._captioner, subject)
        outcome = Outcome(
            request=request,
            state="done" if accepted else "failed",
            texts=tuple(Attempt(attempt=each.attempt, text=each.text, reasons=each.reasons) for each in settled.texts),
            tokens_in=settled.spent.tokens_in,
            tokens_out=settled.spent.tokens_out,
            error=settled.error,
        )
        self._store.record(outcome, subject.content)
        self._counts.update(
            asked=1, accepted=accepted, refused=len(settled.texts) - accepted, silent=bool(settled.error)
        )
        self._refused.update(reason.split(":", 1)[0] for judged in settled.texts for reason in judged.reasons)

    def _end(self, ending: Ending, message: str) -> None:
        if self._ending == "complete":
            self._ending, self._message = ending, message

    def _accepted_share(self) -> str:
        refused = self._counts["refused"]
        total = self._counts["accepted"] + refused
        return f"{self._counts['accepted'] / total:.0%} accepted" if total else ""

    def report(self, subjects: Sequence[Subject]) -> MakeReport:
        """Return what became of the subjects."""
        states = read_states(self._captioner, subjects, self._store)
        counted = Counter(states.values())
        samples = sum(subject.num_samples for subject in subjects)
        served = sum(subject.num_samples for subject in subjects if states[subject.id] == "done")
        endpoint = getattr(self._captioner, "endpoint", None)
        return MakeReport(
            subjects=len(subjects),
            done=counted["done"],
            failed=counted["failed"],
            pending=counted["pending"],
            samples=samples,
            samples_without=samples - served,
            asked=self._counts["asked"],
            accepted=self._counts["accepted"],
            refused=dict(self._refused.most_common()),
            answers_without_captions=self._counts["silent"],
            spent=self._budget.spent,
            cost=self._budget.cost,
            failures=dict(endpoint.failures) if endpoint else {},
            ending=self._ending,
            message=self._message,
        )
