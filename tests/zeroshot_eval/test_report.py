"""The report's page: complete, self-contained, safe against hostile names, and the same for the same scores."""

import base64
import io
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lxml import html
from PIL import Image

from tests.zeroshot_eval.conftest import COLOURS
from zeroshot_eval.__main__ import main
from zeroshot_eval.collections import open_collection
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate
from zeroshot_eval.findings import find, winners
from zeroshot_eval.grid import number
from zeroshot_eval.pictures import THUMBNAIL_SIDE
from zeroshot_eval.report import read_config, render_report, write_report
from zeroshot_eval.score_files import write_scores

HOSTILE = "<img src=x onerror=\"alert(1)\"> & 'quotes'"
NUM_TEST = 8  # of each colour and source


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from clipmed.checkpoints import save_checkpoint
    from clipmed.towers import ModelConfig, build_two_tower

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("other") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_checkpoint(folder, build_two_tower(ModelConfig()), "# tiny")
    return folder


def suite() -> dict:
    """Colours with a held-out one, a hostile note and phrase, a probe, and a task without samples."""
    classes = {name: [name, f"something {name}"] for name in COLOURS}
    common = {"templates": ["a picture of {}", "an image that is {}"], "classes": classes}
    seen = {"task": "squares_colour", "modality": "ct", "only_classes": ["red", "green", "blue"], **common}
    hostile = {"note": HOSTILE, "templates": common["templates"], "classes": classes | {"red": [HOSTILE]}}
    return {
        "name": "colours",
        "title": "Colours <of> squares",
        "phantom": True,
        "tasks": [
            {"name": "squares", **seen},
            {"name": "tiles", "task": "tiles_colour", "modality": "mri", **hostile},
            {"name": "squares_grey", **seen, "held_out": True, "only_classes": ["grey"]},
            {"name": "empty", **seen, "split": "val"},
            {"name": "labels", "task": "tiles_colour", "modality": "mri", "kind": "multi_label", **common},
        ],
        "retrieval": [{"name": "captions"}, {"name": "ct_captions", "modality": "ct"}],
        "choices": [{"name": "asked", "format": "microbench", "location": "questions.parquet"}],
        "probes": [{"name": "probe", "task": "tiles_colour", "modality": "mri", "shots": [1, 2]}],
    }


def write_questions(path: Path, shard_set: Path) -> None:
    """Six questions with options about tiles of the set, in the layout of micro-Bench."""
    collection = open_collection(shard_set)
    options = {"classification_0": {"options": ["a red tile", "a blue tile", "a green tile"], "answer_idx": 1}}
    tiles = [item for item in collection.items("test", 0) if item.source == "tiles"][:6]
    rows = [
        {"image_id": item.key, "image": {"bytes": collection.image_bytes(item.row), "path": f"{item.key}.jpg"}}
        | {"dataset": "tiles", "domain": "x", "captions": options}
        for item in tiles
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def two(
    checkpoint: Path,
    other_checkpoint: Path,
    shard_set: Path,
    tmp_path_factory: pytest.TempPathFactory,
    embeddings: Path,
) -> Evaluation:
    """Two checkpoints on the suite."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(suite()), encoding="utf-8")
    write_questions(folder / "questions.parquet", shard_set)
    return evaluate(
        EvalConfig(
            checkpoints=(str(checkpoint), str(other_checkpoint)),
            suite=(str(path),),
            sets=(str(shard_set),),
            out=folder / "out",
            cache=embeddings,
            bootstrap_samples=100,
        )
    )


@pytest.fixture(scope="module")
def drawn(two: Evaluation) -> str:
    return render_report(two)


@pytest.fixture
def page(drawn: str) -> html.HtmlElement:
    return parsed(drawn)


def parsed(page: str) -> html.HtmlElement:
    return html.document_fromstring(page)


def words(element: html.HtmlElement) -> str:
    return " ".join(element.text_content().split())


def test_every_task_checkpoint_and_main_metric_is_in_the_heat_map(two: Evaluation, page: html.HtmlElement):
    (heat,) = page.xpath('//table[@class="heat"]')
    names = [run.facts.name for run in two.runs]
    assert [words(cell) for cell in heat.xpath("./thead//th")] == ["task", *names]
    assert all("small n" in words(row) for row in heat.xpath("./tbody/tr[th/a]"))
    for result in two.runs[0].results:
        (row,) = heat.xpath(f'./tbody/tr[th/a/@href="#task-{result.task.name}"]')
        for cell, run in zip(row.xpath("./td"), two.runs, strict=True):
            found = next(
                one
                for one in two.rows
                if (one.task, one.metric, one.checkpoint) == (result.task.name, result.task.main, run.facts.name)
            )
            assert words(cell).startswith(number(found.value))
            assert f"n {found.n}" in cell.get("title")
            assert f"groups {found.groups}" in cell.get("title")
            assert number(found.low) in words(cell)


def test_every_metric_stands_with_its_interval_in_the_tasks_details(two: Evaluation, page: html.HtmlElement):
    for name in ("squares", "tiles", "captions", "probe"):
        (article,) = page.xpath(f'//article[@id="task-{name}"]')
        text = words(article)
        for row in two.rows:
            if row.level == "task" and row.task == name and row.low is not None:
                assert number(row.value, row.metric) in text, (name, row.metric)
                assert f"{number(row.low, row.metric)} – {number(row.high, row.metric)}" in text, (name, row.metric)


def test_page_needs_nothing_else_and_says_what_it_is(two: Evaluation, drawn: str, page: html.HtmlElement):
    links = [*page.xpath("//@src"), *page.xpath("//@href"), *page.xpath("//link"), *page.xpath("//script")]
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert "url(" not in drawn
    assert "@import" not in drawn
    anchors = {link[1:] for link in page.xpath("//a/@href")}
    assert anchors <= set(page.xpath("//@id"))
    assert {"overview", "differences", "modalities", "classification", "held-out", "retrieval", "probes"} <= anchors
    said = words(page)
    for sentence in (
        "Phantoms: synthetic images, no medical meaning.",
        "2 checkpoints on 8 tasks and 70 images",
        "Small: 16 groups.",
        "Not scored: empty (split 'val' holds no sample for it).",
        "98 items seen, 2 dropped, 96 samples",
        "The counts add up",
        "images share a caption with another image",
        "better than every other checkpoint by a paired test",
        two.runs[0].facts.digest,
        two.collections[0].digest,
        "python -m zeroshot_eval score",
        "--bootstrap-samples 100",
    ):
        assert sentence in said, sentence


def test_names_from_data_stay_text(two: Evaluation):
    renamed = replace(two.runs[1].embedder, facts=replace(two.runs[1].facts, name=HOSTILE))
    page = parsed(render_report(replace(two, runs=(two.runs[0], replace(two.runs[1], embedder=renamed)))))
    assert not page.xpath("//*[@onerror]")
    assert not page.xpath("//script")
    assert any(words(note) == HOSTILE for note in page.xpath('//p[@class="note"]'))
    assert any(HOSTILE in words(item) for item in page.xpath("//details//li"))
    assert any(words(cell) == HOSTILE for cell in page.xpath('//table[@class="heat"]//th'))


def test_galleries_show_small_images_with_each_checkpoints_answer(page: html.HtmlElement):
    figures = page.xpath('//article[@id="task-tiles"]//div[@class="gallery"]/figure')
    assert figures
    for figure in figures:
        assert len(figure.xpath('.//span[starts-with(@class, "answer")]')) == 2
        assert figure.xpath(".//figcaption/b")[0].text in COLOURS
        (uri,) = figure.xpath("./img/@src")
        picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert max(picture.size) <= THUMBNAIL_SIDE
    queries = page.xpath('//article[@id="task-captions"]//div[@class="query"]')
    assert len(queries) == 4
    assert all("number" in words(query) for query in queries)
    assert page.xpath('//article[@id="task-captions"]//ol/li')


def test_only_images_and_captions_of_the_named_sources_are_shown(two: Evaluation):
    page = parsed(render_report(two, sources=["tiles"]))
    assert page.xpath('//article[@id="task-tiles"]//img')
    assert not page.xpath('//article[@id="task-squares"]//img')
    left_out = page.xpath('//article[@id="task-squares"]//span[@class="withheld"]')
    assert {words(each) for each in left_out} == {"image left out of this page"}
    queries = page.xpath('//article[@id="task-captions"]//div[@class="query"]')
    asked = [image.get("alt") for query in queries for image in query.xpath("./div[1]/img")]
    assert asked
    assert all(key.startswith("sample tiles-") for key in asked)
    assert not page.xpath('//article[@id="task-ct_captions"]//div[@class="query"]')
    assert "mri of something" in words(page)
    assert "ct of something" not in words(page)
    assert "(caption left out of this page)" in words(page)
    assert not parsed(render_report(two, sources=[])).xpath("//img")


def test_confusions_add_up_and_stand_beside_recalls(two: Evaluation, page: html.HtmlElement):
    tables = page.xpath('//article[@id="task-tiles"]//table[@class="matrix"]')
    assert len(tables) == 2
    for table, run in zip(tables, two.runs, strict=True):
        counts = [
            [int(cell.text) for cell in row.xpath('./td[contains(@class, "cell")]')]
            for row in table.xpath("./tbody/tr")
        ]
        assert counts == run.result("tiles").confusion.tolist()
        assert sum(map(sum, counts)) == 4 * NUM_TEST


def test_questions_probes_and_several_labels_have_their_pages(page: html.HtmlElement):
    asked, labels, probe = (page.xpath(f'//article[@id="task-{name}"]')[0] for name in ("asked", "labels", "probe"))
    assert "6 questions and 0 statements." in words(asked)
    assert "accuracy" in words(asked)
    assert "Fitted on" in words(probe)
    assert probe.xpath('.//svg[@class="chart"]/@aria-label') == [
        "probe: balanced accuracy over training images a class"
    ]
    assert labels.xpath('.//details/summary[text()="Single classes"]')
    assert labels.xpath('.//div[@class="gallery"]/figure')
    assert not labels.xpath('.//table[@class="matrix"]')
    assert [words(each) for each in page.xpath('//section[@id="choices"]/h2')] == ["Questions with options"]


def test_differences_are_those_of_the_comparison(two: Evaluation):
    found = find(two)
    (rows,) = found.differences.values()
    assert {row.task for row in rows} == {"overall-colours", *(result.task.name for result in two.runs[0].results)}
    page = parsed(render_report(two, found))
    plots = page.xpath('//section[@id="differences"]//div[@class="row"]')
    assert len(plots) == len(rows)
    squares = next(row for row in rows if row.task == "squares")
    metric = "balanced_accuracy"
    first, second = (run.result("squares").measures[metric].value for run in two.runs)
    assert squares.difference == pytest.approx(second - first)


def test_a_winner_beats_every_other_checkpoint():
    wins = {"a": {(2, 0), (2, 1)}, "b": {(2, 0)}, "c": set(), "d": {(0, 1), (1, 2), (0, 2)}}
    assert winners(wins, 3) == {"a": 2, "d": 0}


def test_equal_checkpoints_are_tied_everywhere(two: Evaluation):
    twin = replace(two.runs[0].embedder, facts=replace(two.runs[0].facts, name="twin"))
    found = find(replace(two, runs=(two.runs[0], replace(two.runs[0], embedder=twin))))
    assert {row.verdict for row in found.differences["twin"]} == {"tie"}
    assert found.best == {}


def test_the_same_scores_give_the_same_bytes(two: Evaluation, drawn: str):
    assert render_report(two) == drawn


def test_no_intervals_no_verdicts(two: Evaluation):
    plain = evaluate(replace(two.config, bootstrap_samples=0))
    page = parsed(render_report(plain))
    assert not page.xpath('//section[@id="differences"]')
    assert "bootstrap resamples" not in words(page)


def test_one_checkpoint_has_a_page_too(checkpoint: Path, two: Evaluation):
    page = parsed(render_report(evaluate(replace(two.config, checkpoints=(str(checkpoint),)))))
    assert not page.xpath('//section[@id="differences"]')
    headings = {words(each).split()[0] for each in page.xpath('//div[contains(@class, "examples")]//h4')}
    assert headings <= {"Right", "Wrong"}
    assert headings


def test_real_images_have_no_phantom_banner(two: Evaluation, tmp_path: Path):
    suite = replace(two.suites[0], phantom=False)
    text = words(parsed(render_report(replace(two, suites=(suite,)))))
    assert "Phantoms" not in text
    assert "not a medical device" in text


def test_counts_that_do_not_add_up_are_marked(two: Evaluation):
    row = next(row for row in two.collections[0].attrition if row["reason"] == "items_seen")
    row["count"] += 1
    try:
        text = words(parsed(render_report(two)))
    finally:
        row["count"] -= 1
    assert "The counts do not add up: squares: 50 seen, but 1 dropped + 48 kept" in text


def test_a_probe_fitted_on_test_groups_is_marked_wherever_it_is_shown(two: Evaluation):
    runs = []
    for run in two.runs:
        results = [
            replace(one, details=one.details | {"test_groups_fitted_on": 3}) if one.task.name == "probe" else one
            for one in run.results
        ]
        runs.append(replace(run, results=tuple(results)))
    page = parsed(render_report(replace(two, runs=tuple(runs))))
    (row,) = page.xpath('//table[@class="heat"]//tr[th/a/@href="#task-probe"]')
    assert "fitted on test groups" in words(row)
    assert "3 of the groups scored here are also in what the probe was fitted on" in words(page)


def test_leaked_samples_are_marked_beside_every_score(two: Evaluation, shard_set: Path):
    write_scores(two)
    folder = two.config.out
    audit = ["audit", str(folder), "--train", str(shard_set), "--splits", "test", "--pictures", "none"]
    try:
        assert main([*audit, "--checkpoint", two.runs[1].facts.name, "--bootstrap-samples", "100"]) == 0
        page = parsed(render_report(two))
    finally:
        shutil.rmtree(folder / "leakage")
    (row,) = page.xpath('//table[@class="heat"]//tr[th/a/@href="#task-tiles"]')
    assert "leakage" in words(row)
    first, second = row.xpath("./td")
    assert "⚠" not in words(first)
    assert "⚠" in words(second)
    assert "32 of 32 samples are in the training data" in second.xpath("./i/@title")[0]
    (article,) = page.xpath('//article[@id="task-tiles"]')
    assert "32 of 32 samples are in the training data" in words(article)
    assert article.xpath('.//h3/em[@class="chip alarm"]')
    leaked = [words(cell) for cell in page.xpath('//section[@id="leakage"]//tr[th/a/@href="#task-tiles"]/td')]
    assert leaked[0] == "32 of 32"
    assert leaked[3] == "not defined"
    assert "not looked for among these images for run0/model" in words(page)


def test_training_curves_stand_on_the_page(two: Evaluation, checkpoint: Path):
    run = checkpoint.parent / "metrics.jsonl"
    rows = [{"kind": "train", "step": step, "loss": 3 - step / 10} for step in range(10)]
    recall = {"image_to_text_r5": 0.4, "image_to_text_chance_r5": 0.1}
    rows.append({"kind": "validation", "step": 9, "loss": 2.5, **recall})
    run.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    try:
        page = parsed(render_report(two))
    finally:
        run.unlink()
    titles = [words(each) for each in page.xpath('//section[@id="training"]//figcaption')]
    assert [title.split(" ")[0] for title in titles] == ["Loss", "Validation"]


def test_a_sweep_has_its_curve_on_the_page(two: Evaluation):
    names = [run.facts.name for run in two.runs]
    rows = [
        {"alpha": alpha, "level": level, "modality": modality, "metric": "balanced_accuracy", "chance": 0.25, "n": 48}
        | {"value": 0.3 + alpha / 2, "low": 0.2, "high": None if alpha else 0.9}
        for level, modality in (("overall", None), ("modality", "ct"))
        for alpha in (1.0, 0.0)
    ]
    points = [{"alpha": float(at), "checkpoint": name} for at, name in enumerate(names)]
    path = two.config.out / "curve.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"axis": "alpha", "points": points, "rows": rows}))
    try:
        page = parsed(render_report(two))
        path.write_text(json.dumps({"axis": "alpha", "points": points[:1], "rows": rows}))
        other = parsed(render_report(two))
    finally:
        path.unlink()
    captions = [words(each) for each in page.xpath('//section[@id="curve"]//figcaption')]
    assert captions == ["Mean over modalities n 48; band: 95 % interval", "CT n 48; band: 95 % interval"]
    # From 0.3 to 0.8 on an axis from 0.2 to 0.8: the line rises from left to right.
    line = page.xpath('//section[@id="curve"]//polyline[contains(@class, "c0")]/@points')[0].split()
    assert [point.split(",")[0] for point in line] == ["46.0", "328.0"]
    assert float(line[0].split(",")[1]) > float(line[1].split(",")[1])
    assert page.xpath('//section[@id="curve"]//polyline[@class="line chance"]')
    assert not other.xpath('//section[@id="curve"]')


def test_the_folder_gets_page_and_tables_and_the_page_is_drawn_again_from_it(
    two: Evaluation, capsys: pytest.CaptureFixture[str]
):
    write_scores(two)
    path = write_report(two)
    first = {name: (two.config.out / name).read_bytes() for name in ("report.html", "scores.md", "scores.tex")}
    for result in two.runs[0].results:
        assert result.task.name.replace("_", " ").encode() in first["scores.md"]
        assert result.task.name.replace("_", " ").encode() in first["scores.tex"]
    path.unlink()
    assert main(["report", str(two.config.out)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {path}"
    assert {name: (two.config.out / name).read_bytes() for name in first} == first
    assert main(["report", str(two.config.out), "--gallery-sources", "tiles"]) == 0
    assert len(path.read_bytes()) < len(first["report.html"])


def test_a_folder_without_scores_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path)]) == 1
    assert "no config.yaml in" in capsys.readouterr().err
    with pytest.raises(Exception, match="zeroshot_eval score"):
        read_config(tmp_path)
