"""Captions of stores joined at packing, and the store that holds them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from clipmed.errors import DataError
from clipmed.records import Caption, canonical_json
from shards.caption_store import (
    Attempt,
    CaptionStore,
    Outcome,
    Request,
    merge,
    subject_of_facts,
    subject_of_image,
    subject_of_text,
)
from shards.config import PackConfig
from shards.pack import pack
from shards.reader import ShardSet
from shards.verify import verify
from tests.shards.conftest import INLINE, make_sample, write_spool

MASS = canonical_json({"finding": "mass"})
NATIVE = "Figure 1: a mass – “a”."


def outcome(subject: str, *texts: str, refused: tuple[str, ...] = (), captioner: str = "model") -> Outcome:
    found = [Attempt(attempt=1, text=text) for text in texts]
    found += [Attempt(attempt=1, text=text, reasons=("side: left",)) for text in refused]
    return Outcome(
        request=Request(subject=subject, captioner=captioner, prompt="v1"),
        state="done" if texts else "failed",
        texts=tuple(found),
        tokens_in=10,
        tokens_out=5,
        error="",
    )


def write_store(path: Path, *outcomes: Outcome) -> Path:
    with CaptionStore.open(path, "write") as store:
        for each in outcomes:
            store.record(each, "")
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    samples = [make_sample("a", n, finding="mass" if n < 6 else "normal") for n in range(9)]
    return write_spool(tmp_path / "a", "a", samples)


def captions_of(spool: Path, out: Path, **config: object) -> dict[str, list[tuple[str, str, str]]]:
    """Pack, verify, and return (origin, text, model) of each sample's captions by the sample's path."""
    pack([spool], out, PackConfig(**config), INLINE, progress=False)  # type: ignore[arg-type]
    assert verify(out, progress=False) == []
    rows = ShardSet(out).table.to_pylist()
    return {
        json.loads(row["provenance"])["path"]: [(c["origin"], c["text"], c["model"] or "") for c in row["captions"]]
        for row in rows
    }


def test_made_captions_stand_beside_templates_or_take_their_place(spool: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.sqlite", outcome(subject_of_facts(MASS), "CT with a mass.", refused=("Left.",)))
    plain = captions_of(spool, tmp_path / "plain")
    added = captions_of(spool, tmp_path / "added", captions=(store,))
    replaced = captions_of(spool, tmp_path / "replaced", captions=(store,), caption_join="replace")
    made = ("llm", "CT with a mass.", "model")
    for path, captions in plain.items():
        native = [caption for caption in captions if caption[0] == "figure"]
        templates = [caption for caption in captions if caption[0] == "template"]
        if "mass" in native[0][1]:
            assert added[path] == [*native, made, *templates]
            assert replaced[path] == [*native, made]
        else:
            assert added[path] == replaced[path] == captions
    manifest = ShardSet(tmp_path / "replaced").manifest["captions"]
    assert manifest["samples"] == {"from_store": 6, "from_template": 3}
    assert manifest["by_model"]["llm: model (v1)"] == 6


def test_captions_of_an_image_and_rewrites_of_a_native_text_find_their_sample(spool: Path, tmp_path: Path) -> None:
    first = make_sample("a", 1, finding="mass")
    store = write_store(
        tmp_path / "s.sqlite",
        outcome(subject_of_image(first.sha256), "An image of its own."),
        outcome(subject_of_text(NATIVE), "A mass."),
    )
    added = captions_of(spool, tmp_path / "added", captions=(store,))["a/1.jpg"]
    assert added[:3] == [
        ("figure", NATIVE, ""),
        ("rewrite", "A mass.", "model"),
        ("llm", "An image of its own.", "model"),
    ]
    replaced = captions_of(spool, tmp_path / "replaced", captions=(store,), caption_join="replace")["a/1.jpg"]
    assert [caption[:2] for caption in replaced] == [("rewrite", "A mass."), ("llm", "An image of its own.")]


def test_many_captions_are_drawn_by_the_key_and_models_can_be_chosen(spool: Path, tmp_path: Path) -> None:
    texts = [f"CT number {n} with a mass." for n in range(20)]
    store = write_store(
        tmp_path / "s.sqlite",
        outcome(subject_of_facts(MASS), *texts),
        outcome(subject_of_facts(MASS), "By another.", captioner="other"),
    )
    settings = {"captions": (store,), "caption_models": ("model",), "captions_per_sample": 3}
    packed = captions_of(spool, tmp_path / "one", **settings)
    drawn = [tuple(text for origin, text, _ in captions if origin == "llm") for captions in packed.values()]
    drawn = [texts for texts in drawn if texts]
    assert len(drawn) == 6
    assert all(len(set(texts)) == 3 for texts in drawn)
    assert len(set(drawn)) > 3
    assert "By another." not in str(packed)
    assert captions_of(spool, tmp_path / "two", **settings) == packed


def test_the_same_captions_give_the_same_bytes_and_others_another_set(spool: Path, tmp_path: Path) -> None:
    wanted = [outcome(subject_of_facts(MASS), "CT with a mass."), outcome("facts:0", refused=("x",))]
    digests = []
    for number, order in enumerate((wanted, wanted[::-1], [outcome(subject_of_facts(MASS), "Another.")])):
        store = write_store(tmp_path / str(number) / "s.sqlite", *order)
        captions_of(spool, tmp_path / f"set{number}", captions=(store,))
        files = sorted(path for path in (tmp_path / f"set{number}").rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_a_store_for_other_facts_is_an_error(spool: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.sqlite", outcome("facts:0", "A caption."))
    with pytest.raises(DataError, match=r"no sample took a caption of s\.sqlite: they were made for other facts"):
        captions_of(spool, tmp_path / "set", captions=(store,))
    with pytest.raises(DataError, match="no caption store"):
        captions_of(spool, tmp_path / "set", captions=(tmp_path / "none.sqlite",))


def test_a_store_keeps_what_came_and_refuses_a_second_answer(tmp_path: Path) -> None:
    facts = subject_of_facts(MASS)
    first = outcome(facts, "One.", refused=("Two.",))
    path = write_store(tmp_path / "s.sqlite", first, outcome("facts:1", refused=("Three.",)))
    with CaptionStore.open(path, "write") as store:
        assert store.outcome(first.request) == first
        assert store.accepted(facts) == (Caption(text="One.", origin="llm", model="model", prompt="v1"),)
        assert store.counts() == {
            "done": 1, "failed": 1, "accepted": 1, "refused": 2, "tokens_in": 20, "tokens_out": 10
        }  # fmt: skip
        assert store.refusals() == {"side": 2}
        with pytest.raises(DataError, match=r"holds captions of .* already"):
            store.record(first, "")
        with pytest.raises(DataError, match="done means that one of its texts was accepted"):
            store.record(replace(first, state="failed"), "")
        store.record(outcome("facts:1", "At last."), "")
        judged = replace(first, state="failed", texts=tuple(replace(t, reasons=("x: y",)) for t in first.texts))
        store.rejudge(judged)
        assert store.state(first.request) == "failed"
        with pytest.raises(DataError, match="holds no outcome with these texts"):
            store.rejudge(replace(judged, texts=judged.texts[:1]))


def test_stores_are_merged_without_losing_what_is_done(tmp_path: Path) -> None:
    one = write_store(tmp_path / "1.sqlite", outcome("facts:1", "One."), outcome("facts:2", refused=("x",)))
    two = write_store(tmp_path / "2.sqlite", outcome("facts:1", "Other."), outcome("facts:2", "Two."))
    counts = merge(tmp_path / "all.sqlite", [one, two])
    assert counts == {"taken": 2, "replaced": 1, "equal": 0, "kept": 1}
    with CaptionStore.open(tmp_path / "all.sqlite", "read") as store:
        assert [caption.text for caption in store.accepted("facts:1")] == ["One."]
        assert [caption.text for caption in store.accepted("facts:2")] == ["Two."]
    with pytest.raises(DataError, match="cannot be merged into itself"):
        merge(one, [one])


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to look like one" * 100)
    with pytest.raises(DataError, match="cannot be opened as a caption store"):
        CaptionStore.open(tmp_path / "text.sqlite", "read")
    path = write_store(tmp_path / "s.sqlite", outcome("facts:1", "One."))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '9'")
    connection.close()
    with pytest.raises(DataError, match="is a caption store of version 9; allowed: 1"):
        CaptionStore.open(path, "read")
