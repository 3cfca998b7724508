"""The same picture in several files: found, told from look-alikes, dropped once, and never on both sides of a split."""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps

from clipmed.images import decode_rgb
from clipmed.jobs import JobsConfig
from clipmed.records import Caption, Split
from shards.config import PackConfig
from shards.evidence import HITS, NEAR, Evidence
from shards.pack import pack
from shards.pictures import correlation, grey_image, views_of
from shards.search import near_pairs, num_tables
from tests.shards.conftest import INLINE, jpeg_of, make_sample, make_scan, write_spool
from tests.shards.test_plan import placed, row

NEAR_CONFIG = PackConfig(dedupe="near", val_fraction=0.2, test_fraction=0.3)

COPIES = {
    "encoded again": lambda image: jpeg_of(image, 50),
    "half the size": lambda image: jpeg_of(
        image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    ),
    "one and a half": lambda image: jpeg_of(image.resize((image.width * 3 // 2, image.height * 3 // 2))),
    "grey": lambda image: jpeg_of(image.convert("L")),
    "white border": lambda image: jpeg_of(ImageOps.expand(image, image.width // 25, "white")),
    "black border": lambda image: jpeg_of(ImageOps.expand(image, image.width // 12, "black")),
}


def views(jpeg):
    return views_of(grey_image(jpeg))


def bits_between(one, other):
    return min((first ^ second).bit_count() for first in one.hashes for second in other.hashes)


def pairs_of(*pairs):
    rows = [{"first": a, "second": b, "bits": 3, "correlation": 0.93} for a, b in pairs]
    return Evidence(near=pa.Table.from_pylist(rows, NEAR), hits=HITS.empty_table(), counts={})


@pytest.mark.parametrize("bits", [0, 1, 3, 6, 8])
def test_the_search_finds_exactly_the_pairs_that_comparing_all_finds(bits):
    generator = np.random.default_rng(bits)
    hashes = generator.integers(0, 2**64, 400, dtype=np.uint64)
    for number in range(100, 400):  # copies of copies, with up to ten bits flipped
        flips = generator.integers(0, 64, generator.integers(0, 11)).tolist()
        hashes[number] = hashes[generator.integers(0, number)] ^ np.uint64(sum({1 << flip for flip in flips}))
    side = generator.random(400) < 0.5
    first, second = np.triu_indices(400, 1)
    close = np.bitwise_count(hashes[first] ^ hashes[second]) <= bits
    wanted = set(zip(first[close].tolist(), second[close].tolist(), strict=True))
    assert len(wanted) > 10
    assert list(map(tuple, near_pairs(hashes, bits).T.tolist())) == sorted(wanted)
    sided = {(a, b) for a, b in wanted if side[a] != side[b]}
    assert set(map(tuple, near_pairs(hashes, bits, side).T.tolist())) == sided
    assert near_pairs(hashes[:1], bits).shape == near_pairs(hashes[:0], bits).shape == (2, 0)
    assert num_tables(8) == 165


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_close_hashes_and_the_same_detail(name):
    for seed in range(8):
        scan = make_scan(seed)
        one, other = views(jpeg_of(scan)), views(COPIES[name](scan))
        assert bits_between(one, other) <= PackConfig().phash_bits
        assert correlation(one, other) >= PackConfig().min_correlation


def test_pictures_with_one_outline_and_other_detail_are_not_the_same():
    yy, xx = np.mgrid[:160, :160]
    inside = ((xx - 80) ** 2 + (yy - 80) ** 2 < 70**2)[..., None]
    eyes = [
        views(jpeg_of(Image.fromarray(np.where(inside, np.asarray(make_scan(n)) // 2 + 60, 0).astype(np.uint8))))
        for n in (1, 2)
    ]
    assert correlation(*eyes) < 0.5
    assert correlation(eyes[0], eyes[0]) > 0.99


def test_pictures_that_agree_in_one_half_are_not_the_same():
    base = np.asarray(make_scan(1).filter(ImageFilter.GaussianBlur(10)), np.float64)
    details = [np.asarray(make_scan(n), np.float64) - 128 for n in (2, 3)]
    one, other = (1.4 * base - 60 + 0.15 * detail for detail in details)
    other[:, :80] = one[:, :80]
    halves = [views(jpeg_of(Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)))) for picture in (one, other)]
    assert correlation(*halves) < PackConfig().min_correlation


def test_pictures_without_texture_are_never_said_to_be_the_same():
    slope = np.repeat(np.linspace(20, 230, 160, dtype=np.uint8)[None], 160, axis=0)
    stripes = views(jpeg_of(Image.fromarray(slope).convert("RGB")))
    assert correlation(stripes, stripes) == -1


def test_of_real_sets_copies_are_found_and_no_two_patients_are_one(real_data):
    files = sorted((real_data / "images" / "cxr_pneumonia").rglob("*.jpeg"))[::2]
    if not files:
        pytest.skip("no chest radiographs")
    scans = [views(file.read_bytes()) for file in files]
    owner = np.repeat(np.arange(len(scans)), [len(scan.hashes) for scan in scans])
    hashes = np.array([value for scan in scans for value in scan.hashes], np.uint64)
    close = owner[near_pairs(hashes, PackConfig().phash_bits)]
    patients = np.unique(close[:, close[0] != close[1]], axis=1).T.tolist()
    assert patients  # there are look-alikes, and pixels tell them apart
    assert max(correlation(scans[a], scans[b]) for a, b in patients) < PackConfig().min_correlation

    found = []
    for file, scan in zip(files[::20], scans[::20], strict=True):
        image = Image.open(file).convert("RGB")
        for make in COPIES.values():
            copy = views(make(image))
            is_close = bits_between(scan, copy) <= PackConfig().phash_bits
            found.append(is_close and correlation(scan, copy) >= PackConfig().min_correlation)
    assert np.mean(found) > 0.9


def test_of_one_picture_the_most_protected_then_the_largest_then_the_smallest_key_is_kept():
    near = pairs_of(("x", "y"), ("y", "z"), ("x", "z"))
    config = PackConfig(dedupe="near", val_fraction=0, test_fraction=0)
    rows = [row("a", image="x", pixels=900), row("b", image="y", split="test"), row("c", image="z", pixels=400)]
    kept, rejects = placed(rows, config, near)
    assert {key: split for key, (split, _) in kept.items()} == {"b": "test"}
    assert {(r["item"], r["reason"], r["detail"]) for r in rejects} == {
        ("a", "duplicate_near", "3 bits from b, correlation 0.93"),
        ("c", "duplicate_near", "3 bits from b, correlation 0.93"),
    }
    kept, _ = placed([row("a", image="x"), row("b", image="y", pixels=900), row("c", image="z")], config, near)
    assert list(kept) == ["b"]
    kept, _ = placed([row("a", image="x"), row("b", image="y"), row("c", image="z")], config, near)
    assert list(kept) == ["a"]


@pytest.mark.parametrize("near", [pairs_of(), pairs_of(("x", "y"))])
def test_a_copy_that_follows_to_a_test_set_does_not_take_the_place_of_the_original(near):
    images = ("x", "y") if len(near.near) else ("x", "x")
    rows = [row("a", image=images[0], pixels=900), row("b", image=images[1], split="test")]
    kept, _ = placed(rows, PackConfig(dedupe="near"), near)
    assert list(kept) == ["b"]


def test_a_sample_is_dropped_only_for_one_that_it_was_compared_with():
    rows = [row("a", image="x", pixels=900), row("b", image="y", pixels=500), row("c", image="z", pixels=100)]
    config = PackConfig(dedupe="near", val_fraction=0, test_fraction=0)
    kept, rejects = placed(rows, config, pairs_of(("x", "y"), ("y", "z")))
    assert set(kept) == {"a", "c"}
    assert [(r["item"], "from a" in r["detail"]) for r in rejects] == [("b", True)]


def test_groups_with_the_same_picture_share_a_split_unless_it_is_boilerplate():
    config = PackConfig(dedupe="near", test_fraction=0.5, val_fraction=0, max_linked_groups=5)
    pairs = [row(f"{n}{side}", group=f"{n}{side}", image=f"{n}{side}") for n in range(40) for side in "ab"]
    rest = [row(f"{n}{side}-2", group=f"{n}{side}") for n in range(40) for side in "ab"]
    kept, _ = placed(pairs + rest, config, pairs_of(*((f"{n}a", f"{n}b") for n in range(40))))
    assert all(kept[f"{n}a-2"][0] == kept[f"{n}b-2"][0] for n in range(40))
    assert {split for split, _ in kept.values()} == {"train", "test"}

    logo = [row(f"logo-{n}", group=f"g{n}", image=f"l{n}") for n in range(60)]
    figures = [row(f"figure-{n}", group=f"g{n}") for n in range(60)]
    kept, rejects = placed(logo + figures, config, pairs_of(*(("l0", f"l{n}") for n in range(1, 60))))
    assert len(rejects) == 59
    assert 10 < Counter(split for split, _ in kept.values())["test"] < 50


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_two_kept_samples_show_the_same_picture_and_nothing_is_lost(data):
    numbers = st.integers(0, 11)
    pairs = data.draw(st.lists(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=14))
    pairs = sorted({tuple(sorted(pair)) for pair in pairs})
    official = {group: data.draw(st.sampled_from([None, "train", "test"])) for group in range(4)}
    rows = []
    for n in range(data.draw(st.integers(1, 16))):
        group, image, size = data.draw(st.integers(0, 3)), data.draw(numbers), data.draw(st.sampled_from([10, 20]))
        rows.append(row(f"k{n:02d}", group=f"g{group}", image=f"i{image}", pixels=size, split=official[group]))
    evidence = pairs_of(*((f"i{a}", f"i{b}") for a, b in pairs))
    config = PackConfig(dedupe="near", test_fraction=0.4)
    kept, rejects = placed(rows, config, evidence)
    assert sorted([*kept, *(r["item"] for r in rejects)]) == sorted(r["key"] for r in rows)
    images = [r["sha256"] for r in rows if r["key"] in kept]
    assert len(images) == len(set(images))
    assert not any(f"i{a}" in images and f"i{b}" in images for a, b in pairs)
    assert all(
        r["detail"].split(" from ")[-1].split(",")[0].split(" as ")[-1] in kept
        for r in rejects
        if "near" in r["reason"]
    )
    shuffled = data.draw(st.permutations(rows))
    assert placed(shuffled, config, evidence) == (kept, rejects)


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """Spools of six scans each: `web` holds copies of those of `exam`, and look-alikes of none."""
    folder = tmp_path_factory.mktemp("copies")
    scans = [make_scan(seed) for seed in range(6)]
    exam = [make_sample("exam", n, image=jpeg_of(scan), split=Split.TEST) for n, scan in enumerate(scans)]
    made = [make(scan) for make, scan in zip(COPIES.values(), scans, strict=True)]
    web = [make_sample("web", n, image=jpeg, group="PMC1") for n, jpeg in enumerate(made)]
    own = [make_scan(100 + n) for n in range(3)] + [ImageOps.expand(make_scan(103), 1)]  # two close views of its own
    web += [make_sample("web", f"own-{n}", image=jpeg_of(scan), group="PMC1") for n, scan in enumerate(own)]
    return [write_spool(folder / name, name, samples) for name, samples in (("exam", exam), ("web", web))]


def test_packing_near_drops_the_copies_and_keeps_their_article_with_the_test_set(copies, tmp_path):
    manifest = pack(copies, tmp_path / "set", NEAR_CONFIG, INLINE, progress=False)
    rows = pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()
    assert Counter(row["source"] for row in rows) == {"exam": 6, "web": 4}
    assert {row["split"] for row in rows} == {"test"}
    removed = pq.read_table(tmp_path / "set" / "removed.parquet").to_pylist()
    assert {row["rule"] for row in removed} == {"picture"}
    assert {row["match"] for row in removed} == {row["key"] for row in rows if row["source"] == "exam"}
    assert manifest["pictures"]["same_pairs"] == 6
    assert pack(copies, tmp_path / "exact", PackConfig(), INLINE, progress=False)["counts"]["samples"] == 16


def test_packing_near_gives_the_same_bytes_in_any_order_and_after_a_kill(copies, tmp_path, monkeypatch):
    pack(copies, tmp_path / "set", NEAR_CONFIG, INLINE, progress=False)
    pack(copies[::-1], tmp_path / "again", NEAR_CONFIG, JobsConfig(executor="processes", workers=2), progress=False)

    def contents(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert contents(tmp_path / "again") == contents(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr("shards.pack.make_plan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(copies, tmp_path / "cut", NEAR_CONFIG, INLINE, progress=False)
    hashes = sorted((tmp_path / ".cut.partial" / "hashes").iterdir())
    assert len(hashes) == 3  # of the four units one is empty
    with monkeypatch.context() as patch:  # what was hashed is not decoded again
        patch.setattr("shards.comparing.hash_unit", lambda *_: 1 / 0)
        pack(copies, tmp_path / "cut", NEAR_CONFIG, INLINE, progress=False)
    assert contents(tmp_path / "cut") == contents(tmp_path / "set")


def test_a_figure_its_panels_and_translations_stay_in_one_split(tmp_path):
    samples = []
    for n in range(30):
        scan = make_scan(n, 200)
        whole = make_sample("pmc", f"PMC{n}/fig", image=jpeg_of(scan), group=f"PMC{n}", provenance={"num_panels": 2})
        samples.append(whole)
        for letter, box in (("A", (0, 0, 100, 200)), ("B", (100, 0, 200, 200))):
            told = {"parent": whole.key}
            panel = jpeg_of(scan.crop(box))
            samples.append(make_sample("pmc", f"PMC{n}/fig#{letter}", image=panel, group=f"PMC{n}", provenance=told))
        other = jpeg_of(scan.resize((150, 150)))  # a translation prints the figure again, as an article of its own
        samples.append(make_sample("pmc", f"PMC9{n}/fig", image=other, group=f"PMC9{n}"))
        samples.append(make_sample("pmc", f"PMC9{n}/more", image=jpeg_of(make_scan(500 + n)), group=f"PMC9{n}"))
    spool = write_spool(tmp_path / "pmc", "pmc", samples)
    config = PackConfig(dedupe="near", val_fraction=0.2, test_fraction=0.4)
    pack([spool], tmp_path / "set", config, INLINE, progress=False)
    rows = pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()
    assert len(rows) == 30 * 4
    by_key = {row_["key"]: row_["split"] for row_ in rows}
    for row_ in rows:
        parent = json.loads(row_["provenance"]).get("parent")
        assert parent is None or by_key[parent] == row_["split"]
    groups = {}
    for row_ in rows:
        groups.setdefault(row_["group"], set()).add(row_["split"])
    assert all(groups[f"PMC{n}"] == groups[f"PMC9{n}"] for n in range(30))
    assert {split for splits in groups.values() for split in splits} == {"train", "val", "test"}


def text_sample(name, texts, **changes):
    captions = tuple(Caption(text=text, origin="figure") for text in texts)
    return make_sample("web", name, captions=captions, facts=None, **changes)


def test_samples_whose_texts_another_holds_are_dropped_when_that_is_wanted(tmp_path):
    samples = [
        text_sample("whole", ["The chest of a man.", "Seen at day 3."], image=jpeg_of(make_scan(1))),
        text_sample("part", ["the chest  of a MAN."], image=jpeg_of(make_scan(2, 120))),
        text_sample("more", ["The chest of a woman.", "Seen at day 3."], image=jpeg_of(make_scan(3, 120))),
        make_sample("web", "label"),
        make_sample("web", "label too"),
    ]
    spool = write_spool(tmp_path / "web", "web", samples)
    config = PackConfig(caption_duplicates="drop", val_fraction=0, test_fraction=0)
    pack([spool], tmp_path / "set", config, INLINE, progress=False)
    (dropped,) = [r for r in pq.read_table(tmp_path / "set" / "rejects.parquet").to_pylist() if r["stage"] == "plan"]
    assert dropped["item"] == samples[1].key
    assert (dropped["reason"], dropped["detail"]) == ("duplicate_caption", f"only texts of {samples[0].key}")
    assert pack([spool], tmp_path / "all", PackConfig(), INLINE, progress=False)["counts"]["samples"] == 5


def test_gates_drop_kinds_languages_and_parts_that_are_not_wanted():
    rows = [
        row("unknown"),
        row("plot", figure_kind="plot", caption_language="en"),
        row("french", figure_kind="medical", caption_language="fr"),
        row("whole", figure_kind="medical", num_panels=2),
        row("panel", is_panel=True),
    ]

    def dropped(**settings_):
        kept, rejects = placed(rows, PackConfig(**settings_))
        assert sorted([*kept, *(r["item"] for r in rejects)]) == sorted(r["key"] for r in rows)
        return {(r["item"], r["reason"]) for r in rejects}

    assert dropped() == set()
    assert dropped(figure_kinds=("medical",)) == {("plot", "kind_not_kept")}
    assert dropped(caption_languages=("en",)) == {("french", "language_not_kept")}
    assert dropped(parts="figures") == {("panel", "kind_not_kept")}
    assert dropped(parts="panels") == {("whole", "kind_not_kept")}
    _, rejects = placed(rows, PackConfig(figure_kinds=("medical", "other")))
    assert rejects[0]["detail"] == "plot; allowed: medical, other"


def test_provenance_reaches_the_gates(tmp_path):
    told = {"figure_kind": "diagram", "caption_language": "de", "parent": "x", "num_panels": 0}
    samples = [make_sample("web", 1), make_sample("web", 2, provenance=told)]
    spool = write_spool(tmp_path / "web", "web", samples)
    for settings_ in ({"figure_kinds": ("medical",)}, {"caption_languages": ("en",)}, {"parts": "figures"}):
        manifest = pack([spool], tmp_path / "set", PackConfig(**settings_), INLINE, progress=False)
        assert manifest["counts"]["samples"] == 1
        shutil.rmtree(tmp_path / "set")


def test_stored_pictures_that_do_not_decode_are_compared_with_none(tmp_path, monkeypatch):
    assert decode_rgb(jpeg_of(make_scan(1))).shape == (160, 160, 3)
    broken = make_sample("web", "broken")
    spool = write_spool(tmp_path / "web", "web", [broken, make_sample("web", "fine")])
    monkeypatch.setattr("shards.comparing.grey_image", _refuse)
    manifest = pack([spool], tmp_path / "set", NEAR_CONFIG, INLINE, progress=False)
    assert manifest["pictures"] == {"images": 2, "without_views": 2, "compared_pairs": 0, "same_pairs": 0}
    assert manifest["counts"]["samples"] == 2


def _refuse(_jpeg):
    from clipmed.errors import ItemRejectedError
    from clipmed.rejects import RejectReason, Stage

    raise ItemRejectedError(Stage.IMAGE, RejectReason.IMAGE_CORRUPT, "cut off")
