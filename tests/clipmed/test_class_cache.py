"""Rows of labels are those of the model, made once for labels that are asked for again."""

import threading

import pytest
import torch

import clipmed
from clipmed.class_cache import ClassCache
from clipmed.errors import ClipmedError
from clipmed.labels import label_prompts
from clipmed.zeroshot import class_embeddings
from tests.clipmed.tiny import tiny_checkpoint


class Tower:
    """A text tower that counts what it is given: a text's tokens are its letters, its row a direction of their sum."""

    def __init__(self):
        self.tokenized, self.encoded = [], 0

    def tokenize(self, texts):
        self.tokenized += texts
        return torch.tensor([[ord(letter) for letter in text.ljust(4)[:4]] for text in texts])

    def encode(self, tokens):
        self.encoded += len(tokens)
        angles = tokens.double().mul(torch.tensor([1.0, 3.0, 7.0, 13.0])).sum(dim=1)
        return torch.stack([angles.cos(), angles.sin()], dim=1).float()

    def rows(self, cache, **prompts):
        return cache.rows(prompts, self.tokenize, self.encode)


def test_each_prompt_is_tokenised_and_encoded_once():
    cache, tower = ClassCache(), Tower()
    first = tower.rows(cache, a=["x", "y"], b=["z"])
    assert (tower.tokenized, tower.encoded) == (["x", "y", "z"], 3)
    again = tower.rows(cache, c=["w"], a=["x", "y"], other_name=["z"])
    assert (tower.tokenized, tower.encoded) == (["x", "y", "z", "w"], 4)
    assert torch.equal(again[1:], first)
    assert torch.equal(again, tower.rows(ClassCache(), c=["w"], a=["x", "y"], b=["z"]))


def test_prompts_with_the_same_words_are_told_apart():
    rows = Tower().rows(ClassCache(), a=["a, b"], b=["a", "b"])
    assert not torch.equal(rows[0], rows[1])


def test_the_labels_longest_unused_go_first():
    cache, tower = ClassCache(most=2), Tower()
    tower.rows(cache, a=["a"], b=["b"])
    tower.rows(cache, a=["a"])
    tower.rows(cache, c=["c"])  # b goes
    tower.rows(cache, a=["a"])
    assert tower.tokenized == ["a", "b", "c"]
    assert len(tower.rows(cache, **{name: [name] for name in "abcdef"})) == 6  # more than are kept
    assert tower.tokenized[3:] == ["b", "d", "e", "f"]


def test_labels_that_are_the_same_tokens_are_refused_kept_or_not():
    cache, tower = ClassCache(), Tower()
    for _ in range(2):
        with pytest.raises(ClipmedError, match="'one' and 'two' are the same to this model, which reads the first 4"):
            tower.rows(cache, one=["longer"], two=["longest"])
        tower.rows(cache, one=["longer"])
        tower.rows(cache, two=["longest"])


def test_threads_get_their_own_labels():
    cache, tower, wrong = ClassCache(most=3), Tower(), []

    def ask(offset):
        for number in range(200):
            names = [chr(97 + (offset + number + step) % 20) for step in range(3)]
            rows = tower.rows(cache, **{name: [name] for name in names})
            if not torch.allclose(rows, tower.encode(tower.tokenize(names)), atol=1e-6):
                wrong.append(names)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_models_rows_are_the_same_kept_or_not(tmp_path):
    model = clipmed.load(tiny_checkpoint(tmp_path), "cpu")
    prompts = label_prompts(["a lung", "a skull", "a hand"])
    expected = class_embeddings(model.two_tower, prompts)
    for _ in range(2):
        torch.testing.assert_close(model.class_embeddings(prompts), expected, atol=1e-6, rtol=0)
    fewer = {name: prompts[name] for name in ("a hand", "a lung")}
    torch.testing.assert_close(model.class_embeddings(fewer), expected[[2, 0]], atol=1e-6, rtol=0)
