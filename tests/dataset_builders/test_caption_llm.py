"""The language model as captioner: what is asked, what is read from answers, and what servers in trouble do to it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipmed.errors import ConfigError
from dataset_builders.captions.bank import load_bank
from dataset_builders.captions.captioner import CaptionAnswer, CaptionRequest, TemplateCaptioner, WordsCaptioner
from dataset_builders.captions.endpoint import EndpointConfig, EndpointDownError, EndpointError, QuestionRefusedError
from dataset_builders.captions.facts import CaptionFacts, Finding
from dataset_builders.captions.llm import LlmCaptionConfig, LlmCaptioner, read_captions
from dataset_builders.captions.pricing import Budget, BudgetConfig, Prices, Spent
from dataset_builders.captions.prompts import PROMPTS, load_prompt
from tests.dataset_builders.llm_server import Answer, captions, llm_server

GLIOMA = Finding(task="tumor", class_id="glioma", name="a glioma", synonyms=("glial tumor",))
NONE = Finding(task="tumor", class_id="none", name="no tumor", is_negative=True)
EDEMA = Finding(task="other", class_id="edema", name="edema")
FACTS = CaptionFacts(
    modality="mri", body_part="brain", view="axial", present=(GLIOMA,), absent=(NONE, EDEMA), details=(("stain", "T2"),)
)
REQUEST = CaptionRequest(subject="facts:1", facts=FACTS, number=2)
QUICK: dict[str, Any] = {"timeout_s": 5.0, "backoff_s": 0.01, "retries": 4, "concurrency": 4}


def ask(url: str, requests: Sequence[CaptionRequest] = (REQUEST,), prompt: str = "facts", **settings: Any) -> list[Any]:
    """Ask all at the same time; return answers and errors, and at last the failures by kind."""
    config = LlmCaptionConfig(
        endpoint=EndpointConfig(**{"url": url, "model": "m"} | QUICK | settings), prompt=prompt, image_side=64
    )

    async def run() -> list[Any]:
        captioner = LlmCaptioner(config, 77)
        try:
            found = await asyncio.gather(*map(captioner.captions, requests), return_exceptions=True)
            return [*found, captioner.endpoint.failures]
        finally:
            await captioner.close()

    return asyncio.run(run())


def test_the_question_says_what_is_known_and_what_is_not_to_be_said():
    with llm_server(lambda *_: captions("One.", "Two.")) as served:
        answer, failures = ask(served.url)
    assert answer == CaptionAnswer(texts=("One.", "Two."), tokens_in=100, tokens_out=50)
    assert failures == {}
    (body,) = served.bodies
    assert body["messages"][0]["role"] == "system"
    question = served.questions[0]
    for line in (
        "Image type: MRI (magnetic resonance imaging)",
        "Body part: brain",
        "View: axial",
        "Must state: a glioma (also called: glial tumor)",
        "Not present, do not claim: edema",
        "May state, stain: T2",
        "Write 2 captions",
    ):
        assert line in question
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["captions"]
    assert (body["model"], body["max_tokens"] > 100) == ("m", True)


def test_the_same_question_has_the_same_seed_and_another_attempt_another():
    again = replace(REQUEST, attempt=2, refused=("side: left",))
    with llm_server(lambda *_: captions("One.")) as served:
        ask(served.url)
        ask(served.url)
        ask(served.url, [again])
    seeds = [body["seed"] for body in served.bodies]
    assert seeds[0] == seeds[1] != seeds[2]
    assert "side: left" in served.questions[2]
    assert "refused" not in served.questions[0]


def test_negative_findings_are_asked_for_as_such():
    healthy = replace(FACTS, present=(NONE,), absent=(GLIOMA,))
    question = load_prompt("facts")[0].known(healthy)
    assert "nothing was found: no tumor" in question
    assert "do not claim: a glioma" in question


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"captions": ["A.", " B\\n b. "]}', ("A.", "B b.")),
        ('```json\n{"captions": ["A."]}\n```', ("A.",)),
        ('<think>\n- maybe {"captions": ["no"]}\n</think>\n{"captions": ["A."]}', ("A.",)),
        ('Here you are: {"captions": ["A."]} Anything else?', ("A.",)),
        ('["A.", "B."]', ("A.", "B.")),
        ("Captions:\n1. A scan.\n2) “B scan.”\n- C scan.", ("A scan.", "B scan.", "C scan.")),
        ('{"captions": ["A.", 3, null, "", "\\u0000\\ud800"]}', ("A.",)),
        ('{"captions": ["A.", "B', ()),
        ('{"captions": "A."}', ()),
        ('{"texts": ["A."]}', ()),
        ("I cannot help with that.", ()),
        ("<html>1. no</html>", ()),
        ("[" * 100_000, ()),
        ("", ()),
    ],
)
def test_only_captions_are_read_from_answers(content: str, texts: tuple[str, ...]):
    assert read_captions(content) == texts


def test_an_answer_without_captions_says_so():
    with llm_server(lambda *_: Answer(content="Sorry.", usage=None)) as served:
        answer, _ = ask(served.url)
    assert answer.texts == ()
    assert "Sorry" in answer.problem
    assert answer.tokens_in > 100  # estimated, since the server counts nothing


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(status=500, raw=b"oops"),
        Answer(status=503, raw=b""),
        Answer(status=429, raw=b"", headers={"Retry-After": "0.05"}),
        Answer(raw=b"<html><body>Welcome to the proxy</body></html>"),
        Answer(raw=b'{"choices": [{"mess'),
        Answer(raw=b'{"error": "overloaded"}'),
        Answer(raw=b"[1, 2]"),
        Answer(hang_up=True),
        Answer(content="cut", cut=True),
        Answer(content="late", wait_s=5.0),
        Answer(raw=b"x" * 5_000_000),
    ],
)
def test_failures_that_pass_are_asked_again(trouble: Answer):
    with llm_server(lambda _, number: trouble if number < 2 else captions("One.")) as served:
        answer, failures = ask(served.url, timeout_s=0.5)
    assert answer.texts == ("One.",)
    assert sum(failures.values()) == 2
    assert len(served.bodies) == 3


@pytest.mark.parametrize("date", [False, True])
def test_a_busy_server_is_left_alone_by_all_for_as_long_as_it_asks(date: bool):
    moments: list[float] = []

    def script(_: Any, number: int) -> Answer:
        moments.append(time.monotonic())
        value = formatdate(time.time() + 1.6, usegmt=True) if date else "0.6"
        return Answer(status=429, raw=b"", headers={"Retry-After": value}) if number == 0 else captions("One.")

    with llm_server(script) as served:
        answers = ask(served.url, [replace(REQUEST, subject=f"facts:{number}") for number in range(5)], concurrency=1)
    assert [answer.texts for answer in answers[:-1]] == [("One.",)] * 5
    assert moments[1] - moments[0] >= 0.5


def test_a_rest_has_an_upper_limit():
    busy = Answer(status=429, raw=b"", headers={"Retry-After": "86400"})
    with llm_server(lambda _, number: busy if number == 0 else captions("One.")) as served:
        answer, _ = ask(served.url, max_rest_s=0.1)
    assert answer.texts == ("One.",)


def test_a_server_that_goes_on_failing_is_called_down_and_left_alone():
    with llm_server(lambda *_: Answer(status=500, raw=b"")) as served:
        *answers, _ = ask(served.url, [REQUEST] * 40, down_after=6)
    assert all(isinstance(answer, EndpointDownError) for answer in answers)
    assert "failed 6 times in a row, at last with: status 500" in str(answers[0])
    assert len(served.bodies) <= 6 + 4  # and what was under way


def test_a_server_that_stays_busy_is_given_up():
    with llm_server(lambda *_: Answer(status=429, raw=b"")) as served:
        *answers, _ = ask(served.url, [REQUEST] * 3, down_after=2, retries=2)
    assert any(isinstance(answer, EndpointDownError) for answer in answers)
    assert len(served.bodies) <= 9


def test_a_server_that_is_not_there_is_called_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        answer, _ = ask(f"http://127.0.0.1:{free.getsockname()[1]}/v1", down_after=3)
    assert isinstance(answer, EndpointDownError)


def test_one_question_that_fails_leaves_the_others():
    def script(body: Any, _: int) -> Answer:
        return Answer(status=500, raw=b"") if "cyst" in str(body["messages"][-1]) else captions("One.")

    bad = replace(REQUEST, facts=replace(FACTS, present=(replace(GLIOMA, name="a cyst"),)))
    with llm_server(script) as served:
        first, second, _ = ask(served.url, [bad, REQUEST], retries=1)
    assert isinstance(first, EndpointError)
    assert not isinstance(first, EndpointDownError | QuestionRefusedError)
    assert second.texts == ("One.",)


@pytest.mark.parametrize(("accepted", "tries"), [("json_object", 2), (None, 3)])
def test_servers_without_schemas_are_asked_in_a_simpler_form_and_that_is_remembered(accepted: str | None, tries: int):
    def script(body: Any, _: int) -> Answer:
        form = body.get("response_format", {}).get("type")
        return captions("One.") if form == accepted else Answer(status=400, raw=b'{"error": "response_format"}')

    async def run(url: str) -> None:
        endpoint = EndpointConfig(url=url, model="m", **QUICK)
        captioner = LlmCaptioner(LlmCaptionConfig(endpoint=endpoint, prompt="facts"), 77)
        for _ in range(3):
            assert (await captioner.captions(REQUEST)).texts == ("One.",)
        await captioner.close()

    with llm_server(script) as served:
        asyncio.run(run(served.url))
    assert len(served.bodies) == tries + 2


def test_a_question_that_the_server_does_not_take_is_refused_without_another_try():
    with llm_server(lambda *_: Answer(status=400, raw=b'{"error": "context length exceeded"}')) as served:
        answer, _ = ask(served.url)
    assert isinstance(answer, QuestionRefusedError)
    assert "context length exceeded" in str(answer)
    assert len(served.bodies) == 3  # once in each form


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_server_that_does_not_know_us_ends_everything_at_once(status: int):
    with llm_server(lambda *_: Answer(status=status, raw=b"no")) as served:
        answer, _ = ask(served.url)
    assert isinstance(answer, EndpointDownError)
    assert "check llm.url, llm.model and the key" in str(answer)
    assert len(served.bodies) == 1


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "sk-secret")
    with llm_server(lambda *_: Answer(status=401, raw=b"wrong key: sk-secret")) as served:
        answer, _ = ask(served.url, key_variable="A_KEY")
    assert served.headers[0]["authorization"] == "Bearer sk-secret"
    assert "wrong key" in str(answer)
    assert "sk-secret" not in str(answer)


def test_images_are_sent_scaled_down_beside_what_is_known():
    raw = io.BytesIO()
    Image.effect_noise((400, 100), 50).convert("RGB").save(raw, "JPEG")
    request = replace(REQUEST, subject="image:1", read_image=raw.getvalue)
    with llm_server(lambda *_: captions("One.")) as served:
        ask(served.url, [request], prompt="image")
    image, text = served.bodies[0]["messages"][-1]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 16)
    assert "Must state: a glioma" in text["text"]


def test_native_texts_are_asked_to_be_rewritten():
    native = "Figure 1. CT of the {chest} [3]."
    with llm_server(lambda *_: captions("One.")) as served:
        ask(served.url, [replace(REQUEST, native=native)], prompt="rewrite")
    assert native in served.questions[0]


@pytest.mark.parametrize("name", sorted(path.stem for path in PROMPTS.glob("*.yaml")))
def test_shipped_prompts_show_examples_as_they_ask(name: str):
    prompt, version = load_prompt(name)
    assert version.startswith(f"{prompt.name}-v{prompt.version}-")
    assert prompt.name == name
    for example in prompt.examples:
        assert f"Write {'up to ' * (name == 'rewrite')}{len(example.captions)} captions" in example.user or (
            name == "rewrite"
        )
        assert "at most 46 words" in example.user


def test_a_prompts_version_follows_its_content(tmp_path: Path):
    shipped = (PROMPTS / "facts.yaml").read_text(encoding="utf-8")
    for name, content in (("same", "# a comment\n" + shipped), ("other", shipped.replace("plain English", "English"))):
        (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
    versions = [load_prompt(str(tmp_path / f"{name}.yaml"))[1] for name in ("same", "other")]
    assert versions[0] == load_prompt("facts")[1] != versions[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{number} captions of", "captions of", "request lacks {number}"),
        ("{max_words}", "{maximum}", "unknown placeholder {maximum}"),
        ("  xray:", "  x_ray:", "unknown modality 'x_ray'"),
        ("version: 1", "verzion: 1", "verzion"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "own.yaml"
    path.write_text((PROMPTS / "facts.yaml").read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")):
        load_prompt(str(path))


@pytest.mark.parametrize(
    "settings", [{"url": "ftp://x"}, {"url": "http://me:secret@host/v1"}, {"concurrency": 0}, {"timeout_s": 0.0}]
)
def test_endpoints_that_cannot_be_are_refused(settings: dict[str, Any]):
    with pytest.raises(ConfigError, match="llm") as error:
        EndpointConfig(model="m", **settings)
    assert "secret" not in str(error.value) or "user or password" in str(error.value)


def test_templates_and_words_answer_without_a_model():
    rare = replace(
        REQUEST, facts=replace(FACTS, present=(replace(GLIOMA, class_id="rare", name="a rare thing", synonyms=()),))
    )
    templates = asyncio.run(TemplateCaptioner(load_bank("general")).captions(rare))
    assert templates == asyncio.run(TemplateCaptioner(load_bank("general")).captions(rare))
    assert len(set(templates.texts)) == 2
    assert all("a rare thing" in text.lower() for text in templates.texts)
    both = replace(REQUEST, facts=replace(FACTS, present=(GLIOMA, EDEMA)))
    assert asyncio.run(WordsCaptioner().captions(both)).texts == ("glioma, edema",)


def test_questions_under_way_together_do_not_overrun_the_budget():
    async def run() -> tuple[int, Spent]:
        budget = Budget(BudgetConfig(max_cost=1.0), Prices(input=1_000.0, output=2_000.0))  # 0.5 a question at most

        async def question() -> bool:
            most = Spent(1, 100, 200)
            if not await budget.reserve(most):
                return False
            await asyncio.sleep(0.01)
            await budget.settle(most, Spent(1, 100, 50))  # and 0.2 in truth
            return True

        return sum(await asyncio.gather(*(question() for _ in range(20)))), budget.spent

    asked, spent = asyncio.run(run())
    assert asked == 3  # after three, 0.4 is left: not enough for the worst case of a fourth
    assert spent == Spent(3, 300, 150)


@pytest.mark.parametrize("name", ["max_requests", "max_tokens", "max_cost"])
def test_a_budget_of_nothing_is_refused(name: str):
    with pytest.raises(ConfigError, match=f"budget.{name}: got 0"):
        BudgetConfig(**{name: 0})


def test_the_stores_names_hold_no_address_and_no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    captioner = LlmCaptioner(LlmCaptionConfig(endpoint=EndpointConfig(model="m"), prompt="facts"), 77)
    asyncio.run(captioner.close())
    assert captioner.name == "m"
    assert "secret" not in json.dumps([captioner.name, captioner.prompt])
