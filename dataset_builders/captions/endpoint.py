"""A server that speaks OpenAI's chat protocol, asked over HTTP: what passes is tried again, what does not ends the run.

Many questions are under way at the same time; they share one client, one rest after "429 Too Many Requests" and one
count of failures, so that a server in trouble is left alone and one that is down is called down once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from clipmed.errors import ClipmedError, ConfigError

ResponseFormat = Literal["json_schema", "json_object", "text"]
FORMATS: tuple[ResponseFormat, ...] = ("json_schema", "json_object", "text")
MAX_ANSWER_BYTES = 4_000_000
_SHOWN_CHARS = 200
_PASSING = frozenset({408, 409, 425, 429})  # as are all of 500 and above
_MALFORMED = frozenset({400, 413, 415, 422})  # this question is at fault, not the server


class EndpointError(ClipmedError):
    """A question found no usable answer, however often it was sent."""


class QuestionRefusedError(EndpointError):
    """The server does not take this question, such as one that is too long for its model."""


class EndpointDownError(EndpointError):
    """The server fails again and again, or does not know us: nothing more is asked."""


class _PassingError(Exception):
    """A failure that may pass: worth another try, after `rest_s` seconds where the server says so."""

    def __init__(self, what: str, rest_s: float | None = None, *, busy: bool = False) -> None:
        super().__init__(what)
        self.rest_s = rest_s
        self.busy = busy


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """A server that speaks OpenAI's chat protocol: vLLM, llama.cpp, Ollama or a hosted one."""

    url: str = "http://127.0.0.1:8000/v1"
    """address of the server, up to /v1"""
    model: str = ""
    """name of the model, as the server knows it; captions carry it"""
    key_variable: str = "OPENAI_API_KEY"
    """environment variable with the server's key, where it wants one; the key is written nowhere"""
    concurrency: int = 16
    """questions under way at the same time"""
    timeout_s: float = 120.0
    """longest wait for a whole answer, in seconds"""
    retries: int = 5
    """how often a question is sent again after a failure that may pass: time-outs, 429, 5xx, hang-ups, broken JSON"""
    backoff_s: float = 1.0
    """rest before the first retry, in seconds; doubled each time, and shortened by chance by up to a half"""
    max_rest_s: float = 120.0
    """longest rest, in seconds, whatever the server's Retry-After asks for"""
    down_after: int = 20
    """failures in a row, over all questions, after which the server is called down and the run ends"""
    temperature: float = 0.9
    """how freely the model chooses words"""
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """what the server calls the longest answer's length"""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(
                f"llm.url: got {self.url!r}; allowed: an http or https address, such as http://host:8000/v1"
            )
        if parts.username or parts.password:
            raise ConfigError(f"llm.url: holds a user or password; give the key in the variable {self.key_variable}")
        if min(self.concurrency, self.down_after) < 1 or self.retries < 0:
            raise ConfigError(
                f"llm.concurrency={self.concurrency}, down_after={self.down_after}, retries={self.retries}; "
                "allowed: 1 or more, 1 or more, 0 or more"
            )
        if self.timeout_s <= 0 or min(self.backoff_s, self.max_rest_s, self.temperature) < 0:
            raise ConfigError("llm: timeout_s must be more than 0; backoff_s, max_rest_s and temperature 0 or more")


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's words, and the tokens that the server counted: None where it counts none."""

    content: str
    tokens_in: int | None
    tokens_out: int | None


class Endpoint:
    """An open connection to a server; `tries` counts requests sent, `failures` those that failed by kind."""

    def __init__(self, config: EndpointConfig) -> None:
        import httpx

        if not config.model:
            raise ConfigError("llm.model: got none; name the model that the server at llm.url runs")
        self._config = config
        self._key = os.environ.get(config.key_variable, "")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._client = httpx.AsyncClient(headers=headers, timeout=config.timeout_s, limits=limits)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._format = 0
        self._not_before = 0.0
        self._failed_in_row = 0
        self._down = ""
        self.tries = 0
        self.failures: dict[str, int] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(self, body: dict[str, Any], schema: dict[str, Any]) -> Reply:
        """Send a question and return the answer's words.

        The answer's form is asked for in the strictest way that the server takes: a JSON schema, any JSON object, or
        nothing; which one that is, is remembered.

        Raises:
            QuestionRefusedError: the server takes the question in no form.
            EndpointDownError: the server is down, or does not accept us.
            EndpointError: every try failed, and others may not.
        """
        refusal: QuestionRefusedError | None = None
        for number in range(self._format, len(FORMATS)):
            try:
                reply = await self._ask_patiently(body | _response_format(FORMATS[number], schema))
            except QuestionRefusedError as error:
                refusal = error
                continue
            self._format = max(self._format, number)
            return reply
        assert refusal is not None
        raise refusal

    async def _ask_patiently(self, body: dict[str, Any]) -> Reply:
        for turn in range(self._config.retries + 1):
            try:
                async with self._slots:
                    await self._rest()
                    reply = await self._try(body)
            except _PassingError as error:
                failure = error
                self._note(error)
                await self._back_off(turn)
            else:
                self._failed_in_row = 0
                return reply
        if failure.busy:
            self._count_failure(str(failure))
        raise EndpointError(f"{self._config.url}: {failure}, {self._config.retries + 1} times")

    async def _try(self, body: dict[str, Any]) -> Reply:
        import httpx

        self.tries += 1
        try:
            async with asyncio.timeout(self._config.timeout_s):
                status, headers, data = await self._post(body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _PassingError(f"no answer within {self._config.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise _PassingError(f"{type(error).__name__}: {self._shown(str(error))}") from error
        if status in _PASSING or status >= 500:
            raise _PassingError(f"status {status}", _retry_after(headers.get("retry-after")), busy=status == 429)
        if status in _MALFORMED:
            raise QuestionRefusedError(f"status {status}: {self._shown(data.decode(errors='replace'))}")
        if status != 200:
            self._down = (
                f"{self._config.url} answers with status {status}: {self._shown(data.decode(errors='replace'))}; "
                f"check llm.url, llm.model and the key in {self._config.key_variable}"
            )
            raise EndpointDownError(self._down)
        return _read_reply(data)

    async def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        url = f"{self._config.url.rstrip('/')}/chat/completions"
        data = bytearray()
        async with self._client.stream("POST", url, json=body) as response:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise _PassingError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, response.headers, bytes(data)

    async def _rest(self) -> None:
        """Wait while the server asked all of us to."""
        while (left := self._not_before - asyncio.get_running_loop().time()) > 0:
            self._refuse_if_down()
            await asyncio.sleep(left)
        self._refuse_if_down()

    async def _back_off(self, turn: int) -> None:
        if turn < self._config.retries:
            longest = min(self._config.backoff_s * 2**turn, self._config.max_rest_s)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    def _note(self, error: _PassingError) -> None:
        kind = str(error).split(":", 1)[0]
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if error.rest_s is not None:
            rest_s = min(error.rest_s, self._config.max_rest_s)
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + rest_s)
        if not error.busy:
            self._count_failure(str(error))

    def _count_failure(self, what: str) -> None:
        self._failed_in_row += 1
        if self._failed_in_row >= self._config.down_after and not self._down:
            self._down = f"{self._config.url} failed {self._failed_in_row} times in a row, at last with: {what}"
        self._refuse_if_down()

    def _refuse_if_down(self) -> None:
        if self._down:
            raise EndpointDownError(self._down)

    def _shown(self, text: str) -> str:
        """Return the beginning of a server's words, on one line and without the key."""
        plain = text.replace(self._key, "…") if self._key else text
        return " ".join(plain.split())[:_SHOWN_CHARS]


def _response_format(form: ResponseFormat, schema: dict[str, Any]) -> dict[str, Any]:
    if form == "json_schema":
        return {"response_format": {"type": form, "json_schema": {"name": "answer", "strict": True, "schema": schema}}}
    return {"response_format": {"type": form}} if form == "json_object" else {}


def _read_reply(data: bytes) -> Reply:
    try:
        answer = json.loads(data)
        message = answer["choices"][0]["message"]
        content, usage = message["content"], answer.get("usage") or {}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        what = "HTML" if data.lstrip()[:1] == b"<" else "no JSON of the chat protocol"
        raise _PassingError(f"an answer that is {what}") from error
    if not isinstance(usage, dict):
        usage = {}
    return Reply(
        content if isinstance(content, str) else "",
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        import time

        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
