"""The review page: what it counts, shows, leaves out and escapes."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipmed.errors import ConfigError, DataError
from clipmed.records import canonical_json
from dataset_builders.captions.review import ReviewConfig, anchor, write_review
from dataset_builders.captions.review_measures import count_tokens, length_histogram, measure_diversity
from dataset_builders.captions.review_pools import ClassName, read_pools
from shards.caption_store import (
    Attempt,
    CaptionStore,
    Outcome,
    Request,
    subject_of_facts,
    subject_of_image,
    subject_of_text,
)
from tests.dataset_builders.caption_spools import TASKS, facts_of, sample, write

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
GLIOMA, CYST, BOTH = (facts_of(*names) for names in (("glioma",), ("cyst",), ("cyst", "glioma")))


class Page(HTMLParser):
    """Collects elements, each with its attributes, and the text under each `id`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {"": ""}
        self._part = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._part = values.get("id") or self._part

    def handle_data(self, data: str) -> None:
        self.texts[self._part] = f"{self.texts.get(self._part, '')} {data}"

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    def text(self, part: str = "") -> str:
        return " ".join(self.texts[part].split())


def record(store: Path, subject: str, *texts: Attempt, model: str = "tiny", content: str = "", error: str = "") -> None:
    with CaptionStore.open(store, "write") as opened:
        state = "done" if any(not text.reasons for text in texts) else "failed"
        request = Request(subject=subject, captioner=model, prompt="v1")
        outcome = Outcome(request=request, state=state, texts=texts, tokens_in=70, tokens_out=9, error=error)
        opened.record(outcome, content)


def good(text: str) -> Attempt:
    return Attempt(attempt=1, text=text)


def bad(text: str, *reasons: str) -> Attempt:
    return Attempt(attempt=2, text=text, reasons=reasons)


def facts_id(facts: dict[str, str]) -> str:
    return subject_of_facts(canonical_json(facts))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Five samples of a glioma, two of a cyst, one of both, and one without labels."""
    known = [*[GLIOMA] * 5, *[CYST] * 2, BOTH, None]
    return write(tmp_path / "spool", [sample(n, facts, f"served {n}") for n, facts in enumerate(known)])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Captions of the gliomas, two of them refused; of the cysts all refused; of both none asked for."""
    path = tmp_path / "captions.sqlite"
    record(
        path,
        facts_id(GLIOMA),
        good("MRI of the brain shows a glioma."),
        good("MRI of the brain reveals a glioma."),
        bad("A glioma of 3 cm on the left.", "measurement: 3 cm", "side: left"),
        bad(EVIL, f"not_a_caption: {EVIL}"),
    )
    record(path, facts_id(CYST), bad("No cyst.", "finding_missing: a cyst"), error="<b>half JSON</b>")
    record(path, facts_id(facts_of("bleed")), good("MRI of the brain with a hemorrhage."))
    return path


def page_of(store: Path, spool: Path, **config: int) -> tuple[str, Page]:
    out = store.with_suffix(".html")
    write_review(store, [spool], out, ReviewConfig(**config))
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_needs_nothing_else_and_runs_nothing_of_the_store(spool: Path, store: Path):
    text, page = page_of(store, spool)
    assert all((found["src"] or "").startswith("data:image/jpeg;base64,") for found in page.all("img"))
    assert not re.search(r"url\(|@import|fetch\(|https?://", text)
    assert len(page.all("script")) == text.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert "&lt;b&gt;half JSON" in text
    assert "<b>half" not in text


def test_names_of_classes_and_folders_are_escaped(tmp_path: Path):
    tasks = {"brain": {"modality": "mri", "classes": {'"><i>': EVIL}, "multi_label": True}}
    facts = {"modality": "mri", "body_part": EVIL, "brain": '"><i>', "detail:plane": EVIL}
    spool = write(tmp_path / "<i>spool", [sample(0, facts, EVIL)], tasks)
    record(tmp_path / "s.sqlite", facts_id(facts), bad(EVIL, EVIL), model=EVIL)
    text, page = page_of(tmp_path / "s.sqlite", spool)
    assert text.count("<script") == 1
    assert "<i>" not in text
    assert not [found for found in page.all("img") if found["src"] == "x"]


def test_the_head_counts_everything(spool: Path, store: Path):
    _, page = page_of(store, spool)
    text = page.text()
    for shown in (
        "from the store 5 · 56 % templates 3 · 33 % native captions 1 · 11 % all 9",
        "done: a caption was accepted 1 failed: all were refused 1 pending: not asked, or not answered 1 all 3",
        "1 more subject of the store is in none of these sources.",
        "accepted 3 · 50 % refused 3 · 50 % tokens sent 210 tokens received 27",
    ):
        assert shown in text
    for code in ("finding_missing", "measurement", "not_a_caption", "side"):
        assert f"{code} 1" in text


def test_classes_come_by_samples_with_their_captions_reasons_and_fallbacks(spool: Path, store: Path):
    _, page = page_of(store, spool)
    anchors = [found["id"] for found in page.all("section") if "id" in found]
    assert anchors == ["brain.glioma", "brain.cyst"]
    assert {found["href"] for found in page.all("a")} == {f"#{name}" for name in anchors}
    glioma, cyst = page.text("brain.glioma"), page.text("brain.cyst")
    for shown in (
        "samples 6 from the store 5 templates 1",
        "subjects done, failed, pending 1, 0, 1",
        "captions refused 2 measurement 1 not_a_caption 1 side 1",
        "accepted (2) MRI of the brain shows a glioma.",
        f"refused (2) A glioma of 3 cm on the left. {count_tokens('A glioma of 3 cm on the left.')} tokens · try 2 "
        "measurement 3 cm side left",
        "distinct words, of all words 8 of 14",
        "most often: “mri of the …” 2",
    ):
        assert shown in glioma
    for shown in ("failed 2 samples · mri, brain · a cyst", "none accepted; served instead by served 5", "No cyst."):
        assert shown in cyst
    assert "mri, no finding stated not captioned by this store 1" in page.text()


def test_what_filters_read_is_on_the_subjects(spool: Path, store: Path):
    _, page = page_of(store, spool)
    subjects = [(found["data-accepted"], found["data-codes"]) for found in page.all("div", **{"class": "subject"})]
    glioma, cyst, both = ("2", "measurement not_a_caption side"), ("0", "finding_missing"), ("0", "")
    assert subjects == [glioma, both, cyst, both]
    reasons = {found["data-codes"] for found in page.all("li") if "data-codes" in found}
    assert reasons == {"", "measurement side", "not_a_caption", "finding_missing"}


def test_limits_hold_and_the_page_says_what_they_leave_out(spool: Path, store: Path):
    texts = [good(f"MRI of the brain with a glioma, number {number}.") for number in range(9)]
    record(store, facts_id(BOTH), *texts)
    _, page = page_of(store, spool, captions_per_subject=4, subjects_per_class=1, images_per_class=2)
    assert len(page.all("div", **{"class": "subject"})) == 2
    assert len(page.all("img")) == 2 + 2
    assert "1 more subject of this class is not shown." in page.text("brain.glioma")
    assert "captions accepted 11" in page.text("brain.glioma")
    _, page = page_of(store, spool, captions_per_subject=4)
    assert "5 more in the store." in page.text("brain.cyst")
    assert "Not shown, but counted: 0 subjects of classes, and 10 captions of subjects" in page.text("brain.cyst")


def test_failed_subjects_are_shown_though_others_have_more_samples(tmp_path: Path):
    others = [{**GLIOMA, "view": f"view {number}"} for number in range(6)]
    known = [facts for facts in others for _ in range(2)] + [GLIOMA]
    spool = write(tmp_path / "spool", [sample(n, facts) for n, facts in enumerate(known)])
    for facts in others:
        record(tmp_path / "s.sqlite", facts_id(facts), good("MRI of the brain shows a glioma."))
    record(tmp_path / "s.sqlite", facts_id(GLIOMA), bad("None.", "too_short: 1 word"))
    _, page = page_of(tmp_path / "s.sqlite", spool, subjects_per_class=3)
    assert [found["data-accepted"] for found in page.all("div", **{"class": "subject"})] == ["1", "1", "0"]


def test_captions_of_images_and_native_texts_are_shown_with_what_they_are_of(tmp_path: Path):
    spool = write(tmp_path / "spool", [sample(n, None, f"Figure {n}. A scan.") for n in range(3)])
    record(tmp_path / "s.sqlite", subject_of_text("Figure 0. A scan."), good("A scan."), content="Figure 0. A scan.")
    record(tmp_path / "s.sqlite", subject_of_image(f"{1:064x}"), good("MRI of something."))
    text, page = page_of(tmp_path / "s.sqlite", spool)
    assert "from the store 2 · 67 % templates 0 · 0 % native captions 1 · 33 %" in page.text()
    assert "Native: Figure 0. A scan." in page.text("modality.mri")
    assert len(page.all("img", **{"class": "seen"})) == 1 + 2  # pending images too
    assert "MRI of something." in text


def test_the_page_depends_on_its_input_alone(spool: Path, store: Path, tmp_path: Path):
    first, _ = page_of(store, spool)
    copied = tmp_path / "elsewhere" / store.name
    copied.parent.mkdir()
    shutil.copy(store, copied)
    assert page_of(copied, spool)[0] == first


def test_images_of_a_class_do_not_depend_on_the_order_of_the_sources(tmp_path: Path):
    numbers = {"a": range(4, 8), "b": range(4)}
    paths = [write(tmp_path / name, [sample(n, GLIOMA) for n in each]) for name, each in numbers.items()]
    record(tmp_path / "s.sqlite", facts_id(GLIOMA), good("MRI of the brain shows a glioma."))
    with CaptionStore.open(tmp_path / "s.sqlite", "read") as opened:
        for order in (paths, paths[::-1]):
            pool = read_pools(opened, order, 3).classes[ClassName("brain", "glioma")]
            assert [int(picture.sha256, 16) for picture in pool.pictures] == [0, 1, 2]


def test_an_empty_store_shows_every_subject_as_pending(spool: Path, tmp_path: Path):
    CaptionStore.open(tmp_path / "s.sqlite", "write").close()
    _, page = page_of(tmp_path / "s.sqlite", spool)
    assert "pending: not asked, or not answered 3 all 3" in page.text()
    assert "The store is empty." in page.text()


def test_errors_name_what_is_wrong(spool: Path, store: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no caption store"):
        write_review(tmp_path / "none.sqlite", [spool], tmp_path / "out.html")
    with pytest.raises(DataError, match="not a spool"):
        write_review(store, [tmp_path], tmp_path / "out.html")
    with pytest.raises(ConfigError, match="no sources: got none"):
        write_review(store, [], tmp_path / "out.html")
    with pytest.raises(ConfigError, match="max_images: got 0; allowed: 1 or more"):
        ReviewConfig(max_images=0)


def test_a_hundred_and_sixty_five_classes_stay_below_four_megabytes(tmp_path: Path):
    classes = {f"class_{number}": f"finding number {number}" for number in range(165)}
    tasks = {"brain": {**TASKS["brain"], "classes": classes}}
    samples = [sample(n, facts_of(name), "A template.") for n, name in enumerate(classes)]
    spool = write(tmp_path / "spool", samples, tasks)
    for each, name in zip(samples, classes, strict=True):
        words = [f"On this MRI scan of the brain, wording {number} shows {classes[name]}." for number in range(30)]
        texts = [good(text) if number % 3 else bad(text, "side: left") for number, text in enumerate(words)]
        record(tmp_path / "s.sqlite", facts_id(each.facts or {}), *texts)
    text, page = page_of(tmp_path / "s.sqlite", spool)
    assert len(page.all("div", **{"class": "subject"})) == 165
    assert text.count("shows finding number 7.") == 30
    assert len(text.encode()) < 4e6


def test_diversity_of_captions():
    found = measure_diversity(["A red scan today.", "A red scan tomorrow.", "Blue."])
    assert (found.captions, found.words, found.distinct_words) == (3, 9, 6)
    assert found.similarity == pytest.approx((3 / 5 + 0 + 0) / 3)
    assert found.repeated_openings == pytest.approx(2 / 3)
    assert (found.opening, found.opening_count) == ("a red scan", 2)
    assert measure_diversity(["One."]).similarity is None
    assert measure_diversity([]).repeated_openings == 0
    assert measure_diversity(["…", "!"]).similarity == 0


def test_lengths_are_of_clips_tokenizer():
    text = "MRI of the brain."
    assert count_tokens(text) == 5
    assert length_histogram([text, "MRI", " ".join(["brain"] * 300)]) == [1, 1, *[0] * 13, 1]


def test_anchors_are_plain_stable_and_apart():
    assert anchor(ClassName("brain", "glioma")) == "brain.glioma"
    names = [anchor(ClassName("brain", name)) for name in ("a b", "a  b", "a_b", '"<>')]
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to read the page's script")
def test_the_pages_script_is_valid(spool: Path, store: Path, tmp_path: Path):
    text, _ = page_of(store, spool)
    script = tmp_path / "page.js"
    script.write_text(text.partition("<script>")[2].partition("</script>")[0])
    subprocess.run(["node", "--check", str(script)], check=True)
