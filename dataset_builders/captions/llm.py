"""Captions by a language model behind an endpoint: from facts, from an image with its facts, or from a native text."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from clipmed.errors import ConfigError
from dataset_builders.captions.captioner import CaptionAnswer, CaptionRequest
from dataset_builders.captions.endpoint import Endpoint, EndpointConfig
from dataset_builders.captions.pricing import Spent, estimate_tokens
from dataset_builders.captions.prompts import load_prompt

_SPARE_TOKENS = 64  # for the answer's own frame
_ROOM = 1.3  # a chat model's tokens for one of the text tower's
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s+(.*\S)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCaptionConfig:
    """A language model as captioner."""

    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """the server"""
    prompt: str = ""
    """a shipped prompt or the path of a YAML file; the shipped one for what is captioned if none is given"""
    image_side: int = 512
    """longer side of an image as it is sent, in pixels"""

    def __post_init__(self) -> None:
        if self.image_side < 32:
            raise ConfigError(f"llm.image_side: got {self.image_side}; allowed: 32 pixels or more")


class LlmCaptioner:
    """Asks a model. The seed follows from subject, prompt and attempt: an endpoint that heeds it repeats itself.

    Args:
        config: server and prompt; `prompt` must be given.
        max_tokens: longest caption, in tokens of the text tower.
    """

    guarded = True

    def __init__(self, config: LlmCaptionConfig, max_tokens: int) -> None:
        self._config = config
        self._max_tokens = max_tokens
        self._wording, self.prompt = load_prompt(config.prompt)
        self.name = config.endpoint.model
        self.about = self._wording.about
        self.endpoint = Endpoint(config.endpoint)

    async def captions(self, request: CaptionRequest) -> CaptionAnswer:
        """Return what the model answers.

        Raises:
            EndpointError: no answer came; `dataset_builders.captions.endpoint` has the kinds.
        """
        image = None
        if request.read_image is not None:
            image = await asyncio.to_thread(_data_uri, request.read_image(), self._config.image_side)
        messages = self.messages(request, image)
        body = {
            "model": self.name,
            "messages": messages,
            "temperature": self._config.endpoint.temperature,
            "seed": seed_of(request.subject, self.prompt, str(request.attempt)),
            self._config.endpoint.tokens_field: self._answer_tokens(request.number),
        }
        reply = await self.endpoint.ask(body, _schema(request.number))
        texts = read_captions(reply.content)[: request.number]
        tokens_in = estimate_tokens(messages, self._config.image_side) if reply.tokens_in is None else reply.tokens_in
        tokens_out = len(reply.content) // 4 if reply.tokens_out is None else reply.tokens_out
        problem = "" if texts else f"no captions in the answer: {' '.join(reply.content.split())[:200]!r}"
        return CaptionAnswer(texts=texts, tokens_in=tokens_in, tokens_out=tokens_out, problem=problem)

    def messages(self, request: CaptionRequest, image: str | None = None) -> list[dict[str, Any]]:
        """Return the conversation that a request becomes; `image` is a data URI."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self._wording.system.strip()}]
        for example in self._wording.examples:
            answer = json.dumps({"captions": list(example.captions)}, ensure_ascii=False)
            messages += [{"role": "user", "content": example.user}, {"role": "assistant", "content": answer}]
        question = self._wording.question(request, self._max_tokens)
        if image is None and request.read_image is None:
            return [*messages, {"role": "user", "content": question}]
        parts = [{"type": "image_url", "image_url": {"url": image or ""}}, {"type": "text", "text": question}]
        return [*messages, {"role": "user", "content": parts}]

    def most(self, request: CaptionRequest) -> Spent:
        """Return what a request may cost at most."""
        tokens = estimate_tokens(self.messages(request), self._config.image_side)
        return Spent(1, tokens, self._answer_tokens(request.number))

    async def close(self) -> None:
        """Close the connections."""
        await self.endpoint.close()

    def _answer_tokens(self, number: int) -> int:
        return int(number * self._max_tokens * _ROOM) + _SPARE_TOKENS


def read_captions(content: str) -> tuple[str, ...]:
    """Return the captions of an answer: of {"captions": […]}, of a JSON list, or of a plain list, a line each.

    Thoughts and code fences around them are passed over. Anything else gives none: nothing is guessed at.
    """
    text = _THOUGHT.sub("", content).strip()
    fenced = _FENCED.search(text)
    found = _of_json(fenced.group(1) if fenced else text)
    if found is None:
        begin, end = text.find("{"), text.rfind("}")
        found = _of_json(text[begin : end + 1]) if 0 <= begin < end else None
    if found is None and not text.startswith(("{", "[", "<")):
        found = [match.group(1).strip("\"'“”") for line in text.splitlines() if (match := _LIST_ITEM.match(line))]
    cleaned = (" ".join("".join(filter(_is_text, caption)).split()) for caption in found or ())
    return tuple(caption for caption in cleaned if caption)


def seed_of(*words: str) -> int:
    """Return 31 bits of a hash of the words: the same question has the same seed whenever it is asked."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:4], "big") >> 1


def _is_text(character: str) -> bool:
    """Tell letters and spaces from control characters and halves of surrogate pairs, which JSON can name."""
    return character.isprintable() or character.isspace()


def _of_json(text: str) -> list[str] | None:
    """Return the captions of a JSON value; None if it is not JSON, none if it is of another shape."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    captions = value.get("captions") if isinstance(value, dict) else value
    return [caption for caption in captions if isinstance(caption, str)] if isinstance(captions, list) else []


@lru_cache(maxsize=64)
def _schema(number: int) -> dict[str, Any]:
    captions = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": number}
    return {
        "type": "object",
        "properties": {"captions": captions},
        "required": ["captions"],
        "additionalProperties": False,
    }


def _data_uri(jpeg: bytes, side: int) -> str:
    """Return the image as a data URI, scaled down so that its longer side is at most `side` pixels."""
    import cv2

    from clipmed.images import decode_rgb

    pixels = decode_rgb(jpeg)
    scale = side / max(pixels.shape[:2])
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        resized = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
