"""The run page: made from a run folder alone, at any moment of a run, and whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmed.configuration import save_yaml
from clipmed.errors import ConfigError
from clipmed.files import write_json
from train.charts import MAX_POINTS, Chart, compact, draw, round_ticks, thinned
from train.config import TrainConfig
from train.history import RunFacts, RunStatus, read_history, write_status
from train.page import duration, refresh_page, write_page
from train.recipes import demo
from train.samples import SampleSheet, ShownSample, read_back, read_samples, save_samples, sheet_of, tiles
from train.tracking import MetricsFile

SHARES = {"phantom_ct": 0.75, "pmc": 0.25}
FACTS = RunFacts(device="NVIDIA H100", processes=8, parameters=195_900_000, samples=5_000, shares=SHARES)
EVIL = "<script>alert(1)</script> & a mass"


class Page(HTMLParser):
    """What a reader gets: visible text, headings, and whatever would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fetched: list[str] = []
        self.scripts = 0
        self.charts: list[dict[str, Any]] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        self.fetched += [str(values[name]) for name in ("src", "srcset") if name in values]
        self.fetched += [str(values["href"])] if tag == "link" else []
        if "data-chart" in values:
            self.charts.append(json.loads(str(values["data-chart"])))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def sheet_at(step: int, count: int = 5, side: int = 24) -> SampleSheet:
    pixels = np.full((count, side, side, 3), 40 * np.arange(count)[:, None, None, None], np.uint8)
    samples = tuple(ShownSample(caption=EVIL, source="pmc", tokens=7 + number) for number in range(count))
    return SampleSheet(step=step, pixels=pixels, samples=samples)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of 430 steps of 128 pairs at step 100, with everything that a page shows."""
    folder = tmp_path / "my_run"
    base = demo()
    config: TrainConfig = replace(
        base,
        out=folder,
        optim=replace(base.optim, locked=("image",), ema_decay=0.999),
        checkpoint=replace(base.checkpoint, best_metric="image_to_text_r5"),
    )
    save_yaml(config, folder / "config.yaml")
    metrics = MetricsFile(folder / "metrics.jsonl", 0)
    for step in range(10, 101, 10):
        values = {"loss": 5 - step / 50, "pairs_per_s": 64.0, "data_wait": 0.4, "mfu": None, "logit_scale": 100.0}
        parts = {"share/phantom_ct": 0.7, "share/pmc": 0.3, "loss/phantom_ct": 2.5, "loss/pmc": 4.25}
        metrics.log("train", step, values | parts | {"epoch": step / 40, "skipped_steps": 3})
    for step, recall in ((50, 0.5), (100, 0.4)):
        found = {"image_to_text_r5": recall, "image_to_text_chance_r5": 0.0125, "loss": 2.0, "samples": 64}
        metrics.log("validation", step, found)
        metrics.log("scores", step, {"overall/accuracy": recall / 2})
        metrics.show(sheet_at(step))
        write_json(folder / "checkpoints" / f"step_{step:08d}" / "state.json", {"step": step})
    metrics.close()
    write_json(folder / "checkpoints" / "best.json", {"metric": "image_to_text_r5", "value": 0.5, "step": 50})
    skipped = {"step": 7, "key": "pmc-00ff", "reason": "image_corrupt", "detail": "cut <off>"}
    (folder / "skipped.jsonl").write_text(2 * (json.dumps(skipped) + "\n") + '{"step": 9, "ke')
    (folder / "skipped_rank_1.jsonl").write_text(json.dumps(skipped | {"step": 6, "reason": "member_short"}))
    refused = {"step": 33, "action": "skip", "reason": "loss 99", "loss": "99", "keys": []}
    write_json(folder / "spike_step_33_rank_0.json", refused)
    return folder


def test_the_page_needs_nothing_else_and_runs_no_caption(out: Path) -> None:
    html = write_page(out).read_text()
    page = Page(html)
    assert page.fetched == []
    assert page.scripts == 1
    assert set(re.findall(r"url\((.{10})", html)) == {"data:image"}
    assert EVIL in page.text
    assert "default-src 'none'" in html
    assert not list(out.glob(".*"))


def test_the_page_tells_how_the_run_stands(out: Path) -> None:
    refresh_page(out, RunStatus(state="running", facts=FACTS))
    text = Page((out / "run.html").read_text()).text
    # 330 steps of 128 pairs are left at 64 pairs a second; 100 are done.
    for words in ("my_run running", "step 100 of 430", "epoch 2.50", "11 min", "trained for 3 min", "8 × NVIDIA H100"):
        assert words in text, words
    for words in ("image tower locked", "running mean with decay 0.999", "5,000 samples", "196M parameters"):
        assert words in text, words
    for alert in ("waits for data 40% of the time", "reached its limit of 100", "3 steps changed nothing"):
        assert alert in text, alert
    assert "Phantoms: synthetic images" in text
    assert "MFU" not in text


def test_a_stopped_run_says_why_and_a_rebuilt_page_still_does(out: Path) -> None:
    refresh_page(out, RunStatus(state="stopped", reason="Saved at step 100 after SIGTERM.", facts=FACTS))
    for _ in range(2):
        text = Page(write_page(out).read_text()).text
        assert "my_run stopped Saved at step 100 after SIGTERM." in text
        assert "time left" not in text


def test_mixture_planned_and_realised(out: Path) -> None:
    write_status(out, RunStatus(state="running", facts=FACTS))
    text = Page(write_page(out).read_text()).text
    assert "phantom_ct 75.00 % 70.00 % 2.500" in text
    assert "pmc 25.00 % 30.00 % 4.250" in text


def test_scores_checkpoints_and_what_was_skipped(out: Path) -> None:
    text = Page(write_page(out).read_text()).text
    assert "image to text r5 0.4 0.0125 0.5 50" in text
    assert "overall/accuracy 0.2 100 0.25 50" in text
    assert re.search(r"100 \S+ \S+ 0.0 MB 2 0.4 newest 50 \S+ \S+ 0.0 MB 2 0.5 best", text)
    assert "2 in all: member_short 1, image_corrupt 1." in text
    assert "7 pmc-00ff image_corrupt cut <off> 6 pmc-00ff member_short" in text
    assert "33 skip loss 99 spike_step_33_rank_0.json" in text


def test_curves_hold_what_was_logged(out: Path) -> None:
    charts = Page(write_page(out).read_text()).charts
    lines = {name: points for chart in charts for name, points in chart["lines"].items()}
    assert lines["training"][0] == [10, 4.8]
    assert lines["training"][-1] == [100, 3.0]
    assert lines["overall/accuracy"] == [[50, 0.25], [100, 0.2]]
    assert lines["chance"] == [[50, 0.0125], [100, 0.0125]]
    assert "MFU" not in lines


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    save_yaml(replace(demo(), out=tmp_path), tmp_path / "config.yaml")
    text = Page(write_page(tmp_path).read_text()).text
    assert "Nothing is logged yet." in text
    assert "step 0 of 430" in text


def test_no_page_of_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*config\.yaml"):
        write_page(tmp_path)


def test_a_page_that_cannot_be_written_stops_nothing(out: Path) -> None:
    (out / "run.html").mkdir()
    with pytest.warns(UserWarning, match=r"run\.html could not be written"):
        refresh_page(out, RunStatus(state="running"))


def test_several_rows_of_a_step_count_once(out: Path) -> None:
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "scores", "step": 50, "overall/accuracy": 0.75}) + "\n")
    assert read_history(out).points("scores", "overall/accuracy") == [(50, 0.75), (100, 0.2)]


def test_the_newest_sheets_are_kept_and_come_back(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_samples(tmp_path, sheet_at(step))
    sheets = read_samples(tmp_path)
    assert [sheet.step for sheet in sheets] == [10, 3, 2]
    assert len(list((tmp_path / "samples").iterdir())) == 6
    assert sheets[0].samples == sheet_at(10).samples
    assert (sheets[0].columns, sheets[0].tile_side) == (4, 24)


def test_large_tiles_are_made_smaller(tmp_path: Path) -> None:
    save_samples(tmp_path, sheet_at(1, count=2, side=448))
    (sheet,) = read_samples(tmp_path)
    assert (sheet.columns, sheet.tile_side) == (2, 224)


def test_tiles_lie_in_reading_order() -> None:
    pixels = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((3, 1, 1, 3), np.uint8)
    assert tiles(pixels, 2)[:, :, 0].tolist() == [[1, 2], [3, 0]]


def test_captions_are_read_back_from_clip_tokens() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=8)
    tokens = tokenizer(["A red square!", "", "one two three four five six seven eight"])
    assert read_back(tokenizer, tokens) == [("a red square !", 6), ("", 2), ("one two three four five six", 8)]


def test_a_sheet_shows_the_first_samples_of_a_batch() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    from train.dataset import Batch

    tokenizer = SimpleTokenizer(context_length=8)
    batch = Batch(
        step=4,
        pixels=torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 2, 2, 3),
        tokens=tokenizer([f"number {number}" for number in range(6)]),
        meanings=torch.arange(6),
        sources=torch.tensor([1, 0, 1, 0, 1, 0]),
    )
    sheet = sheet_of(batch, 5, tokenizer, ["phantom_ct", "pmc"], count=2)
    assert sheet.step == 5
    assert sheet.pixels[:, 0, 0, 0].tolist() == [0, 1]
    assert [(sample.caption, sample.source, sample.tokens) for sample in sheet.samples] == [
        ("number 0", "pmc", 4),
        ("number 1", "phantom_ct", 4),
    ]


def test_captions_are_read_back_from_bert_tokens(tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "mass"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=6)
    tokens = torch.as_tensor(tokenizer(["lung mass", "mass"]))
    assert read_back(tokenizer, tokens) == [("lung mass", 4), ("mass", 3)]


def test_a_long_curve_keeps_its_extremes() -> None:
    points = [(step, 1.0) for step in range(1, 100 * MAX_POINTS + 1)]
    points[777] = (778, 50.0)
    buckets = thinned(points)
    assert len(buckets) == MAX_POINTS
    assert max(bucket.high for bucket in buckets) == 50.0
    assert "band" in draw(Chart(title="loss", lines={"training": points})).svg


def test_one_spike_does_not_flatten_a_curve() -> None:
    points = [(step, 2.0 + (step % 2)) for step in range(100)]
    points[40] = (40, 1e6)
    svg = str(draw(Chart(title="loss", lines={"training": points})).svg)
    labels = [float(text) for text in re.findall(r'text-anchor="end">([^<]+)<', svg)]
    assert max(labels) < 5


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (13, 97, [20, 40, 60, 80]), (-3, 3, [-2, 0, 2]), (5, 5, [5])],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (1500, "1.5k"), (2_000_000, "2M"), (0.0005, "5e-4"), (0, "0"), (-1234.5, "-1.234k")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41, "41 s"), (119, "119 s"), (720, "12 min"), (12_000, "3 h 20 min"), (190_800, "2 d 5 h")],
)
def test_times_are_said_as_a_reader_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text
