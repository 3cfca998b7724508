"""Compositional splits: who may train on what, equal sizes, no leak through groups; gains by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.records import Modality
from shards.config import PackConfig
from shards.pack import pack
from tests.zeroshot_eval.conftest import write_spool
from zeroshot_eval.compositional import (
    CompositionConfig,
    RoleScore,
    Sample,
    Triple,
    gains,
    read_samples,
    split,
    write_gains,
    write_split,
)

HELD_OUT = Triple("ct", "lung", "cancer")
TRIPLES = {
    HELD_OUT: 6,
    Triple("ct", "brain", "bleeding"): 8,  # related: modality
    Triple("xray", "lung", "pneumonia"): 8,  # related: area
    Triple("mri", "breast", "cancer"): 8,  # related: task
    Triple("fundus", "retina", "glaucoma"): 14,  # unrelated
    Triple("oct", "retina", "drusen"): 6,  # unrelated
}


def make_samples(group_size: int = 2) -> list[Sample]:
    return [
        Sample(
            f"{triple.modality}-{triple.area}-{number:02d}",
            f"{triple.modality}-{triple.area}-{number // group_size}",
            triple,
        )
        for triple, count in TRIPLES.items()
        for number in range(count)
    ]


def test_training_sets_are_of_one_size_and_of_the_right_kind():
    found = split(make_samples(), HELD_OUT)
    assert {role: len(rows) for role, rows in found.train.items()} == {"related": 20, "unrelated": 20, "all": 20}
    assert dict(found.available) == {"related": 24, "unrelated": 20, "all": 44}
    assert len(found.test) == 6
    assert all(row.triple.shared(HELD_OUT) for row in found.train["related"])
    assert not any(row.triple.shared(HELD_OUT) for row in found.train["unrelated"])
    kinds = {bool(row.triple.shared(HELD_OUT)) for row in found.train["all"]}
    assert kinds == {True, False}
    assert all(row.triple != HELD_OUT for rows in found.train.values() for row in rows)
    assert (found.uncovered, found.shared_groups) == ((), 0)


def test_draws_are_seeded_and_take_whole_groups():
    samples = make_samples(group_size=4)
    first = split(samples, HELD_OUT, CompositionConfig(size=12))
    assert split(list(reversed(samples)), HELD_OUT, CompositionConfig(size=12)).train == first.train
    assert split(samples, HELD_OUT, CompositionConfig(size=12, seed=1)).train != first.train
    sizes = {}
    for row in samples:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    for rows in first.train.values():
        assert len(rows) == 12
        drawn = [row.group for row in rows]
        cut = [group for group in set(drawn) if drawn.count(group) < sizes[group]]
        assert len(cut) <= 1  # the last group alone may be cut to the size


def test_a_group_with_held_out_images_gives_no_training_image():
    samples = [*make_samples(), Sample("leak", "ct-lung-0", Triple("xray", "lung", "pneumonia"))]
    found = split(samples, HELD_OUT)
    held = {row.group for row in found.test}
    assert not held & {row.group for rows in found.train.values() for row in rows}
    assert found.shared_groups == 1
    assert found.available["related"] == 24


def test_an_element_that_no_related_image_has_is_named():
    samples = [row for row in make_samples() if row.triple.task != "cancer" or row.triple == HELD_OUT]
    assert split(samples, HELD_OUT).uncovered == ("task",)


def test_what_cannot_be_split():
    samples = make_samples()
    with pytest.raises(ConfigError, match=r"held-out triple: got ct / lung / stroke; allowed: ct / brain / bleeding;"):
        split(samples, Triple("ct", "lung", "stroke"))
    with pytest.raises(ConfigError, match=r"size: got 21; allowed: up to 20 \(related 24, unrelated 20, all 44\)"):
        split(samples, HELD_OUT, CompositionConfig(size=21))
    with pytest.raises(DataError, match="no image is unrelated"):
        split([row for row in samples if row.triple.shared(HELD_OUT)], HELD_OUT)
    with pytest.raises(ConfigError, match="size"):
        CompositionConfig(size=-1)


def test_files_of_a_split(tmp_path: Path):
    samples = make_samples()
    found = split(samples, HELD_OUT, CompositionConfig(size=10))
    write_split(found, samples, tmp_path)
    every = {row.key for row in samples}
    for role in ("related", "unrelated", "all"):
        kept = (tmp_path / f"{role}.txt").read_text().split()
        dropped = (tmp_path / f"{role}.drop.txt").read_text().split()
        assert len(kept) == 10
        assert set(kept) | set(dropped) == every
        assert not set(kept) & set(dropped)
    table = pq.read_table(tmp_path / "split.parquet").to_pylist()
    assert len(table) == 36
    assert {row["modality"] for row in table if row["role"] == "held_out"} == {"ct"}
    written = json.loads((tmp_path / "split.json").read_text())
    assert written["sizes"] == {"held_out": 6, "related": 10, "unrelated": 10, "all": 10}
    # The table of a split is itself a table of samples.
    assert len(read_samples(tmp_path / "split.parquet").rows) == len({row["key"] for row in table})


def test_a_training_set_is_packed_alone_by_its_list(tmp_path: Path):
    write_spool(tmp_path / "squares", "squares", Modality.CT)
    pack([tmp_path / "squares"], tmp_path / "whole", PackConfig(), JobsConfig(executor="inline"), progress=False)
    index = pq.read_table(tmp_path / "whole" / "samples.parquet", columns=["key", "group"]).to_pylist()
    triples = [HELD_OUT, Triple("ct", "brain", "bleeding"), Triple("oct", "retina", "drusen")]
    groups = sorted({row["group"] for row in index})
    samples = [Sample(row["key"], row["group"], triples[groups.index(row["group"]) % 3]) for row in index]
    found = split(samples, HELD_OUT)
    write_split(found, samples, tmp_path / "split")
    config = PackConfig(decontaminate=(tmp_path / "split" / "related.drop.txt",), decontaminate_groups=False)
    pack([tmp_path / "squares"], tmp_path / "related", config, JobsConfig(executor="inline"), progress=False)
    packed = pq.read_table(tmp_path / "related" / "samples.parquet", columns=["key"])["key"].to_pylist()
    assert sorted(packed) == sorted(row.key for row in found.train["related"])


def test_samples_from_csv_and_from_the_facts_of_predictions(tmp_path: Path):
    (tmp_path / "rows.csv").write_text(
        "key,group,modality,area,task\n"
        "a,p1,ct,lung,cancer\n"
        "b,,ct,brain,bleeding\n"
        ",p2,ct,lung,cancer\n"
        "c,p3,ct,,cancer\n"
        "a,p1,ct,lung,cancer\n"
    )
    found = read_samples(tmp_path / "rows.csv")
    assert [(row.key, row.group) for row in found.rows] == [("a", "p1"), ("b", "b")]
    assert found.skipped == {"without a key": 1, "without area": 1, "duplicate key": 1}
    facts = [json.dumps({"area": "lung", "task": "cancer"}), "no json", None]
    table = pa.table({"key": ["a", "b", "c"], "group": ["1", "2", "3"], "modality": ["ct"] * 3, "facts": facts})
    pq.write_table(table, tmp_path / "task.parquet")
    found = read_samples(tmp_path / "task.parquet")
    assert [row.triple for row in found.rows] == [HELD_OUT]
    assert found.skipped == {"without area": 2}
    (tmp_path / "bad.parquet").write_text("nothing")
    with pytest.raises(DataError, match="no table"):
        read_samples(tmp_path / "bad.parquet")


def test_gains_and_their_paired_intervals_by_hand(tmp_path: Path):
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.1, 200)  # shared by the models: the same resamples of the same images
    other = Triple("mri", "brain", "tumour")
    scores = [
        RoleScore(HELD_OUT, "unrelated", 0.5, 0.5 + luck),
        RoleScore(HELD_OUT, "related", 0.6, 0.6 + luck),
        RoleScore(other, "unrelated", 0.4, 0.4 + luck),
        RoleScore(other, "related", 0.7, 0.7 + luck),
        RoleScore(other, "all", 0.3, 0.3 + luck),
    ]
    rows = gains(scores)
    assert [(row.held_out, row.role) for row in rows] == [
        ("ct / lung / cancer", "related"),
        ("mri / brain / tumour", "related"),
        ("mri / brain / tumour", "all"),
        ("mean", "related"),
        ("mean", "all"),
    ]
    assert [row.gain for row in rows] == pytest.approx([0.1, 0.3, -0.1, 0.2, -0.1])
    # The luck is the same on both sides: paired intervals have no width.
    for row in rows:
        assert row.low is not None
        assert (row.low, row.high) == pytest.approx((row.gain, row.gain))
    write_gains(rows, tmp_path / "gains.csv")
    with (tmp_path / "gains.csv").open(newline="") as stream:
        assert float(next(csv.DictReader(stream))["gain"]) == pytest.approx(0.1)
    alone = gains([RoleScore(HELD_OUT, role, 0.5, np.empty(0)) for role in ("related", "unrelated")])
    assert (alone[0].low, alone[0].high) == (None, None)
    with pytest.raises(DataError, match="no score of 'unrelated'"):
        gains(scores[1:2])
    with pytest.raises(DataError, match="scored twice"):
        gains([*scores, scores[0]])
    with pytest.raises(DataError, match="draw as many for each"):
        gains([scores[0], RoleScore(HELD_OUT, "related", 0.6, luck[:50])])
