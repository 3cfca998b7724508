"""What captioning costs: estimates before, a budget during, and true counts after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from clipmed.errors import ConfigError

MILLION = 1_000_000
TOKENS_A_MESSAGE = 4  # role and separators, in the chat templates of common models
TOKENS_A_CAPTION = 30  # a sentence of twenty words with its quotes and comma
MARGIN = 1.15
IMAGE_PATCH = 28  # side of what vision models turn into one token, in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the endpoint asks, in any currency; 0 for one's own machine."""

    input: float = 0.0
    """price of a million tokens sent"""
    output: float = 0.0
    """price of a million tokens received"""

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Return the price of an exchange."""
        return (tokens_in * self.input + tokens_out * self.output) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """Limits of one run. It ends tidily at the first that is reached, and the next run goes on from there."""

    max_requests: int | None = None
    """questions asked; a question that is sent again because the endpoint failed counts once"""
    max_tokens: int | None = None
    """tokens sent and received"""
    max_cost: float | None = None
    """cost at the given prices"""

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens", "max_cost"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"budget.{name}: got {value}; allowed: more than 0, or none for no limit")


@dataclass(frozen=True, slots=True)
class Spent:
    """An amount of requests and tokens."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            self.requests - other.requests, self.tokens_in - other.tokens_in, self.tokens_out - other.tokens_out
        )


class Budget:
    """Keeps a run inside its limits.

    What a question may cost at most is set aside before it is asked, so that questions under way at the same time do
    not overrun a limit together. A question that does not fit waits for those under way, which mostly cost less.
    """

    def __init__(self, config: BudgetConfig, prices: Prices) -> None:
        self._config = config
        self._prices = prices
        self._changed = asyncio.Condition()
        self._reserved = Spent()
        self.spent = Spent()

    @property
    def cost(self) -> float:
        """What was spent, at the prices."""
        return self._prices.cost(self.spent.tokens_in, self.spent.tokens_out)

    async def reserve(self, most: Spent) -> bool:
        """Set aside what a question may cost at most; false where the budget has no room for it any more."""
        async with self._changed:
            while not self._fits(self.spent + self._reserved + most):
                if self._reserved == Spent():
                    return False
                await self._changed.wait()
            self._reserved += most
            return True

    async def settle(self, most: Spent, spent: Spent) -> None:
        """Take back what was set aside, and count what was spent."""
        async with self._changed:
            self._reserved -= most
            self.spent += spent
            self._changed.notify_all()

    def _fits(self, total: Spent) -> bool:
        config = self._config
        cost = self._prices.cost(total.tokens_in, total.tokens_out)
        return (
            (config.max_requests is None or total.requests <= config.max_requests)
            and (config.max_tokens is None or total.tokens_in + total.tokens_out <= config.max_tokens)
            and (config.max_cost is None or cost <= config.max_cost)
        )


def estimate_tokens(messages: Sequence[dict[str, Any]], image_side: int) -> int:
    """Return about how many tokens a conversation has.

    Texts are cut by CLIP's byte-pair tokenizer, which is at hand, and a margin is added: SmolLM2's own tokenizer with
    its chat template counts 5 % more than CLIP's, larger vocabularies count less. An image counts one token for
    28 × 28 pixels.
    """
    total = 0
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            total += _text_tokens(part["text"]) if part["type"] == "text" else (image_side // IMAGE_PATCH) ** 2
        total += TOKENS_A_MESSAGE
    return round(total * MARGIN)


def expected_answer_tokens(number: int) -> int:
    """Return about how many tokens an answer with that many captions has."""
    return number * TOKENS_A_CAPTION + TOKENS_A_MESSAGE


@lru_cache(maxsize=4096)
def _text_tokens(text: str) -> int:
    return len(_tokenizer().encode(text))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
