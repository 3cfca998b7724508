"""Panels of compound figures: drawn layouts, named traps, published figures, and learned detectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pmc_panel_figures import FigureDrawer
from benchmarks.pmc_panels import load_real, match, measure, single_kept
from clipmed.errors import ConfigError
from clipmed.images import ArrayHWC
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.letters import find_letters
from dataset_builders.figures.panel_boxes import Box, Panel, overlap, reading_order
from dataset_builders.figures.panels import GutterDetector, open_detector
from dataset_builders.phantoms.drawing import draw_phantom

DETECTOR = GutterDetector()


@pytest.fixture(scope="module")
def drawer() -> FigureDrawer:
    return FigureDrawer(seed=29, num_pictures=16)


def picture(modality: str, width: int, height: int) -> Image.Image:
    drawn = draw_phantom(modality, "normal", np.random.default_rng(3), 192)
    return Image.fromarray(drawn).resize((width, height))


def compound(boxes: Sequence[Box], modality: str = "histopathology", ground: str = "white") -> Image.Image:
    """A figure of pictures in these boxes, with a margin of 6 pixels at the right and bottom."""
    page = Image.new("RGB", (max(box[2] for box in boxes) + 6, max(box[3] for box in boxes) + 6), ground)
    for left, top, right, bottom in boxes:
        page.paste(picture(modality, right - left, bottom - top), (left, top))
    return page


def write(page: Image.Image, at: tuple[int, int], text: str, colour: str, size: int = 24) -> None:
    ImageDraw.Draw(page).text(at, text, fill=colour, font=ImageFont.load_default(size), stroke_width=0.5)


def pixels(page: Image.Image) -> ArrayHWC:
    return np.asarray(page)


def boxes_agree(found: Sequence[Panel], true: Sequence[Box], level: float = 0.9) -> bool:
    """Whether the panels are these boxes, in this order."""
    return len(found) == len(true) and all(
        overlap(panel.box, box) >= level for panel, box in zip(found, true, strict=True)
    )


GRID = [(0, 0, 300, 240), (310, 0, 610, 240), (0, 250, 300, 490), (310, 250, 610, 490)]
NESTED = [(0, 0, 400, 490), (410, 0, 600, 240), (610, 0, 800, 240), (410, 250, 600, 490), (610, 250, 800, 490)]


def test_boxes_and_letters_of_drawn_figures_reach_their_bounds(drawer: FigureDrawer):
    figures = [(figure.image, figure.panels) for figure in map(drawer.compound, range(60))]
    plain = measure(DETECTOR, figures, hinted=False).figures()
    hinted = measure(DETECTOR, figures, hinted=True).figures()
    assert plain["precision"] >= 0.93
    assert plain["recall"] >= 0.83
    assert hinted["precision"] >= 0.96
    assert hinted["recall"] >= 0.9
    assert hinted["letters"] >= 0.9
    assert hinted["letters_wrong"] <= 0.03


def test_single_pictures_and_plots_stay_whole(drawer: FigureDrawer):
    kept, _ = single_kept(DETECTOR, (drawer.single(number).image for number in range(60)))
    assert kept >= 0.98


@pytest.mark.parametrize("boxes", [GRID, NESTED], ids=["grid", "nested"])
@pytest.mark.parametrize("ground", ["white", "grey"])
def test_pictures_are_cut_along_gutters(boxes: list[Box], ground: str):
    assert boxes_agree(DETECTOR.detect(pixels(compound(boxes, ground=ground))), boxes)


def test_black_radiographs_parted_by_a_thin_white_line_are_cut():
    boxes = [(0, 0, 300, 300), (302, 0, 602, 300)]
    assert boxes_agree(DETECTOR.detect(pixels(compound(boxes, "ct"))), boxes)


def test_boxes_are_in_pixels_of_a_large_image():
    large = [(left * 4, top * 4, right * 4, bottom * 4) for left, top, right, bottom in GRID]
    assert boxes_agree(DETECTOR.detect(pixels(compound(large))), large)


@pytest.mark.parametrize(
    ("modality", "letters", "colour"), [("mri", "ABCD", "white"), ("dermatology", "abcd", "black")]
)
def test_letters_inside_pictures_are_read(modality: str, letters: str, colour: str):
    page = compound(GRID, modality)
    for letter, box in zip(letters, GRID, strict=True):
        write(page, (box[0] + 8, box[1] + 4), letter, colour)
    found = DETECTOR.detect(pixels(page))
    assert boxes_agree(found, GRID)
    assert [panel.letter for panel in found] == list(letters)


def test_letters_in_brackets_above_pictures_are_read_and_not_part_of_the_boxes():
    boxes = [(10, 40, 310, 280), (330, 40, 630, 280)]
    page = compound(boxes)
    for letter, box in zip("AB", boxes, strict=True):
        write(page, (box[0], 6), f"({letter})", "black")
    found = DETECTOR.detect(pixels(page))
    assert [panel.letter for panel in found] == ["A", "B"]
    assert boxes_agree(found, boxes, 0.97)


def test_a_letter_that_cannot_be_read_follows_from_its_place():
    page = compound(GRID, "dermatology")
    for letter, box in zip("AB D", GRID, strict=True):
        write(page, (box[0] + 8, box[1] + 4), letter, "black")
    assert [panel.letter for panel in DETECTOR.detect(pixels(page))] == list("ABCD")


def test_two_pictures_under_one_letter_are_one_panel():
    boxes = [(10, 30, 200, 230), (204, 30, 394, 230), (430, 30, 620, 230)]
    page = compound(boxes)
    write(page, (10, 2), "A", "black")
    write(page, (430, 2), "B", "black")
    found = DETECTOR.detect(pixels(page), ["A", "B"])
    assert boxes_agree(found, [(10, 30, 394, 230), (430, 30, 620, 230)])


def test_letters_part_plots_without_straight_edges():
    page = Image.new("RGB", (700, 300), "white")
    for left, letter in ((60, "A"), (420, "B")):
        draw = ImageDraw.Draw(page)
        draw.line((left, 40, left, 250, left + 220, 250), fill="black", width=2)
        draw.line([(left + 20 * n, 240 - (n * 37) % 180) for n in range(11)], fill="blue", width=2)
        write(page, (left + 80, 262), "Dose (mg)", "black", 14)
        write(page, (left - 40, 6), letter, "black")
    found = DETECTOR.detect(pixels(page))
    assert [panel.letter for panel in found] == ["A", "B"]
    assert found[0].box[2] < found[1].box[0]


def test_plots_whose_letters_are_not_all_read_are_cut_as_the_caption_counts_them():
    page = Image.new("RGB", (760, 560), "white")
    draw = ImageDraw.Draw(page)
    corners = [(60, 40), (440, 40), (60, 320), (440, 320)]
    for (left, top), letter in zip(corners, "AB D", strict=True):
        draw.line((left, top, left, top + 180, left + 260, top + 180), fill="black", width=2)
        draw.line([(left + 25 * n, top + 170 - (n * 37) % 150) for n in range(11)], fill="blue", width=2)
        write(page, (left - 45, top - 30), letter, "black")
    found = DETECTOR.detect(pixels(page), list("ABCD"))
    assert [panel.letter for panel in found] == list("ABCD")
    assert boxes_agree(found, [(left, top, left + 260, top + 182) for left, top in corners], 0.8)


def test_as_many_pictures_as_the_caption_has_letters_are_lettered_by_their_place():
    found = DETECTOR.detect(pixels(compound(GRID)), ["b", "a", "d", "c", "a"])
    assert [panel.letter for panel in found] == list("abcd")


def test_names_that_are_not_letters_are_no_hint_to_the_reader():
    found = DETECTOR.detect(pixels(compound(GRID)), ["1", "2", "3", "iv", ""])
    assert boxes_agree(found, GRID)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 3), (40, 2000)])
@pytest.mark.parametrize("level", [0, 255])
def test_blank_and_tiny_images_are_one_panel(shape: tuple[int, int], level: int):
    blank = np.full((*shape, 3), level, np.uint8)
    for expected in ((), ("A", "B")):
        assert DETECTOR.detect(blank, expected) == [Panel(box=(0, 0, shape[1], shape[0]))]


def test_a_word_is_not_read_as_letters():
    page = Image.new("RGB", (600, 300), "white")
    write(page, (30, 30), "ABCDEFG", "black")
    assert find_letters(np.asarray(page.convert("L"))) == []


def test_a_tall_panel_is_read_before_or_after_the_grid_beside_it():
    assert reading_order(NESTED) == [0, 1, 2, 3, 4]
    mirrored = [(800 - right, top, 800 - left, bottom) for left, top, right, bottom in NESTED]
    assert reading_order(mirrored) == [2, 1, 4, 3, 0]


def test_the_config_names_the_detector():
    assert open_detector(PanelConfig(detector="none")) is None
    detector = open_detector(PanelConfig())
    assert detector is not None
    assert detector.name == "gutters"


@pytest.mark.real_data
def test_published_figures_reach_their_bounds(real_data: Path):
    figures = [(image, true) for _, image, true in load_real(real_data / "pairs")]
    assert len(figures) == 16
    hinted = measure(DETECTOR, figures, hinted=True).figures()
    assert hinted["precision"] >= 0.9
    assert hinted["recall"] >= 0.9
    assert hinted["letters"] >= 0.9


# Learned detectors, on OpenCV's own runtime


def write_model(path: Path, outputs: dict[str, np.ndarray]) -> Path:
    """An ONNX graph that gives these outputs for any input."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, given = [], [], []
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 640, 640])
    nodes.append(helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0))
    constants.append(numpy_helper.from_array(np.float32(0), "zero"))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for name, values in outputs.items():
        constants.append(numpy_helper.from_array(values.astype(np.float32), f"{name}_values"))
        nodes.append(helper.make_node("Add", [f"{name}_values", "nothing"], [name]))
        given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))
    graph = helper.make_graph(nodes, "detector", [image], given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


RELATIVE = np.array([[0.0, 0.0, 0.4, 0.5], [0.01, 0.0, 0.4, 0.5], [0.5, 0.0, 1.0, 0.5], [0.2, 0.0, 0.6, 0.5]])
SCORES = np.array([0.9, 0.8, 0.7, 0.1])


def as_yolo() -> np.ndarray:
    corners = RELATIVE * 640
    middle, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return np.hstack((middle, size, SCORES[:, None])).T[None]  # (1, 5, 4)


@pytest.mark.parametrize("form", ["boxes and scores", "yolo"])
def test_a_model_gives_panels(tmp_path: Path, form: str):
    outputs = {"boxes": RELATIVE, "scores": SCORES} if form == "boxes and scores" else {"rows": padded(as_yolo())}
    path = write_model(tmp_path / "panels.onnx", outputs)
    detector = open_detector(PanelConfig(detector="model", model=path))
    assert detector is not None
    found = detector.detect(np.full((500, 1000, 3), 128, np.uint8))
    assert [panel.box for panel in found] == [(0, 0, 400, 500), (500, 0, 1000, 500)]
    assert [round(panel.score, 4) for panel in found] == [0.9, 0.7]
    assert detector.name == "model panels"


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows that are wider than they are many, as a detector's are."""
    return np.concatenate((rows, np.zeros((1, rows.shape[1], 20))), axis=2)


def test_panels_of_a_model_get_their_letters(tmp_path: Path):
    page = compound([(0, 0, 400, 500), (500, 0, 1000, 500)], "dermatology")
    write(page, (10, 5), "A", "black")
    write(page, (510, 5), "B", "black")
    image = pixels(page.crop((0, 0, 1000, 500)))
    detector = open_detector(
        PanelConfig(detector="model", model=write_model(tmp_path / "m.onnx", {"rows": padded(as_yolo())}))
    )
    assert detector is not None
    assert [panel.letter for panel in detector.detect(image)] == ["A", "B"]


def test_a_model_with_other_outputs_is_a_setting_error(tmp_path: Path):
    path = write_model(tmp_path / "other.onnx", {"classes": np.zeros((1, 1000))})
    detector = open_detector(PanelConfig(detector="model", model=path))
    assert detector is not None
    with pytest.raises(ConfigError, match=r"outputs of shapes \[\(1, 1000\)\]; allowed: boxes"):
        detector.detect(np.zeros((64, 64, 3), np.uint8))


def test_a_file_that_is_no_model_is_a_setting_error(tmp_path: Path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot read as ONNX"):
        open_detector(PanelConfig(detector="model", model=tmp_path / "no.onnx"))


def test_each_true_box_counts_once():
    box = (0, 0, 10, 10)
    assert match([Panel(box=box), Panel(box=box)], [Panel(box=box)], 0.5) in ([(0, 0)], [(1, 0)])
