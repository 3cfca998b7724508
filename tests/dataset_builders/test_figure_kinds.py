"""Kinds of figures: by rules on real and drawn images, and by a classifier that is trained here, end to end."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from clipmed.checkpoints import save_checkpoint
from clipmed.errors import ConfigError, DataError
from clipmed.images import ArrayHWC
from clipmed.towers import ModelConfig, build_two_tower
from dataset_builders.__main__ import main
from dataset_builders.figures.config import KindConfig
from dataset_builders.figures.kind_classifier import (
    FACTS_FILE,
    WEIGHTS_FILE,
    Classifier,
    TrainConfig,
    read_labels,
    train,
)
from dataset_builders.figures.kinds import FigureKind, open_classifier

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def drawn_plot(seed: int) -> Image.Image:
    """Curves over axes with ticks and numbers."""
    rng = random.Random(seed)
    width, height = rng.randint(420, 900), rng.randint(360, 700)
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    left, top, right, bottom = 70, 30, width - 30, height - 60
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black", width=2)
    for step in range(6):
        y, x = bottom - step * (bottom - top) / 5.5, left + step * (right - left) / 5.5
        draw.line([(left - 6, y), (left, y)], fill="black", width=2)
        draw.text((left - 44, y - 8), f"{step * 20}", fill="black", font=font)
        draw.text((x - 4, bottom + 10), f"{step}", fill="black", font=font)
    for colour in ("#1f77b4", "#d62728")[: rng.randint(1, 2)]:
        points = [(left + n * (right - left) / 12, rng.randint(top + 20, bottom - 20)) for n in range(1, 12)]
        draw.line(points, fill=colour, width=3)
    return image


def drawn_diagram(seed: int) -> Image.Image:
    """Boxes with words, one below the other, and arrows between them."""
    rng = random.Random(seed)
    width, rows = rng.randint(420, 900), rng.randint(3, 6)
    image = Image.new("RGB", (width, rows * 130), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    for row in range(rows):
        box = (width * 0.25, row * 130 + 20, width * 0.75, row * 130 + 90)
        draw.rectangle(box, outline="black", width=2, fill=rng.choice(["white", "#d0e4f4"]))
        draw.text((box[0] + 10, box[1] + 20), f"{rng.randint(10, 500)} patients enrolled", fill="black", font=font)
        draw.line([(width / 2, box[3]), (width / 2, box[3] + 60)], fill="black", width=2)
    return image


def photograph(seed: int) -> Image.Image:
    """Shades without edges, grey or reddish, as a scan or a tissue has them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 200, (12, 12), dtype=np.uint8)).resize(
        (300, 240), Image.Resampling.BICUBIC
    )
    grey = np.asarray(coarse, np.int16) + rng.normal(0, 8, (240, 300))
    tint = np.array([1, 1, 1] if seed % 2 else [1, 0.6, 0.65])
    return Image.fromarray((grey[..., None] * tint).clip(0, 255).astype(np.uint8))


DRAWERS = {FigureKind.PLOT: drawn_plot, FigureKind.DIAGRAM: drawn_diagram, FigureKind.MEDICAL: photograph}


def pixels(image: Image.Image, quality: int = 0) -> ArrayHWC:
    if quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
    return np.asarray(image.convert("RGB"))


def rules():
    classifier = open_classifier(KindConfig())
    assert classifier is not None
    return classifier


@pytest.mark.parametrize("kind", DRAWERS)
@pytest.mark.parametrize("quality", [0, 70])
def test_rules_tell_the_kinds_apart(kind: FigureKind, quality: int):
    told = [rules().kind_of(pixels(DRAWERS[kind](seed), quality))[0] for seed in range(10)]
    assert told.count(kind) >= 9


def test_rules_give_the_same_at_any_size_and_a_score():
    image = drawn_plot(1)
    for side in (256, 500, 1500):
        scaled = image.resize((side, side * image.height // image.width), Image.Resampling.LANCZOS)
        kind, score = rules().kind_of(pixels(scaled))
        assert kind is FigureKind.PLOT
        assert 0.5 <= score <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (8, 8)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_rules_take_any_image(size: tuple[int, int], value: int):
    kind, _ = rules().kind_of(np.full((*size, 3), value, np.uint8))
    assert kind in set(FigureKind)


def test_panels_of_photographs_on_white_paper_are_medical():
    figure = Image.new("RGB", (700, 560), "white")
    for number in range(4):
        figure.paste(photograph(number), (30 + 340 * (number % 2), 30 + 270 * (number // 2)))
    assert rules().kind_of(pixels(figure))[0] is FigureKind.MEDICAL


def test_method_none_opens_nothing_and_rules_have_a_name():
    assert open_classifier(KindConfig(method="none")) is None
    assert rules().name == "rules"


@pytest.mark.real_data
@pytest.mark.parametrize(
    "source",
    [
        *("blood_bccd_crops", "ct_head_hemorrhage", "cxr_pneumonia", "derm_isic_cc0", "endo_polyp_kvasir"),
        *("fundus_eye4", "histo_lung_lc25000", "modality_medmnist6", "mri_brain_tumor4", "us_breast_busi_even"),
    ],
)
def test_real_medical_images_are_medical(real_data: Path, source: str):
    paths = sorted(
        path for path in (real_data / "images" / source).rglob("*") if path.suffix in {".png", ".jpg", ".jpeg"}
    )
    chosen = paths[:: max(1, len(paths) // 60)]
    told = [rules().kind_of(pixels(Image.open(path)))[0] for path in chosen]
    assert told.count(FigureKind.MEDICAL) >= 0.97 * len(told)


@pytest.mark.real_data
def test_real_figures_of_articles(real_data: Path):
    medical = sorted((real_data / "pairs" / "medicat_sample" / "images").iterdir())
    plots = [
        path for path in sorted((real_data / "pairs" / "elife32671" / "images").iterdir()) if "fig1" not in path.name
    ]
    assert {rules().kind_of(pixels(Image.open(path)))[0] for path in medical} == {FigureKind.MEDICAL}
    assert {rules().kind_of(pixels(Image.open(path)))[0] for path in plots} == {FigureKind.PLOT}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), 0)


def make_checkpoint(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(TINY))
    torch.manual_seed(seed)
    save_checkpoint(folder / "model", build_two_tower(ModelConfig(config=str(folder / "tiny.json"))), "# A card\n")
    return folder / "model"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    rows = []
    for kind, drawer in DRAWERS.items():
        for seed in range(30):
            name = f"{kind}_{seed}.png"
            drawer(seed).save(folder / name)
            rows.append({"path": name, "kind": str(kind), "group": f"article {seed // 2} {kind}"})
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "kind", "group"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def trained(checkpoint: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kinds") / "classifier"
    train(read_labels(labels), TrainConfig(checkpoint=str(checkpoint)), out)
    return out


def test_a_trained_classifier_tells_figures_that_it_has_not_seen(trained: Path):
    classifier = open_classifier(KindConfig(method="classifier", classifier=trained))
    assert classifier is not None
    assert classifier.name.startswith("classifier:")
    for kind, drawer in DRAWERS.items():
        told = [classifier.kind_of(pixels(drawer(seed))) for seed in range(100, 110)]
        # The checkpoint is random and small: chance is 3 or 4 of 10.
        assert [name for name, _ in told].count(kind) >= (9 if kind is FigureKind.MEDICAL else 7)
        assert all(1 / 3 <= score <= 1 for _, score in told)


def test_its_facts_hold_the_checkpoint_and_what_was_measured(trained: Path, checkpoint: Path):
    facts = json.loads((trained / FACTS_FILE).read_text())
    assert (facts["checkpoint"], facts["num_figures"]) == (str(checkpoint), 90)
    assert sum(map(sum, facts["held_out"]["confusion"])) == facts["num_held_out"]
    assert 5 <= facts["num_held_out"] <= 35
    assert facts["held_out"]["accuracy"] > 0.6
    assert f"{facts['penalty']:g}" in facts["cross_validation"]


def test_training_again_gives_the_same_bytes(trained: Path, checkpoint: Path, labels: Path, tmp_path: Path):
    train(read_labels(labels), TrainConfig(checkpoint=str(checkpoint)), tmp_path / "again")
    for name in (WEIGHTS_FILE, FACTS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_another_checkpoint_is_refused(trained: Path, tmp_path: Path):
    other = make_checkpoint(tmp_path / "other", 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / WEIGHTS_FILE).write_bytes((trained / WEIGHTS_FILE).read_bytes())
    facts = json.loads((trained / FACTS_FILE).read_text()) | {"checkpoint": str(other)}
    (moved / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(
        DataError, match=r"but the classifier was trained on .*put that checkpoint back, or train again"
    ):
        Classifier(moved).kind_of(pixels(photograph(0)))


def test_damaged_or_missing_classifiers_are_refused(trained: Path, tmp_path: Path):
    with pytest.raises(DataError, match="is no classifier of figure kinds"):
        Classifier(tmp_path)
    (tmp_path / FACTS_FILE).write_bytes((trained / FACTS_FILE).read_bytes())
    changed = bytearray((trained / WEIGHTS_FILE).read_bytes())
    changed[-1] ^= 1
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(changed))
    with pytest.raises(DataError, match="is not the file that"):
        Classifier(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,kind\na.png,plot\n", "it needs path and kind"),
        ("path,kind\na.png,chart\n", r"labels\.csv:2: got kind 'chart'; allowed: medical, plot, diagram, other"),
        ("path,kind\nb.png,plot\n", r"labels\.csv:2: no file .*b\.png"),
        ("path,kind\na.png,plot\n", "got figures of 1 kind; a classifier needs two or more"),
    ],
)
def test_wrong_labels_are_told(content: str, message: str, tmp_path: Path):
    photograph(0).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_too_few_figures_are_told(checkpoint: Path, tmp_path: Path):
    photograph(0).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("path,kind\na.png,medical\na.png,plot\n")
    with pytest.raises(DataError, match="label more figures"):
        train(read_labels(tmp_path / "labels.csv"), TrainConfig(checkpoint=str(checkpoint)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_training_are_checked():
    with pytest.raises(ConfigError, match="penalties: got"):
        TrainConfig(checkpoint="x", penalties=(0.0,))


def test_commands_train_and_score(checkpoint: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "kinds"
    assert main(["kinds", "train", str(labels), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    assert "figures held out" in capsys.readouterr().out
    chosen = ["--kinds.method", "classifier", "--kinds.classifier", str(out)]
    assert main(["kinds", "score", str(labels), *chosen]) == 0
    printed = capsys.readouterr().out
    assert "90 figures by classifier:" in printed
    assert float(printed.split("accuracy: ")[1]) > 0.8
    assert main(["kinds", "score", str(labels)]) == 0
    assert "90 figures by rules" in capsys.readouterr().out
