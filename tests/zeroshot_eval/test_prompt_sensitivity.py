"""Prompt sensitivity against the prompt ensemble itself and prompts whose worth is known."""

import numpy as np
import pytest

from clipmed.errors import ConfigError
from zeroshot_eval.classification import classification_statistic, prompt_ensemble
from zeroshot_eval.prompt_sensitivity import CURVE_DRAWS, PromptTable, Spread, prompt_sensitivity

COUNTS = [3, 1, 4]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def accuracy(targets: np.ndarray):
    ones = np.ones((1, len(targets)))
    return lambda cosines: classification_statistic(targets, cosines, 10.0, only=("accuracy",))(ones)["accuracy"].item()


def test_cosines_are_those_of_the_prompt_ensemble():
    rng = np.random.default_rng(0)
    images, prompts = unit(rng, 20, 16), unit(rng, 8, 16)
    table = PromptTable.of(images, prompts, COUNTS)
    whole = images @ prompt_ensemble(prompts, COUNTS).T
    np.testing.assert_allclose(table.class_cosines(table.places), whole, atol=1e-6)
    chosen = [np.array([0, 2]), np.array([3]), np.array([4, 6, 7])]
    some = images @ prompt_ensemble(prompts[np.concatenate(chosen)], [2, 1, 3]).T
    np.testing.assert_allclose(table.class_cosines(chosen), some, atol=1e-6)


@pytest.fixture
def good_and_bad() -> tuple[PromptTable, np.ndarray]:
    """Two classes with two templates: the first tells them apart, the second mixes them up."""
    targets = np.array([0, 1] * 10)
    images = np.eye(2, dtype=np.float32)[targets]
    prompts = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]], dtype=np.float32)
    return PromptTable.of(images, prompts, [2, 2]), targets


def test_single_templates_and_samples_by_hand(good_and_bad: tuple[PromptTable, np.ndarray]):
    table, targets = good_and_bad
    found = prompt_sensitivity(table, accuracy(targets), samples=200)
    assert found.templates == {0: 1.0, 1: 0.0}
    assert found.ensemble == 1.0
    # of the four sets, three have a good prompt and are right on all images: 1 beats .8, and .6 beats 0; the set of
    # both bad ones is right on none: .6 loses to .8
    assert set(found.samples.values) == {0.0, 1.0}
    assert np.mean(found.samples.values) == pytest.approx(0.75, abs=0.1)
    assert found.samples.median == 1.0
    assert set(found.curve) == {1, 2}
    assert found.curve[2].values == (1.0,)


def test_the_same_seed_draws_the_same_prompts():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 60)
    prompts = unit(rng, 30, 16)
    first, second = (PromptTable.of(unit(rng, 60, 16), prompts, [10, 10, 10]) for _ in range(2))
    drawn = [prompt_sensitivity(first, accuracy(targets), seed=seed).samples.values for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 50
    assert prompt_sensitivity(second, accuracy(targets), seed=1).samples.values != drawn[0]


def test_curve_grows_to_all_prompts_and_narrows():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 300)
    centres = unit(rng, 3, 32)
    images = centres[targets] + 2 * unit(rng, 300, 32)
    prompts = np.repeat(centres, 9, axis=0) + 2 * unit(rng, 27, 32)
    images, prompts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, prompts))
    found = prompt_sensitivity(PromptTable.of(images, prompts, [9, 9, 9]), accuracy(targets))
    assert list(found.curve) == [1, 2, 4, 8, 9]
    assert found.curve[1] is found.samples
    assert found.curve[9].values == (found.ensemble,)
    low, high = found.samples.quartiles
    assert low < found.samples.median < high
    narrow = found.curve[8].quartiles
    assert narrow[1] - narrow[0] < high - low
    assert found.curve[8].median > found.samples.median


def test_templates_of_several_phrases_are_ensembles_and_own_sentences_have_none():
    rng = np.random.default_rng(0)
    images, prompts, targets = unit(rng, 40, 8), unit(rng, 7, 8), rng.integers(0, 2, 40)
    # class 0: two phrases in templates 0 and 1, and a sentence of its own; class 1: one phrase in templates 0 and 1
    numbers = np.array([0, 1, 0, 1, -1, 0, 1])
    table = PromptTable.of(images, prompts, [5, 2])
    found = prompt_sensitivity(table, accuracy(targets), template_of_prompt=numbers)
    expected = images @ prompt_ensemble(prompts[[0, 2, 5]], [2, 1]).T
    assert found.templates[0] == np.mean(expected.argmax(axis=1) == targets)
    assert set(found.templates) == {0, 1}
    only_one = prompt_sensitivity(table, accuracy(targets), template_of_prompt=np.array([0, 1, 0, 1, -1, 0, -1]))
    assert set(only_one.templates) == {0}
    assert prompt_sensitivity(table, accuracy(targets)).templates == {}


def test_one_prompt_a_class_has_no_curve():
    table = PromptTable.of(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [1, 1])
    found = prompt_sensitivity(table, accuracy(np.array([0, 1])))
    assert list(found.curve) == [1]
    assert found.samples.quartiles == (1.0, 1.0)
    assert found.templates == {0: 1.0}


def test_a_class_with_fewer_prompts_uses_each_of_its_own_once():
    rng = np.random.default_rng(0)
    table = PromptTable.of(unit(rng, 20, 8), unit(rng, 8, 8), [5, 3])
    few: list[np.ndarray] = []

    def score(cosines: np.ndarray) -> float:
        few.append(cosines[:, 1])
        return 0.0

    assert list(prompt_sensitivity(table, score, samples=0).curve) == [1, 2, 4, 5]
    own = table.class_cosines(table.places)[:, 1]
    for column in few[-CURVE_DRAWS:]:  # the sets of four
        np.testing.assert_allclose(column, own, atol=1e-6)


def test_quartiles_by_hand():
    assert Spread((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0)


def test_counts_that_do_not_fit_are_refused():
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ConfigError, match="got 3 for counts that sum to 4, the fewest 1"):
        PromptTable.of(rows, rows, [3, 1])
    with pytest.raises(ConfigError, match="the fewest 0"):
        PromptTable.of(rows, rows, [3, 0])
    table = PromptTable.of(rows, rows, [2, 1])
    with pytest.raises(ConfigError, match="template_of_prompt: got 2 numbers; allowed: 3, one a prompt"):
        prompt_sensitivity(table, accuracy(np.array([0, 1, 1])), template_of_prompt=np.array([0, 0]))
