"""The pack plan: who is kept, in which split, in which order; over columns alone."""

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import ConfigError, DataError
from shards.config import PackConfig
from shards.evidence import NO_EVIDENCE
from shards.intake import INTAKE
from shards.plan import PLAN_COLUMNS, make_plan
from shards.splits import SPLITS

OFFICIAL = (None, None, "train", "val", "test")
COLUMNS = pa.schema([INTAKE.field(name) for name in PLAN_COLUMNS])


def table(rows):
    return pa.Table.from_pylist(rows, COLUMNS)


def row(key, *, image=None, size=100, license_group="commercial", **changes):
    defaults = {"source": "s", "group": f"g-{key}", "split": None, "license": f"L-{license_group}"}
    own = {"key": key, "license_group": license_group, "sha256": image or f"i-{key}", "bytes": size, "pixels": 100}
    told = {"figure_kind": "", "caption_language": "", "is_panel": False, "num_panels": 0, "texts": None}
    return {**defaults, **own, **told, **changes}


def placed(rows, config=None, evidence=NO_EVIDENCE):
    """Return {key: (split, shard)} and the rejects of a plan."""
    samples = table(rows)
    plan = make_plan(samples, config or PackConfig(), evidence)
    keys = samples["key"].take(plan.rows).to_pylist()
    places = zip((SPLITS[code] for code in plan.split), plan.shard.tolist(), strict=True)
    return dict(zip(keys, places, strict=True)), plan.rejects


@st.composite
def spool_rows(draw):
    """Rows with few images and groups, so that duplicates and links are common; groups keep one official split."""
    official = {(s, g): draw(st.sampled_from(OFFICIAL)) for s in "ab" for g in range(6)}
    picks = draw(
        st.lists(
            st.tuples(
                st.sampled_from("ab"),
                st.integers(0, 5),
                st.integers(0, 12),
                st.sampled_from(["commercial", "noncommercial", "other"]),
                st.booleans(),
            ),
            min_size=1,
            max_size=30,
        )
    )
    return [
        row(
            f"{s}-{n:02d}",
            source=s,
            group=f"{s}{g}",
            split=official[s, g] if stated else None,
            license_group=allowed,
            image=f"i{image}",
        )
        for n, (s, g, image, allowed, stated) in enumerate(picks)
    ]


@settings(max_examples=150, deadline=None)
@given(spool_rows(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_plan_keeps_its_promises(rows, seed, random):
    config = PackConfig(
        license_groups=("commercial", "noncommercial"), seed=seed, samples_per_shard=4, val_fraction=0.3
    )
    allowed = [r for r in rows if r["license_group"] != "other"]
    if not allowed:
        with pytest.raises(DataError, match="nothing to pack"):
            make_plan(table(rows), config)
        return
    kept, rejects = placed(rows, config)
    by_key = {r["key"]: r for r in rows}

    assert sorted([*kept, *(r["item"] for r in rejects)]) == sorted(by_key)  # nothing lost, nothing twice
    reasons = Counter(r["reason"] for r in rejects)
    assert reasons["license_not_allowed"] == len(rows) - len(allowed)
    assert {by_key[key]["sha256"] for key in kept} == {r["sha256"] for r in allowed}
    assert len(kept) == len({r["sha256"] for r in allowed})

    splits = defaultdict(set)
    for key, (split, _) in kept.items():
        splits[by_key[key]["group"]].add(split)
    assert all(len(found) == 1 for found in splits.values())
    for r in allowed:
        if r["split"] and r["key"] in kept:
            assert kept[r["key"]][0] == r["split"]

    shuffled = random.sample(rows, len(rows))
    again, rejects_again = placed(shuffled, config)
    assert list(again.items()) == list(kept.items())
    assert rejects_again == rejects
    assert max(Counter(kept.values()).values()) <= 4


def test_of_equal_images_the_most_protected_copy_is_kept_and_named():
    rows = [row("a", split="train", image="x"), row("b", split="test", image="x"), row("c", split="val", image="x")]
    kept, rejects = placed(rows)
    assert {key: split for key, (split, _) in kept.items()} == {"b": "test"}
    assert [(r["item"], r["reason"], r["detail"]) for r in rejects] == [
        ("a", "duplicate_exact", "same bytes as b"),
        ("c", "duplicate_exact", "same bytes as b"),
    ]


def test_without_official_splits_the_smallest_key_is_kept():
    kept, rejects = placed([row("b", image="x"), row("a", image="x"), row("c", image="x")])
    assert list(kept) == ["a"]
    assert {r["item"] for r in rejects} == {"b", "c"}


def test_a_group_that_shares_an_image_with_a_test_group_follows_it_to_test():
    rows = [row("t", group="exam", split="test", image="x"), row("w", group="web", image="x")]
    rows += [row(f"w{n}", group="web") for n in range(5)]
    kept, _ = placed(rows)
    assert {split for split, _ in kept.values()} == {"test"}


def test_linked_groups_are_drawn_together_and_boilerplate_links_none():
    config = PackConfig(test_fraction=0.5, val_fraction=0, max_linked_groups=5)
    pairs = [row(f"{n}{side}", group=f"{n}{side}", image=f"i{n}") for n in range(40) for side in "ab"]
    rest = [row(f"{n}{side}-2", group=f"{n}{side}") for n in range(40) for side in "ab"]
    kept, _ = placed(pairs + rest, config)
    for n in range(40):
        assert len({kept[key][0] for key in (f"{n}a", f"{n}a-2", f"{n}b-2")}) == 1
    assert {split for split, _ in kept.values()} == {"train", "test"}

    logo = [row(f"logo-{n}", group=f"g{n}", image="logo") for n in range(60)]
    figures = [row(f"figure-{n}", group=f"g{n}") for n in range(60)]
    kept, rejects = placed(logo + figures, config)
    assert len(rejects) == 59
    assert 10 < Counter(split for split, _ in kept.values())["test"] < 50


def test_groups_of_one_name_in_two_sources_are_one():
    config = PackConfig(test_fraction=0.5, val_fraction=0)
    rows = [row(f"{source}{n}", source=source, group=f"PMC{n}") for source in "ab" for n in range(40)]
    kept, _ = placed(rows, config)
    assert all(kept[f"a{n}"][0] == kept[f"b{n}"][0] for n in range(40))


def test_a_group_with_two_official_splits_is_refused_by_name():
    with pytest.raises(DataError, match=r"1 groups have samples in several official splits \(p7\).*group column"):
        placed([row("a", group="p7", split="train"), row("b", group="p7", split="test")])


def test_an_official_split_holds_for_the_whole_group():
    kept, _ = placed([row("a", group="p", split="val"), row("b", group="p")])
    assert {split for split, _ in kept.values()} == {"val"}


def test_fractions_and_seeds():
    rows = [row(f"k{n}") for n in range(4000)]
    kept, _ = placed(rows, PackConfig(val_fraction=0.1, test_fraction=0.2))
    shares = Counter(split for split, _ in kept.values())
    assert abs(shares["val"] / 4000 - 0.1) < 0.02
    assert abs(shares["test"] / 4000 - 0.2) < 0.03
    other, _ = placed(rows, PackConfig(val_fraction=0.1, test_fraction=0.2, seed=1))
    assert list(other) != list(kept)
    assert {k for k, v in other.items() if v[0] == "test"} != {k for k, v in kept.items() if v[0] == "test"}


def test_a_larger_spool_does_not_move_samples_between_splits():
    few, _ = placed([row(f"k{n}") for n in range(200)])
    many, _ = placed([row(f"k{n}") for n in range(400)])
    assert all(many[key][0] == split for key, (split, _) in few.items())


def test_order_mixes_sources():
    rows = [row(f"{source}-{n:03d}", source=source) for source in "ab" for n in range(300)]
    kept, _ = placed(rows, PackConfig(val_fraction=0, test_fraction=0))
    first = Counter(key[0] for key in list(kept)[:100])
    assert min(first["a"], first["b"]) > 25


def test_shards_are_cut_by_number_and_by_bytes():
    config = PackConfig(val_fraction=0, test_fraction=0, samples_per_shard=4, megabytes_per_shard=1)
    plan = make_plan(table([row(f"k{n}", size=400_000) for n in range(9)] + [row("big", size=9_000_000)]), config)
    sizes = Counter(plan.shard.tolist())
    assert max(sizes.values()) <= 2  # two of 0.4 MB fit in 1 MB, three do not
    assert np.all(np.diff(plan.shard) >= 0)
    assert plan.shard_names() == [f"train-{number:06d}.tar" for number in range(len(sizes))]


def test_dedupe_none_keeps_copies_in_one_split():
    config = PackConfig(dedupe="none", test_fraction=0.5, val_fraction=0)
    kept, rejects = placed([row(f"{n}{side}", image=f"i{n}") for n in range(30) for side in "ab"], config)
    assert rejects == []
    assert len(kept) == 60
    assert all(kept[f"{n}a"][0] == kept[f"{n}b"][0] for n in range(30))


def test_repeated_keys_and_unknown_splits_are_refused():
    with pytest.raises(DataError, match=r"1 keys come more than once .*first: k\); give every spool once"):
        placed([row("k"), row("k")])
    with pytest.raises(DataError, match="unknown official split 'dev'; allowed: train, val, test"):
        placed([row("k", split="dev")])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"license_groups": ()}, "license_groups: got none"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "below 1 together"),
        ({"val_fraction": float("nan")}, "val_fraction, test_fraction: got nan"),
        ({"test_fraction": -0.1}, "0 or more each"),
        ({"samples_per_shard": 0}, "samples_per_shard: got 0"),
    ],
)
def test_config_is_validated(values, message):
    with pytest.raises(ConfigError, match=message):
        PackConfig(**values)
