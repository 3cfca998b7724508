"""Charts, held to positions computed by hand and to what a reader must find in them."""

from dataclasses import dataclass, replace

import pytest
from lxml import html

from zeroshot_eval.charts import (
    PairedDifference,
    PromptSpread,
    dots,
    forest,
    heat_class,
    heat_map,
    prompt_strip,
    reliability,
)
from zeroshot_eval.figures import HEIGHT, Scale, line_chart, nice_ticks
from zeroshot_eval.grid import Chip, Estimate, Grid, Line, number, signed, skill, span

HOSTILE = "<script>alert(\"1\")</script> & 'x'"


def estimate(value: float, **changes) -> Estimate:
    values = {"low": value - 0.1, "high": value + 0.1, "n": 142, "groups": 140, "chance": 0.5} | changes
    return Estimate(value=value, **values)


def line(key: str, *estimates: Estimate | None, **changes) -> Line:
    values = {"title": key, "group": "CT", "metric": "balanced accuracy"} | changes
    return Line(key=key, estimates=estimates, **values)


@pytest.fixture
def grid() -> Grid:
    return Grid(
        checkpoints=("first", HOSTILE),
        lines=(
            line("bleeding", estimate(0.55), estimate(0.75), best=1, marks=(Chip(text="3 images in training"),)),
            line("tumour", estimate(0.25, chance=0.25, n=1200), None, group="MRI"),
        ),
    )


def tree(markup: str):
    return html.fromstring(f"<div>{markup}</div>")


def of_class(element, name: str) -> list:
    return element.xpath(f'.//*[contains(concat(" ", @class, " "), " {name} ")]')


@pytest.mark.parametrize(
    ("value", "chance", "expected"),
    [
        (0.5, 0.5, 0),
        (1, 0.5, 1),
        (0.75, 0.5, 0.5),
        (0.25, 0.5, -0.5),
        (0, 0.25, -1 / 3),
        (0.4, 0.25, 0.2),
        (-0.3, 0, -0.3),
    ],
)
def test_skill_is_the_distance_from_chance(value: float, chance: float, expected: float):
    assert skill(value, chance) == pytest.approx(expected)


def test_skill_without_chance_is_the_value():
    assert skill(0.3, None) == 0.3
    assert skill(-2, None) == -1


def test_numbers_are_printed_alike():
    assert number(0.12345) == "0.123"
    assert number(-0.1) == "−0.100"
    assert number(12.34, "image_to_text/median_rank") == "12.3"
    assert number(None) == number(float("nan")) == "–"
    assert (signed(0.0123), signed(-0.3), signed(-0.0001)) == ("+0.012", "−0.300", "0.000")
    assert span(estimate(0.5)) == "0.400 – 0.600"
    assert span(estimate(0.5, low=None)) == "–"


@pytest.mark.parametrize(
    ("value", "chance", "name"), [(0.5, 0.5, "h0"), (0.76, 0.5, "h5"), (1, 0.25, "h10"), (0.4, 0.5, "b2")]
)
def test_heat_counts_from_chance(value: float, chance: float, name: str):
    assert heat_class(value, chance) == name


def test_heat_map_has_every_cell_with_value_interval_and_n(grid: Grid):
    page = tree(heat_map(grid, {"bleeding": "#task-bleeding"}))
    head = [cell.text_content().strip() for cell in page.xpath(".//thead//th")]
    assert head == ["task", "first", HOSTILE]
    assert [row.text_content() for row in page.xpath('.//tr[@class="group"]')] == ["CT", "MRI"]
    rows = page.xpath('.//tbody/tr[not(@class="group")]')
    assert [[cell.text_content() for cell in row.xpath("./td")] for row in rows] == [
        ["0.5500.450 – 0.650", "0.7500.650 – 0.850"],
        ["0.2500.150 – 0.350", "–"],
    ]
    bleeding, tumour = rows
    assert "balanced accuracy · n 142 · chance 0.500" in bleeding.text_content()
    assert "n 1,200 · chance 0.250" in tumour.text_content()
    assert "3 images in training" in bleeding.text_content()
    assert bleeding.xpath(".//a/@href") == ["#task-bleeding"]
    assert not page.xpath('.//td//i[@class="alarmed"]')
    unsure, sure = bleeding.xpath("./td")
    assert unsure.get("class") == "h1 unsure"
    assert sure.get("class") == "h5 best"
    assert sure.get("title") == (
        f"{HOSTILE}, bleeding: balanced accuracy 0.750, 95 % interval 0.650 – 0.850, chance 0.500, n 142, groups 140"
    )
    assert not page.xpath(".//script")


def test_an_alarm_stands_in_the_cells_that_it_is_about(grid: Grid):
    leak = Chip(text="leakage", alarm=True, words="3 of 10 leaked", places=(1,))
    marked = replace(grid, lines=(replace(grid.lines[0], marks=(leak,)),))
    row = tree(heat_map(marked)).xpath('.//tbody/tr[not(@class="group")]')[0]
    assert [cell.xpath("./i/@title") for cell in row.xpath("./td")] == [[], ["3 of 10 leaked"]]
    assert row.xpath("./th/em/@title") == ["3 of 10 leaked"]
    assert row.xpath("./th/em/@class") == ["chip alarm"]


def test_dots_stand_where_the_values_are(grid: Grid):
    page = tree(dots(grid))
    row = page.xpath('.//svg[contains(@aria-label, "bleeding")]')[0]
    assert [mark.get("x") for mark in of_class(row, "mark")] == ["55.00%", "75.00%"]
    assert [mark.get("y") for mark in of_class(row, "mark")] == ["10", "30"]
    assert [(each.get("x1"), each.get("x2")) for each in of_class(row, "interval")] == [
        ("45.00%", "65.00%"),
        ("65.00%", "85.00%"),
    ]
    (chance,) = of_class(row, "chance")
    assert (chance.get("x1"), chance.get("y2")) == ("50.00%", "40")
    assert row.get("height") == "40"
    assert "first, bleeding: balanced accuracy 0.550" in row.get("aria-label")
    assert "0.150 – 0.350" in page.text_content()


def test_values_off_the_scale_stay_at_its_end():
    page = tree(dots(Grid(checkpoints=("a",), lines=(line("x", estimate(0.99)),))))
    assert of_class(page, "interval")[0].get("x2") == "100.00%"


def test_forest_is_symmetric_around_zero():
    rows = [
        PairedDifference(task="a", difference=0.1, low=0.05, high=0.15, verdict="win", note="p 0.010"),
        PairedDifference(task="b", difference=-0.1, low=-0.18, high=0.02, verdict="tie"),
        PairedDifference(task="c", difference=-0.02, low=None, high=None, verdict="loss"),
    ]
    page = tree(forest(rows, {"a": "Task A"}, HOSTILE))
    # The axis reaches from −0.2 to 0.2: 0.1 is at three quarters.
    assert [mark.get("x") for mark in of_class(page, "mark")] == ["75.00%", "25.00%", "45.00%"]
    assert [(each.get("x1"), each.get("x2")) for each in of_class(page, "interval")] == [
        ("62.50%", "87.50%"),
        ("5.00%", "55.00%"),
    ]
    assert {each.get("x1") for each in of_class(page, "zero")} == {"50.00%"}
    assert [each.text_content() for each in of_class(page, "verdict")] == ["better", "tie", "worse"]
    text = page.text_content()
    assert "Task A" in text
    assert "better p 0.010" in text
    assert "−0.100 −0.180 … +0.020" in text
    assert f"better than {HOSTILE} →" in text


@dataclass
class Part:
    confidence: float | None
    accuracy: float | None
    count: int


def test_reliability_draws_each_bin_that_has_images():
    page = tree(reliability([Part(0.5, 0.5, 30), Part(0.9, 0.4, 10), Part(None, None, 0)], "calibration of a"))
    points = page.xpath(".//circle")
    # The plot is 240 wide with 38 left, 10 right, 10 above, 34 below.
    assert [(each.get("cx"), each.get("cy")) for each in points] == [("134.0", "108.0"), ("210.8", "127.6")]
    assert [each.xpath("./title")[0].text for each in points] == [
        "confidence 0.500, right 0.500, 30 images (75 %)",
        "confidence 0.900, right 0.400, 10 images (25 %)",
    ]
    assert float(points[0].get("r")) > float(points[1].get("r"))


def test_prompt_strip_shows_singles_box_and_ensemble():
    spread = PromptSpread(singles=(("a {}", 0.4), (HOSTILE, 0.6)), ensemble=0.7, median=0.5, low=0.45, high=0.55)
    page = tree(prompt_strip({"model": spread, "bare": PromptSpread(singles=(), ensemble=0.3)}, 0.25))
    assert [each.get("cx") for each in of_class(page, "single")] == ["40.00%", "60.00%"]
    assert of_class(page, "single")[1].text_content() == f"{HOSTILE}: 0.600"
    (box,) = of_class(page, "box")
    assert (box.get("x1"), box.get("x2")) == ("45.00%", "55.00%")
    assert of_class(page, "median")[0].get("x1") == "50.00%"
    labels = page.xpath(".//svg[@role='img']/@aria-label")
    assert labels == [
        "model: all prompts 0.700; 2 single templates 0.400 – 0.600; "
        "sampled sets: median 0.500, quartiles 0.450 – 0.550",
        "bare: all prompts 0.300",
    ]


def test_line_chart_places_points_and_band():
    page = tree(
        line_chart({"a": [(0, 0.0), (10, 1.0)]}, "steps", "a over steps", {"a": [(0, 0.0, 0.2), (10, 0.8, 1.0)]})
    )
    (path,) = page.xpath(".//polyline/@points")
    # 340 × 210 with 46 left, 12 right, 12 above, 36 below.
    assert path == f"46.0,{HEIGHT - 36:.1f} 328.0,12.0"
    (band,) = page.xpath(".//polygon/@points")
    assert len(band.split()) == 4
    assert [each.get("cx") for each in of_class(page, "point")] == ["46.0", "328.0"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.3, 0.3, [0.3, 0.4]), (3, 190, [0, 50, 100, 150, 200])],
)
def test_ticks_are_round_and_cover(low: float, high: float, ticks: list[float]):
    assert nice_ticks(low, high)[0] <= low
    assert nice_ticks(low, high)[-1] >= high
    assert nice_ticks(low, high)[: len(ticks)] == pytest.approx(ticks)


def test_a_scale_names_its_ticks():
    assert Scale(-0.2, 0.2).ticks == pytest.approx([-0.2, -0.1, 0, 0.1, 0.2])
