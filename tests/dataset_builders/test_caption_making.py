"""The engine: what is asked, judged, recorded and not asked again, with endpoints that work and with broken ones."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, DataError
from dataset_builders.captions.commands import run
from dataset_builders.captions.making import MakeConfig, MakeReport, make_captions
from dataset_builders.captions.planning import plan_captions
from dataset_builders.captions.subjects import read_subjects
from shards.caption_store import CaptionStore
from tests.dataset_builders.caption_spools import CLASSES, TASKS, facts_of, sample, write
from tests.dataset_builders.llm_server import Answer, Body, captions, llm_server

SUBSETS = [
    subset for size in range(1, len(CLASSES) + 1) for subset in itertools.combinations(CLASSES, size)
]  # 31 of them
SENTENCES = ("MRI of the brain with {}.", "Brain MRI showing {}.", "On this MRI scan of the brain, {} can be seen.")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool of 34 samples with 31 distinct facts, and one without any."""
    known = [facts_of(*subset) for subset in [*SUBSETS, *SUBSETS[:3]]]
    return write(tmp_path / "spool", [sample(n, facts) for n, facts in enumerate([*known, None])])


def good(body: Body, _: int = 0) -> Answer:
    """Answer as a model that heeds its seed: the same words to the same question."""
    question = str(body["messages"][-1]["content"])
    found = [name.split(" (")[0] for name in re.findall(r"Must state: (.*)", question)]
    words = f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else found[0]
    return captions(SENTENCES[body["seed"] % len(SENTENCES)].format(words))


def config(url: str, **changes: Any) -> MakeConfig:
    endpoint = {"url": url, "model": "tiny-llm", "backoff_s": 0.01, "timeout_s": 5.0, "down_after": 5, "retries": 2}
    endpoint |= changes.pop("endpoint", {})
    return from_dict(MakeConfig, {"llm": {"endpoint": endpoint}, "captions": 1, "tries": 2, **changes}, "test")


def make(url: str, spool: Path, store: Path, **changes: Any) -> MakeReport:
    report = make_captions(config(url, **changes), [spool], store, progress=False)
    assert report.subjects == report.done + report.failed + report.pending
    return report


def content(store: Path) -> str:
    with CaptionStore.open(store, "read") as opened:
        return opened.digest()


@pytest.fixture
def reference(spool: Path, tmp_path: Path) -> str:
    """The content of a store made in one go by an endpoint without trouble."""
    with llm_server(good) as served:
        make(served.url, spool, tmp_path / "reference.sqlite")
    return content(tmp_path / "reference.sqlite")


def test_distinct_facts_are_asked_once_and_not_again(spool: Path, tmp_path: Path):
    with llm_server(good) as served:
        first = make(served.url, spool, tmp_path / "s.sqlite")
        asked = len(served.bodies)
        second = make(served.url, spool, tmp_path / "s.sqlite")
    assert (first.subjects, first.done, first.asked, first.accepted) == (31, 31, 31, 31)
    assert (first.samples, first.samples_without) == (34, 0)
    assert (first.spent.requests, first.spent.tokens_in, first.spent.tokens_out) == (31, 3100, 1550)
    assert asked == len(served.bodies) == 31
    assert (second.done, second.asked, second.ending) == (31, 0, "complete")


def test_what_most_samples_share_is_asked_first(spool: Path, tmp_path: Path):
    with llm_server(good) as served:
        make(served.url, spool, tmp_path / "s.sqlite", endpoint={"concurrency": 1}, budget={"max_requests": 3})
    asked = [tuple(re.findall(r"Must state: (.*)", question)) for question in served.questions]
    assert sorted(asked) == [("a cyst",), ("a glioma",), ("edema",)]


def test_refusals_are_told_to_the_model_and_what_stays_bad_is_failed_for_good(spool: Path, tmp_path: Path):
    def stubborn(body: Body, number: int) -> Answer:
        question = str(body["messages"][-1]["content"])
        if "Must state: a glioma\n\n" in question or question.count("Must state") > 1:
            return captions("MRI of the brain with nothing of interest.")
        return good(body) if "refused, because" in question else captions("MRI of the brain with a 5 mm thing.")

    with llm_server(stubborn) as served:
        first = make(served.url, spool, tmp_path / "s.sqlite")
        asked = len(served.bodies)
        second = make(served.url, spool, tmp_path / "s.sqlite")
        assert len(served.bodies) == asked
        third = make(served.url, spool, tmp_path / "s.sqlite", retry_failed=True)
    assert (first.done, first.failed) == (4, 27)
    assert first.samples_without == 28  # one of the 27 has two samples
    assert first.refused["finding_missing"] >= 27 * 2
    assert asked == 31 * 2
    assert (second.asked, second.failed) == (0, 27)
    assert (third.asked, third.failed, third.done) == (27, 27, 4)
    assert any("measurement" in question for question in served.questions)


def test_a_later_try_asks_only_for_what_is_missing(spool: Path, tmp_path: Path):
    def half(body: Body, _: int) -> Answer:
        question = str(body["messages"][-1]["content"])
        one = json.loads(str(good(body).content))["captions"][0]
        return captions(one, "MRI of the brain.") if "Write 2 captions" in question else captions("MRI of the brain.")

    with llm_server(half) as served:
        report = make(served.url, spool, tmp_path / "s.sqlite", captions=2, tries=3)
    assert (report.done, report.failed, report.accepted) == (31, 0, 31)
    assert sum("Write 2 captions" in question for question in served.questions) == 31
    assert sum("Write 1 captions" in question for question in served.questions) == 62


TROUBLES = {
    "stall": Answer(content="late", wait_s=3.0),
    "garbage": Answer(raw=b"\x00\xff\xfe garbage"),
    "html": Answer(raw=b"<html>504 Gateway Time-out</html>"),
    "half_json": Answer(raw=b'{"choices": [{"message": {"content": "{\\"cap'),
    "busy": Answer(status=429, raw=b"", headers={"Retry-After": "0.01"}),
    "error": Answer(status=500, raw=b"oops"),
    "hang_up": Answer(hang_up=True),
    "cut": Answer(content="x", cut=True),
    "protocol": Answer(raw=b'{"captions": ["MRI of the brain."]}'),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_an_endpoint_that_breaks_ends_the_run_tidily_and_the_next_goes_on(
    name: str, spool: Path, tmp_path: Path, reference: str
):
    store = tmp_path / "s.sqlite"
    settings: dict[str, Any] = {"endpoint": {"timeout_s": 0.3, "concurrency": 2, "down_after": 4}}
    with llm_server(lambda body, number: good(body) if number < 7 else TROUBLES[name]) as served:
        broken = make(served.url, spool, store, **settings)
    assert broken.ending == "endpoint"
    assert 4 <= broken.done <= 7
    assert broken.pending == 31 - broken.done
    assert broken.failed == 0
    assert broken.samples_without >= broken.pending
    assert served.url in broken.message
    assert len(served.bodies) < 40
    with llm_server(good) as served:
        mended = make(served.url, spool, store)
    assert (mended.done, mended.asked, mended.ending) == (31, 31 - broken.done, "complete")
    assert len(served.bodies) == 31 - broken.done
    assert content(store) == reference


def test_troubles_that_pass_leave_no_trace(spool: Path, tmp_path: Path, reference: str):
    troubles = [trouble for name, trouble in TROUBLES.items() if name != "stall"]

    def shaky(body: Body, number: int) -> Answer:
        return good(body) if number % 3 else troubles[number // 3 % len(troubles)]

    with llm_server(shaky) as served:
        report = make(served.url, spool, tmp_path / "s.sqlite", endpoint={"retries": 12, "down_after": 10})
    assert (report.done, report.ending) == (31, "complete")
    assert sum(report.failures.values()) >= 15
    assert content(tmp_path / "s.sqlite") == reference


def test_answers_that_are_no_captions_fail_the_subject_and_are_not_asked_again(spool: Path, tmp_path: Path):
    with llm_server(lambda *_: Answer(content='{"captions": ["half')) as served:
        first = make(served.url, spool, tmp_path / "s.sqlite")
        second = make(served.url, spool, tmp_path / "s.sqlite")
    assert (first.failed, first.answers_without_captions, second.asked) == (31, 31, 0)
    assert len(served.bodies) == 62


def test_a_question_that_is_too_long_for_the_model_fails_its_subject_alone(spool: Path, tmp_path: Path):
    def script(body: Body, _: int) -> Answer:
        too_long = str(body["messages"][-1]["content"]).count("Must state") > 4
        return Answer(status=400, raw=b'{"error": "too many tokens"}') if too_long else good(body)

    with llm_server(script) as served:
        report = make(served.url, spool, tmp_path / "s.sqlite")
    assert (report.done, report.failed, report.ending) == (30, 1, "complete")


@pytest.mark.parametrize(
    ("budget", "most"),
    [({"max_requests": 10}, 10), ({"max_tokens": 3_000}, 20), ({"max_cost": 0.01}, 25)],
)
def test_a_spent_budget_ends_the_run_and_the_next_goes_on(
    budget: dict[str, Any], most: int, spool: Path, tmp_path: Path, reference: str
):
    prices = {"input": 1.0, "output": 10.0}
    with llm_server(good) as served:
        first = make(served.url, spool, tmp_path / "s.sqlite", budget=budget, prices=prices)
        assert first.ending == "budget"
        assert 0 < first.done <= most
        assert len(served.bodies) == first.done
        assert first.spent.tokens_in + first.spent.tokens_out <= budget.get("max_tokens", 10**9)
        assert first.cost <= budget.get("max_cost", 10**9)
        make(served.url, spool, tmp_path / "s.sqlite")
    assert content(tmp_path / "s.sqlite") == reference


def test_killed_at_any_moment_it_goes_on_where_it_was(spool: Path, tmp_path: Path, reference: str):
    store = tmp_path / "s.sqlite"

    def slow(body: Body, _: int) -> Answer:
        time.sleep(0.05)
        return good(body)

    with llm_server(slow) as served:
        words = [str(spool), "--store", str(store), "--captions", "1", "--tries", "2", "--llm.endpoint.url", served.url]
        words += ["--llm.endpoint.model", "tiny-llm", "--llm.endpoint.concurrency", "2"]
        program = f"from dataset_builders.captions.commands import run; run(['make', *{words!r}])"
        child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        until(lambda: len(served.bodies) >= 12 or child.poll() is not None)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        before = len(served.bodies)
        report = make(served.url, spool, store)
    assert before < 31
    assert report.done == 31
    assert report.asked <= 31 - (before - 4)  # what was under way or not yet recorded at the end is asked again
    assert len(served.bodies) - before == report.asked
    assert content(store) == reference


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_images_are_described_one_by_one_and_native_texts_rewritten(tmp_path: Path):
    long = "Figure 3. (A) MRI of the brain shows a glioma [12]. Courtesy of A. Nonymous."
    spool = write(
        tmp_path / "spool", [sample(0, facts_of("glioma")), sample(1, facts_of("glioma")), sample(2, None, long)]
    )
    with llm_server(good) as served:
        images = make_captions(
            config(served.url, about="image", tries=1), [spool], tmp_path / "i.sqlite", progress=False
        )
    assert images.subjects == 3
    assert all("data:image/jpeg;base64," in question for question in served.questions)
    with llm_server(lambda *_: captions("MRI of the brain shows a glioma.", "The left brain.")) as served:
        texts = make(served.url, spool, tmp_path / "t.sqlite", about="text", captions=2, tries=1)
    assert (texts.subjects, texts.done, texts.accepted) == (1, 1, 1)
    assert long in served.questions[0]


def test_templates_and_words_need_no_endpoint(spool: Path, tmp_path: Path):
    for captioner, most in (("templates", 3), ("words", 1)):
        made = make_captions(
            MakeConfig(captioner=captioner, captions=3), [spool], tmp_path / f"{captioner}.sqlite", progress=False
        )
        assert (made.done, made.failed) == (31, 0)
        assert 31 <= made.accepted <= 31 * most
    with pytest.raises(ConfigError, match="about 'facts'"):
        MakeConfig(captioner="words", about="text")


def test_two_sources_that_name_the_same_facts_differently_are_refused(spool: Path, tmp_path: Path):
    classes = CLASSES | {"glioma": "a tumor of glial cells"}
    other = write(
        tmp_path / "other", [sample(50, facts_of("glioma"))], {"brain": TASKS["brain"] | {"classes": classes}}
    )
    with pytest.raises(DataError, match="other names"):
        read_subjects([spool, other], "facts")
    with pytest.raises(DataError, match="no sample of 1 folders has a native caption"):
        read_subjects([other], "text")


def test_a_plan_counts_and_asks_nothing(spool: Path, tmp_path: Path):
    with llm_server(good) as served:
        make(served.url, spool, tmp_path / "s.sqlite", budget={"max_requests": 10})
        asked = len(served.bodies)
        plan = plan_captions(config(served.url, prices={"input": 1.0}), [spool], tmp_path / "s.sqlite", 2.0)
        assert len(served.bodies) == asked
    assert (plan.subjects, plan.done, plan.pending) == (31, 10, 21)
    assert plan.requests == (21, 42)
    assert plan.seconds == (10.5, 21.0)
    assert 300 < plan.tokens_in[0] / 21 < 1500
    assert plan.cost[0] == pytest.approx(plan.tokens_in[0] / 1e6)
    assert "Must state" in plan.example[-1]["content"]


def test_the_command_line_tells_how_it_ended(spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = tmp_path / "s.sqlite"
    with llm_server(lambda body, number: good(body) if number < 5 else Answer(status=401, raw=b"no")) as served:
        words = [str(spool), "--store", str(store), "--captions", "1", "--llm.endpoint.model", "m"]
        words += ["--llm.endpoint.url", served.url, "--llm.endpoint.concurrency", "1"]
        assert run(["make", *words]) == 3
    found = capsys.readouterr()
    assert "26 subjects are left to templates" in found.out
    assert "status 401" in found.err
    with llm_server(good) as served:
        words[-3] = served.url
        assert run(["make", *words, "--budget.max-requests", "5"]) == 4
        assert run(["make", *words]) == 0
    assert "shards pack" in capsys.readouterr().out
    assert run(["plan", *words[:-2], "--captioner", "words"]) == 0


def test_check_judges_captions_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = sample(0, facts_of("glioma"), "MRI of the brain with a cyst.")
    fine = sample(1, facts_of("glioma"), "MRI of the brain with a glioma.")
    native = sample(2, None, "Not judged.")
    assert run(["check", str(write(tmp_path / "spool", [bad, fine, native]))]) == 1
    found = capsys.readouterr().out
    assert "1 of 2 refused" in found
    assert "finding_missing" in found
    lines = [{"text": "MRI of the brain with a glioma.", "facts": facts_of("glioma"), "tasks": TASKS}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert run(["check", str(tmp_path / "own.jsonl")]) == 0
    (tmp_path / "own.jsonl").write_text('{"text": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        run(["check", str(tmp_path / "own.jsonl")])
