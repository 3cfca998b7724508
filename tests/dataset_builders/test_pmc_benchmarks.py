"""The benchmarks of the PubMed Central builder: what they measure is what a user builds, and the plan adds up."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import pmc_plan
from benchmarks.pmc_build import article_xml, draw_figures, measure
from benchmarks.pmc_plan import Assumptions, Rates, plan
from dataset_builders.pmc.jats import parse_jats

RATES = Rates(articles_per_s=1000, figures_per_s=100, figures_per_s_all=50, figure_kb=250, spool_share=0.8)


def test_the_build_benchmark_builds_every_figure(tmp_path: Path):
    figures = tmp_path / "figures"
    figures.mkdir()
    for number, side in enumerate((160, 240)):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(figures / f"{number}.jpg")
    result = measure(tmp_path, figures, num_articles=2, rounds=1)
    assert (result["figures"], result["samples"], result["share_kept"]) == (6, 6, 1.0)
    assert result["fraction_of_decode_limit"] == pytest.approx(
        result["figures_per_s_per_core"] / result["decode_limit_figures_per_s"]
    )
    assert 1 <= result["spool_share"] < 3
    assert result["peak_memory_mb_at_4n"] > 0


def test_drawn_articles_are_such_as_the_benchmark_says():
    sizes = [Image.open(io.BytesIO(raw)).size for raw in draw_figures()]
    assert 700 <= min(map(max, sizes)) <= 710
    assert 1900 <= max(map(max, sizes)) <= 2000
    assert sum(max(size) <= 1024 for size in sizes) / len(sizes) == pytest.approx(0.6, abs=0.01)
    xml = article_xml(1)
    article = parse_jats(xml)
    assert 80_000 < len(xml) < 100_000
    assert [len(figure.hrefs) for figure in article.figures] == [1, 1, 1]
    assert all(figure.mentions and "(D)" in figure.caption for figure in article.figures)


def test_the_plan_adds_up():
    made = plan(Assumptions(article_share=0.5, media_kb=1000, metadata_kb=1, xml_kb=100, cores=10), RATES)
    assert made["requests"] == 8e6 + 4e6 + 24e6
    assert made["fetched_tb"] == pytest.approx(0.008 + 0.4 + 24)
    assert made["core_h_xml"] == pytest.approx(4e6 / 1000 / 3600)
    assert made["core_h"] == pytest.approx(24e6 / 50 / 3600)
    steps = made["core_h_xml"] + made["core_h_images"] + made["core_h_panels_and_kinds"]
    assert steps == pytest.approx(made["core_h"])
    images = made["core_h"] - made["core_h_xml"]
    assert made["core_h_at_archive_figure_size"] == pytest.approx(made["core_h_xml"] + 4 * images)
    assert made["spool_tb"] == pytest.approx(24 * 0.8)


@pytest.mark.parametrize(
    ("changed", "bottleneck", "in_time"),
    [
        ({"cores": 8}, "cores", True),
        ({"cores": 10_000, "gbit_per_s": 0.1}, "network", True),
        ({"cores": 10_000, "gbit_per_s": 1000, "node_requests_per_s": 10}, "requests", True),
        ({"bucket_requests_per_s": 10}, "bucket", False),
    ],
)
def test_the_plan_names_the_bottleneck_and_buys_nodes_for_all_others(
    changed: dict[str, float], bottleneck: str, in_time: bool
):
    made = plan(Assumptions(**changed), RATES)
    assert (made["bottleneck"], made["ready_in_time"]) == (bottleneck, in_time)
    assert max(made["hours_cores"], made["hours_network"], made["hours_requests"]) <= made["deadline_h"]


def test_the_plan_reads_measured_rates_and_refuses_to_invent_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    results = {"figures_per_s_per_core": 90, "figures_per_s_per_core_all": 40, "mean_figure_kb": 200, "spool_share": 1}
    (tmp_path / "pmc_build.json").write_text(json.dumps(results))
    arguments = ["pmc_plan", "--results", str(tmp_path), "--out", str(tmp_path / "plan.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="no measured rate for --articles-per-s"):
        pmc_plan.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--articles-per-s", "1000"])
    pmc_plan.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "plan.json").read_text())
    assert printed["core_h"] == pytest.approx(24e6 / 40 / 3600)
