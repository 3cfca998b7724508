"""Evaluation sets kept out: by bytes, by picture, by id, with their articles; the lists, the counts, the page."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ImageOps

from clipmed.errors import ConfigError, DataError
from shards.__main__ import main
from shards.config import PackConfig
from shards.evalsets import read_evaluation_set
from shards.fingerprints import FINGERPRINTS, fingerprint, write_fingerprints
from shards.pack import pack
from shards.verify import verify
from tests.shards.conftest import INLINE, jpeg_of, make_sample, make_scan, write_spool


@pytest.fixture(scope="session")
def articles(tmp_path_factory):
    """A spool of eight articles with two figures each, with all their ids."""
    samples = [
        make_sample(
            "pmc",
            f"{n}-{figure}",
            image=jpeg_of(make_scan(10 * n + figure)),
            group=f"PMC{n}",
            provenance={"pmcid": f"PMC{n}", "pmid": f"77{n}", "doi": f"10.1234/Ab.{n}"},
        )
        for n in range(1, 9)
        for figure in (0, 1)
    ]
    return write_spool(tmp_path_factory.mktemp("articles") / "pmc", "pmc", samples), samples


@pytest.fixture
def exam(tmp_path):
    """A folder of three images: figures of articles 1 (as it is), 2 (framed and smaller), and one of none."""
    folder = tmp_path / "exam" / "cases"
    folder.mkdir(parents=True)
    (folder / "one.jpg").write_bytes(jpeg_of(make_scan(10)))
    framed = ImageOps.expand(make_scan(20).resize((120, 120)), 8, "white")
    framed.save(folder / "two.png")
    make_scan(999).save(folder / "none.png")
    (folder / "notes.txt").write_text("not an image")
    return folder.parent


def packed_with(spool, out, *lists, **settings):
    config = PackConfig(decontaminate=tuple(lists), **settings)
    manifest = pack([spool], out, config, INLINE, progress=False)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    hits = {row["item"]: row["detail"] for row in rejects if row["reason"] == "contaminated"}
    return manifest, {row["group"] for row in samples}, hits


def test_images_of_an_evaluation_set_go_with_their_articles(articles, exam, tmp_path):
    spool, samples = articles
    write_fingerprints(fingerprint(exam, progress=False), tmp_path / "exam.parquet")
    manifest, groups, hits = packed_with(spool, tmp_path / "set", tmp_path / "exam.parquet")
    assert groups == {f"PMC{n}" for n in range(3, 9)}
    first, first_other, second, second_other = (sample.key for sample in samples[:4])
    assert hits[first] == "exam.parquet: bytes: cases/one.jpg"
    assert re.fullmatch(r"exam\.parquet: picture: \d bits from cases/two\.png, correlation 0\.\d\d", hits[second])
    assert hits[first_other] == f"exam.parquet: same_group: in one group with {first}"
    assert hits[second_other] == f"exam.parquet: same_group: in one group with {second}"
    assert manifest["decontamination"]["dropped"] == [
        {"list": "exam.parquet", "rule": "bytes", "samples": 1},
        {"list": "exam.parquet", "rule": "picture", "samples": 1},
        {"list": "exam.parquet", "rule": "same_group", "samples": 2},
    ]
    assert verify(tmp_path / "set", progress=False) == []

    _, groups, hits = packed_with(spool, tmp_path / "alone", tmp_path / "exam.parquet", decontaminate_groups=False)
    assert set(hits) == {first, second}
    assert len(groups) == 8


def test_a_packed_set_is_a_list_and_its_articles_count_even_without_its_pictures(articles, tmp_path):
    spool, _ = articles
    others = [make_sample("quiz", n, image=jpeg_of(make_scan(700 + n)), group=f"PMC{n}") for n in (3, 4, 55)]
    others = [make_sample("quiz", "x", image=jpeg_of(make_scan(50)), group="x"), *others]
    quiz = write_spool(tmp_path / "quiz", "quiz", others)
    pack([quiz], tmp_path / "quiz-set", PackConfig(), INLINE, progress=False)
    _, groups, hits = packed_with(spool, tmp_path / "set", tmp_path / "quiz-set")
    assert groups == {"PMC1", "PMC2", "PMC6", "PMC7", "PMC8"}
    assert {detail.split(": ")[1] for detail in hits.values()} == {"bytes", "group", "same_group"}


@pytest.mark.parametrize(
    ("name", "text", "dropped"),
    [
        ("ids.txt", "# articles\nPMC1.2\nhttps://doi.org/10.1234/AB.2\n\nPMID: 773\n", {1, 2, 3}),
        ("ids.csv", "number,doi,title\n7,10.1234/ab.5,PMC6\n8,,x\n", {5}),
        ("ids.csv", "PMC4\nPMC5\n", {4, 5}),
        ("ids.tsv", "pmid\tnote\n771\tPMC2\n", {1}),
        ("more.txt", "\ufeffpmc8\n12345\n", {8}),
    ],
)
def test_plain_lists_name_articles_by_any_id(name, text, dropped, articles, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    manifest, groups, hits = packed_with(articles[0], tmp_path / "set", tmp_path / name)
    assert groups == {f"PMC{n}" for n in range(1, 9) if n not in dropped}
    assert sum(row["samples"] for row in manifest["decontamination"]["dropped"]) == len(hits) == 2 * len(dropped)


def test_plain_lists_name_samples_by_key_group_and_digest(articles, tmp_path):
    spool, samples = articles
    listed = [samples[0].key, samples[2].sha256, samples[4].phash, "PMC4"]
    (tmp_path / "ids.txt").write_text("\n".join(listed))
    _, _, hits = packed_with(spool, tmp_path / "set", tmp_path / "ids.txt", decontaminate_groups=False)
    rules = {key: detail.split(": ")[1] for key, detail in hits.items()}
    assert rules == {
        samples[0].key: "key",
        samples[2].key: "bytes",
        samples[4].key: "phash",
        samples[6].key: "article",
        samples[7].key: "article",
    }


def test_the_set_follows_from_what_the_lists_hold_not_from_where_they_lie(articles, tmp_path):
    spool, _ = articles
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "ids.txt", tmp_path / "moved" / "ids.txt"):
        path.write_text("PMC1\n")
    packed_with(spool, tmp_path / "a", tmp_path / "ids.txt")
    packed_with(spool, tmp_path / "b", tmp_path / "moved" / "ids.txt")
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert one == other
    (tmp_path / "ids.txt").write_text("PMC1\nPMC99\n")
    manifest, _, _ = packed_with(spool, tmp_path / "c", tmp_path / "ids.txt")
    assert manifest["plan_sha256"] != json.loads(one["manifest.json"])["plan_sha256"]


def test_licences_come_before_and_a_hit_is_counted_once(articles, tmp_path):
    hit = make_sample("web", 1, spdx="LicenseRef-TDM", group="PMC1")
    spool = write_spool(tmp_path / "web", "web", [hit, make_sample("web", 2)])
    (tmp_path / "ids.txt").write_text("PMC1\n")
    manifest, _, hits = packed_with(spool, tmp_path / "set", tmp_path / "ids.txt")
    assert hits == {}
    assert manifest["decontamination"]["dropped"] == []
    assert len(pq.read_table(tmp_path / "set" / "removed.parquet")) == 0


def test_what_is_no_list_is_refused(articles, exam, tmp_path):
    spool, _ = articles
    with pytest.raises(DataError, match="is no list to decontaminate with; give a file of"):
        packed_with(spool, tmp_path / "set", tmp_path / "absent.parquet")
    with pytest.raises(DataError, match="is no list to decontaminate with"):
        packed_with(spool, tmp_path / "set", exam)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no ids; write one a line"):
        packed_with(spool, tmp_path / "set", tmp_path / "empty.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        packed_with(spool, tmp_path / "set", tmp_path / "bad.txt")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="is not a file of fingerprints"):
        packed_with(spool, tmp_path / "set", tmp_path / "other.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is not readable as parquet"):
        packed_with(spool, tmp_path / "set", tmp_path / "cut.parquet")
    with pytest.raises(ConfigError, match=r"decontaminate: two files are called ids\.txt"):
        PackConfig(decontaminate=(tmp_path / "ids.txt", tmp_path / "moved" / "ids.txt"))


def test_fingerprints_hold_no_image_and_are_the_same_every_time(exam, tmp_path):
    table = fingerprint(exam, progress=False)
    assert table.schema.equals(FINGERPRINTS)
    assert table["item"].to_pylist() == ["cases/none.png", "cases/one.jpg", "cases/two.png"]
    for name in ("a.parquet", "b.parquet"):
        write_fingerprints(fingerprint(exam, progress=False), tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_evaluation_set(tmp_path / "a.parquet").pictures.equals(table)
    (exam / "cases" / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg: image_unsupported: .*; remove it from the folder"):
        fingerprint(exam, progress=False)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        fingerprint(tmp_path / "nothing", progress=False)


def test_splits_of_a_packed_set(packed, exam):
    test = fingerprint(packed, ["test"], progress=False)
    both = fingerprint(packed, ["test", "val"], progress=False)
    assert set(test["item"].to_pylist()) < set(both["item"].to_pylist())
    with pytest.raises(DataError, match="unknown split 'dev'"):
        fingerprint(packed, ["dev"], progress=False)
    with pytest.raises(DataError, match="it has no splits"):
        fingerprint(exam, ["test"], progress=False)


def test_the_command_line_and_the_page_of_what_was_removed(articles, exam, tmp_path, capsys):
    spool, samples = articles
    listed, out = tmp_path / "exam.parquet", tmp_path / "set"
    assert main(["fingerprint", str(exam), "--out", str(listed)]) == 0
    command = ["pack", str(spool), "--out", str(out), "--decontaminate", str(listed), "--jobs.executor", "inline"]
    assert main(command) == 0
    assert main(["stats", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Evaluation sets kept out") == 2
    assert "same_group" in printed
    assert main(["removed", str(out), "--spools", str(spool), "--lists", str(listed)]) == 0
    assert "4 of 4 removed samples" in capsys.readouterr().out
    page = (tmp_path / "set-removed.html").read_text()
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|src=\"(?!data:)", page)
    assert page.count("data:image/jpeg;base64,") == 8
    for shown in (*(sample.key for sample in samples[:4]), "cases/two.png", "correlation", "in one article or group"):
        assert shown in page
    assert main(["removed", str(out), "--spools", str(spool)]) == 0
    assert "an id, without a picture" in (tmp_path / "set-removed.html").read_text()
    with pytest.raises(SystemExit, match=r"--out: got .*ids\.txt; allowed: a file that ends in \.parquet"):
        main(["fingerprint", str(exam), "--out", str(tmp_path / "ids.txt")])
