"""Which texts are encoded together, and how long they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmed.towers import assemble
from train.config import GradCacheConfig
from train.texts import TextTower, plan_texts

CONTEXT = 256


def plan(lengths: list[int], least: int = 1, **limits: int):  # type: ignore[no-untyped-def]
    return plan_texts(torch.tensor(lengths), CONTEXT, GradCacheConfig(**limits), least)


def test_texts_are_sorted_and_cut_by_the_budget_of_tokens() -> None:
    made = plan([100, 8, 30, 9, 250], text_tokens=256)
    assert [rows.tolist() for rows in made.rows] == [[1, 3, 2], [0], [4]]
    assert made.widths == [32, 104, 256]
    assert made.tokens == [96, 104, 256]


def test_without_limits_all_texts_are_one_micro_batch_of_the_longest() -> None:
    made = plan([10, 70, 20])
    assert made.widths == [72]
    assert made.order.tolist() == [0, 2, 1]


@given(
    st.lists(st.integers(1, CONTEXT), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 2000),
    st.integers(1, 12),
)
def test_every_text_comes_once_within_both_limits(lengths: list[int], texts: int, tokens: int, least: int) -> None:
    made = plan(lengths, least, text_micro_batch=texts, text_tokens=tokens)
    assert sorted(made.order.tolist()) == list(range(len(lengths)))
    assert len(made.rows) >= min(least, len(lengths))
    for rows, width in zip(made.rows, made.widths, strict=True):
        assert len(rows) <= texts
        assert len(rows) * width <= tokens or len(rows) == 1
        assert max(lengths[row] for row in rows.tolist()) <= width <= CONTEXT


def tower(**text_cfg: object) -> TextTower:
    text = {"context_length": 16, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1} | text_cfg
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    return TextTower(assemble({"embed_dim": 8, "custom_text": True, "vision_cfg": vision, "text_cfg": text}).model)


def test_a_zero_inside_a_text_is_a_token_of_it() -> None:
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    tokens[0, :6] = torch.tensor([48, 5, 0, 0, 7, 49])
    tokens[1, :2] = torch.tensor([48, 49])
    assert tower().lengths(tokens).tolist() == [6, 2]


@pytest.mark.parametrize(
    ("text_cfg", "trimmable"),
    [({}, True), ({"pool_type": "last"}, False), ({"no_causal_mask": True}, False), ({"embed_cls": True}, False)],
)
def test_texts_are_cut_only_where_padding_is_never_read(text_cfg: dict[str, object], trimmable: bool) -> None:
    made = tower(**text_cfg)
    assert made.is_trimmable == trimmable
    if not trimmable:
        assert made.lengths(torch.ones(3, 16, dtype=torch.int64)).tolist() == [16] * 3
