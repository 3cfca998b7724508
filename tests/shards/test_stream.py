"""The stream: a pure function of seed and position; every row once an epoch; weights as asked."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import ConfigError, DataError
from shards.randomness import mix, permuted, stream_key
from shards.reader import ShardSet
from shards.stream import CYCLE, WINDOW, Draw, SampleStream, StreamConfig, even_schedule

GOLDEN = [795556, 420366, 127265, 76352, 810780, 631675]


@pytest.fixture(scope="module")
def shard_set(packed):
    return ShardSet(packed)


@pytest.fixture(scope="module")
def equal_weights():
    return {"ct": 1.0, "web": 1.0, "exam": 1.0}


def rows_of(draws):
    return [(draw.set_index, draw.row) for draw in draws]


def epoch_rows(stream, epoch):
    """The rows at the positions of one epoch, in order."""
    size = stream.num_samples
    return rows_of(stream.plan(epoch, size))


def test_without_weights_every_row_comes_once_an_epoch_in_another_order(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig())
    rows = {(0, row) for row in shard_set.rows("train").tolist()}
    assert stream.num_samples == len(rows)
    first, second = epoch_rows(stream, 0), epoch_rows(stream, 1)
    assert len(first) == len(second) == len(rows)
    assert set(first) == set(second) == rows
    assert first != second
    assert first != sorted(first)


def test_with_weights_every_row_of_a_source_comes_once_a_pass(shard_set, equal_weights):
    stream = SampleStream([shard_set], "train", StreamConfig(weights=equal_weights))
    source = shard_set.column("source")
    draws = [draw for step in range(20) for draw in stream.plan(step, 100)]
    for name in equal_weights:
        rows = [draw.row for draw in draws if source[draw.row] == name]
        size = source_size(shard_set, name)
        passes = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
        assert len(passes) >= 2
        assert all(len(set(each)) == size for each in passes)
        assert passes[0] != passes[1]


def source_size(shard_set, name):
    source = shard_set.column("source")
    return sum(source[row] == name for row in shard_set.rows("train").tolist())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sequence_does_not_depend_on_batches_or_ranks(shard_set, equal_weights, weighted):
    config = StreamConfig(
        seed=3, weights=equal_weights if weighted else {}, caption_origins={"figure": 1, "template": 2}
    )
    stream = SampleStream([shard_set], "train", config)
    whole = [draw for step in range(10) for draw in stream.plan(step, 64)]
    halves = [draw for step in range(20) for draw in stream.plan(step, 32)]
    assert whole == halves
    assert [draw.position for draw in whole] == list(range(640))
    again = SampleStream([ShardSet(shard_set.path)], "train", config)
    assert again.plan(7, 64) == whole[7 * 64 : 8 * 64]  # a resumed run seeks
    assert pickle.loads(pickle.dumps(stream)).plan(7, 64) == whole[7 * 64 : 8 * 64]


def test_seeds_differ(shard_set):
    one, two = (SampleStream([shard_set], "train", StreamConfig(seed=seed)).plan(0, 64) for seed in (0, 1))
    assert rows_of(one) != rows_of(two)
    assert [d.augment_seed for d in one] != [d.augment_seed for d in two]
    assert len({draw.augment_seed for draw in one + two}) == 128
    assert all(0 <= draw.augment_seed < 2**63 for draw in one)


@pytest.mark.parametrize("weights", [{"ct": 0.7, "web": 0.25, "exam": 0.05}, {"ct": 1, "web": 1e-9, "exam": 3}])
def test_weights_are_realised_to_within_rounding(shard_set, weights):
    stream = SampleStream([shard_set], "train", StreamConfig(weights=weights))
    total = sum(weights.values())
    cycle = stream.realised_mixture(CYCLE // 64, 64)
    few = stream.realised_mixture(4, 256)
    for name, weight in weights.items():
        assert abs(cycle[name] - weight / total) <= 1 / CYCLE * 2
        assert abs(few[name] - weight / total) <= 4 / 1024
    assert sum(cycle.values()) == pytest.approx(1)


def test_realised_mixture_is_what_the_plan_draws(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig(weights={"ct": 0.5, "web": 0.3, "exam": 0.2}))
    source = shard_set.column("source")
    counts = Counter(source[draw.row] for step in range(5) for draw in stream.plan(step, 37))
    assert stream.realised_mixture(5, 37) == {name: counts[name] / (5 * 37) for name in ("ct", "exam", "web")}


def test_modalities_can_be_weighted(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig(mix_by="modality", weights={"ct": 0.8, "xray": 0.2}))
    modality = shard_set.column("modality")
    draws = stream.draws(0, 4 * WINDOW)
    shares = Counter(modality[draw.row] for draw in draws)
    assert abs(shares["xray"] / len(draws) - 0.2) <= 4 / len(draws)
    rows = [draw.row for draw in draws if modality[draw.row] == "ct"]
    size = sum(modality[row] == "ct" for row in shard_set.rows("train").tolist())
    assert len(set(rows[:size])) == len(set(rows[size : 2 * size])) == size  # every one once a pass
    assert stream.pool_shares() == pytest.approx({"ct": 0.8, "xray": 0.2}, abs=1 / CYCLE)
    asked, realised = stream.expected_mixture(), stream.realised_mixture(400, 256)
    assert set(asked) == {"ct", "exam", "web"}  # sources, whatever is mixed
    assert sum(asked.values()) == pytest.approx(1)
    assert realised == pytest.approx(asked, abs=0.002)


@pytest.mark.parametrize("mix_by", ["source", "modality"])
def test_temperature_lies_between_counts_and_equal_shares(shard_set, mix_by):
    column = shard_set.column(mix_by)
    counts = Counter(column[row] for row in shard_set.rows("train").tolist())
    for temperature in (1.0, 2.0, 5.0, 1e9):
        stream = SampleStream([shard_set], "train", StreamConfig(mix_by=mix_by, temperature=temperature))
        raised = {name: count ** (1 / temperature) for name, count in counts.items()}
        wanted = {name: share / sum(raised.values()) for name, share in raised.items()}
        assert stream.pool_shares() == pytest.approx(wanted, abs=2 / CYCLE)
        drawn = Counter(column[draw.row] for draw in stream.draws(0, 4 * WINDOW))
        assert {name: count / (4 * WINDOW) for name, count in drawn.items()} == pytest.approx(wanted, abs=0.005)
    assert len({count for name, count in drawn.items()}) < len(counts) or max(drawn.values()) - min(drawn.values()) <= 4


def test_without_a_mixture_the_shares_are_those_of_the_sets(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig())
    sizes = {name: source_size(shard_set, name) / stream.num_samples for name in ("ct", "exam", "web")}
    assert stream.pool_shares() == {"all": 1.0}
    assert stream.expected_mixture() == pytest.approx(sizes)


def test_sources_of_draws_are_those_of_their_rows(shard_set):
    stream = SampleStream([shard_set, shard_set], "train", StreamConfig())
    draws = stream.plan(3, 50)
    sources = stream.sources_of(draws)
    assert sources.dtype == np.int64
    column = shard_set.column("source")
    assert [stream.source_names[number] for number in sources] == [column[draw.row] for draw in draws]
    assert {draw.set_index for draw in draws} == {0, 1}
    assert stream.sources_of([]).shape == (0,)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"weights": {"ct": 1, "web": 1, "exam": 1}},
        {"mix_by": "modality", "temperature": 2.0, "caption_origins": {"figure": 1}},
    ],
)
def test_alternates_are_other_samples_of_the_same_pool(shard_set, values):
    config = StreamConfig(seed=5, **values)
    stream = SampleStream([shard_set], "train", config)
    column = shard_set.column(config.mix_by)
    again = SampleStream([ShardSet(shard_set.path)], "train", config)
    for draw in stream.draws(1000, 1040):
        pool = [
            row for row in shard_set.rows("train").tolist() if not config.is_mixed or column[row] == column[draw.row]
        ]
        others = [stream.alternate(draw, attempt) for attempt in range(1, len(pool))]
        assert sorted([draw.row, *(other.row for other in others)]) == pool
        assert {(other.position, other.augment_seed) for other in others} == {(draw.position, draw.augment_seed)}
        assert again.alternate(draw, 3) == others[2]
        assert all(other.caption_index == 0 for other in others) or not config.caption_origins
        with pytest.raises(DataError, match=f"none of the {len(pool)} samples of the pool '.*' can be read"):
            stream.alternate(draw, len(pool))


def test_alternates_are_spread_over_the_pool(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig())
    rows = shard_set.rows("train").tolist()
    draws = stream.draws(0, 20 * stream.num_samples)
    others = [stream.alternate(draw, 1) for draw in draws]
    counts = Counter(other.row for other in others)
    assert len(counts) == stream.num_samples
    assert max(counts.values()) <= 45  # about 20 each
    # Not a neighbour, which would lie in the same damaged shard.
    ahead = Counter(
        (rows.index(other.row) - rows.index(draw.row)) % len(rows) for draw, other in zip(draws, others, strict=True)
    )
    assert len(ahead) == stream.num_samples - 1
    assert max(ahead.values()) <= 45


def test_draws_are_any_range_of_positions(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig(temperature=3.0))
    whole = stream.plan(0, 3 * WINDOW)
    assert stream.draws(WINDOW - 3, 2 * WINDOW + 5) == whole[WINDOW - 3 : 2 * WINDOW + 5]
    assert stream.draws(7, 8) == [whole[7]]


def test_weight_0_leaves_a_source_out(shard_set):
    stream = SampleStream([shard_set], "train", StreamConfig(weights={"ct": 0, "web": 1, "exam": 0}))
    assert stream.num_samples == source_size(shard_set, "web")
    assert stream.realised_mixture(10, 10) == {"ct": 0, "exam": 0, "web": 1}
    assert stream.epoch_of(stream.num_samples // 2) == pytest.approx(0.5, abs=0.1)


def test_two_sets_are_one_stream(shard_set):
    stream = SampleStream([shard_set, shard_set], "val", StreamConfig())
    rows = shard_set.rows("val").tolist()
    assert sorted(epoch_rows(stream, 0)) == [(number, row) for number in (0, 1) for row in rows]


def test_captions_are_drawn_uniformly_or_by_origin(shard_set):
    uniform = SampleStream([shard_set], "train", StreamConfig()).plan(0, 6000)
    shares = Counter(draw.caption_index for draw in uniform)
    assert all(abs(shares[index] / 6000 - 1 / 3) < 0.03 for index in range(3))
    by_origin = SampleStream([shard_set], "train", StreamConfig(caption_origins={"figure": 1, "template": 1})).plan(
        0, 6000
    )
    shares = Counter(draw.caption_index for draw in by_origin)
    assert [round(shares[index] / 6000, 1) for index in range(3)] == [0.5, 0.2, 0.2] or (
        abs(shares[0] / 6000 - 0.5) < 0.03 and abs(shares[1] / 6000 - 0.25) < 0.03
    )
    only = SampleStream([shard_set], "train", StreamConfig(caption_origins={"figure": 1, "template": 0})).plan(0, 2000)
    assert {draw.caption_index for draw in only} == {0}
    last = SampleStream([shard_set], "train", StreamConfig(caption_origins={"template": 2})).plan(0, 2000)
    assert {draw.caption_index for draw in last} == {1, 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {"ct": 1, "wbe": 1, "exam": 1}}, "weights: unknown source 'wbe'; did you mean 'web'"),
        ({"weights": {"ct": 1}}, "weights: none for exam, web; give each a weight, 0 to leave it out"),
        ({"weights": {"ct": -1, "web": 1}}, r"weights: got \{'ct': -1\}; allowed: numbers of 0 or more"),
        ({"weights": {"ct": float("nan")}}, "weights: got"),
        ({"weights": {"ct": 0}}, "at least one above 0"),
        (
            {"mix_by": "modality", "weights": {"ct": 1, "xrya": 1}},
            "weights: unknown modality 'xrya'; did you mean 'xray'",
        ),
        ({"mix_by": "modality", "weights": {"ct": 1}}, "weights: none for xray"),
        ({"mix_by": "modality"}, "mix_by: got 'modality' without shares; give weights or temperature"),
        ({"mix_by": "licence", "temperature": 2}, "mix_by: got 'licence'; allowed: source, modality"),
        ({"temperature": 0.5}, "temperature: got 0.5; allowed: 1 or more, or None"),
        ({"temperature": float("inf")}, "temperature: got inf; allowed"),
        ({"temperature": 2, "weights": {"ct": 1}}, r"got \{'ct': 1\} and temperature 2; allowed: one of them"),
        ({"caption_origins": {"figur": 1}}, "unknown caption origin 'figur'; did you mean 'figure'"),
        ({"caption_origins": {"llm": 1}}, "samples have no caption of llm; give a share .*: figure, template"),
    ],
)
def test_mixtures_are_validated_at_construction(shard_set, values, message):
    with pytest.raises(ConfigError, match=message):
        SampleStream([shard_set], "train", StreamConfig(**values))


def test_an_empty_split_and_no_sets_are_refused(shard_set):
    with pytest.raises(ConfigError, match="no samples in the split 'train' of 0 sets"):
        SampleStream([], "train", StreamConfig())


def test_draws_are_plain_values(shard_set):
    (draw,) = SampleStream([shard_set], "test", StreamConfig()).plan(5, 1)
    assert isinstance(draw, Draw)
    assert {type(value) for value in draw} == {int}
    assert draw.position == 5


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutations_are_bijections(size, key):
    everywhere = permuted(np.arange(size), size, np.full(size, key, np.uint64))
    assert sorted(everywhere.tolist()) == list(range(size))


def test_permutations_of_few_are_fair():
    keys = mix(np.atleast_1d(stream_key("fair")), np.arange(60_000))
    for size in (2, 3, 4, 5, 10):
        first = np.bincount(permuted(np.zeros(len(keys), np.int64), size, keys), minlength=size)
        last = np.bincount(permuted(np.full(len(keys), size - 1), size, keys), minlength=size)
        assert np.all(np.abs(first / len(keys) - 1 / size) < 0.012)
        assert np.all(np.abs(last / len(keys) - 1 / size) < 0.012)


def test_the_sequence_of_a_seed_is_fixed_for_ever():
    keys = np.full(6, stream_key("golden", 1), np.uint64)
    assert permuted(np.arange(6), 1_000_003, keys).tolist() == GOLDEN


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({}, [(22, 2, 124), (29, 0, 477), (69, 2, 351), (49, 1, 663), (61, 1, 679)]),
        (
            {"ct": 0.7, "web": 0.2, "exam": 0.1},
            [(30, 2, 124), (12, 0, 477), (8, 2, 351), (43, 1, 663), (60, 1, 679)],
        ),
    ],
)
def test_the_draws_of_a_seed_are_fixed_for_ever(shard_set, weights, wanted):
    stream = SampleStream([shard_set], "train", StreamConfig(seed=3, weights=weights))
    draws = stream.draws(70_000, 70_005)
    assert [(draw.row, draw.caption_index, draw.augment_seed % 1000) for draw in draws] == wanted


def test_a_schedule_is_even():
    schedule = even_schedule(np.array([3.0, 1.0]))
    assert np.bincount(schedule).tolist() == [CYCLE * 3 // 4, CYCLE // 4]
    assert set(np.diff(np.flatnonzero(schedule == 1)).tolist()) <= {3, 4, 5}
    assert np.bincount(even_schedule(np.array([1.0, 1e-12]))).tolist() == [CYCLE - 1, 1]
