"""How often the rules tell a figure's kind: real medical images, real and drawn plots, drawn diagrams.

  python -m benchmarks.pmc_kinds [--data FOLDER] [--drawn 150] [--out benchmarks/results/pmc_kinds.json]

Medical: every n-th image of the sets in FOLDER/images, and figures of one to six of them on white paper. Plots: drawn
by matplotlib in six styles, and four figures of eLife 32671. Diagrams: flow charts, tables, text, trees, networks and
structures, drawn by Pillow. Drawn ones are of several sizes, as PNG and as JPEG of several qualities. The rules were
tuned on even-numbered figures; the odd-numbered ones are what the key `held_out` reports. Drawn figures are tidier than
published ones: read the numbers of plots and diagrams as an upper limit. Needs matplotlib, which is no dependency of
clipmed; without it plots are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipmed.files import write_json
from clipmed.images import ArrayHWC, to_rgb8
from dataset_builders.figures.config import KindConfig
from dataset_builders.figures.kind_classifier import confusion_of, measured
from dataset_builders.figures.kinds import FigureKind, open_classifier

PER_SET = 60
WORDS = (
    *("patients", "enrolled", "assessed", "excluded", "randomised", "treatment", "control", "dose", "week", "survival"),
    *("gene", "protein", "receptor", "cell", "membrane", "nucleus", "kinase", "tumour", "serum", "response", "score"),
    *("age", "analysis", "blood", "cohort", "Baseline", "IL-6", "p53", "mTOR"),
)
STYLES = (
    "default",
    "default",
    "default",
    "ggplot",
    "seaborn-v0_8-whitegrid",
    "classic",
    "grayscale",
    "dark_background",
)
Drawer = Callable[[Any, random.Random], None]


def words(rng: random.Random, most: int) -> str:
    """A few words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def _curves(axes: Any, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        steps = [rng.gauss(0, 1) for _ in range(rng.randint(6, 50))]
        axes.plot(np.cumsum(steps), marker=rng.choice(["", "o", "s"]), label=words(rng, 2))
    if rng.random() < 0.5:
        axes.legend(fontsize=7)


def _points(axes: Any, rng: random.Random) -> None:
    values = np.random.default_rng(rng.getrandbits(32)).normal(size=(2, rng.randint(20, 900)))
    axes.scatter(*values, s=rng.randint(3, 25), alpha=rng.choice([1, 0.5]))


def _bars(axes: Any, rng: random.Random) -> None:
    values = [rng.random() + 0.1 for _ in range(rng.randint(3, 10))]
    axes.bar(
        range(len(values)), values, yerr=[v / 9 for v in values], color=rng.choice(["k", "gray", "w", None]), ec="k"
    )


def _boxes(axes: Any, rng: random.Random) -> None:
    axes.boxplot([[rng.gauss(0, 1) for _ in range(30)] for _ in range(rng.randint(2, 7))], patch_artist=True)


def _survival(axes: Any, rng: random.Random) -> None:
    for _ in range(2):
        axes.step(sorted(rng.random() * 60 for _ in range(30)), np.linspace(1, rng.random(), 30))


def _histogram(axes: Any, rng: random.Random) -> None:
    axes.hist([rng.gauss(0, 1) for _ in range(400)], bins=rng.randint(10, 40))


def _heat_map(axes: Any, rng: random.Random) -> None:
    columns = rng.randint(5, 30)
    values = [[rng.gauss(0, 1) for _ in range(columns)] for _ in range(rng.randint(5, 40))]
    shown = axes.imshow(values, cmap=rng.choice(["viridis", "RdBu_r", "jet", "Reds"]), aspect="auto")
    axes.figure.colorbar(shown, ax=axes)


def _pie(axes: Any, rng: random.Random) -> None:
    axes.pie([rng.random() + 0.1 for _ in range(rng.randint(3, 7))], autopct="%d%%")


def _forest(axes: Any, rng: random.Random) -> None:
    rows = rng.randint(5, 14)
    spread = [rng.random() for _ in range(rows)]
    axes.errorbar([rng.gauss(0, 1) for _ in range(rows)], range(rows), xerr=spread, fmt="s", color="k")
    axes.set_yticks(range(rows), [words(rng, 2) for _ in range(rows)], fontsize=6)


PLOTS: tuple[Drawer, ...] = (_curves, _points, _bars, _boxes, _survival, _histogram, _heat_map, _pie, _forest)


def plot(rng: random.Random) -> Image.Image:
    """A figure of one to nine plots, by matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, columns = rng.choice([(1, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)])
    with plt.style.context(rng.choice(STYLES)):
        size = (rng.uniform(3, 6) * columns**0.6, rng.uniform(2.5, 5) * rows**0.6)
        figure, grid = plt.subplots(rows, columns, figsize=size, dpi=rng.choice([72, 100, 150, 200]))
        for axes in np.ravel(grid):
            rng.choice(PLOTS)(axes, rng)
            axes.set_xlabel(words(rng, 3))
            axes.set_ylabel(words(rng, 3))
            if rng.random() < 0.5:
                axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    return Image.open(buffer).convert("RGB")


def _colour(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _font(rng: random.Random) -> Any:
    return ImageFont.load_default(size=rng.randint(12, 22))


def _flow_chart(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    rows, font = rng.randint(3, 6), _font(rng)
    for row in range(rows):
        count = rng.choice([1, 1, 2, 3])
        for column in range(count):
            left, top = (column + 0.15) * width / count, (row + 0.2) * height / rows
            box = (left, top, left + 0.7 * width / count, top + 0.55 * height / rows)
            fill = rng.choice([(255, 255, 255), _colour(rng, 170, 250)])
            draw.rectangle(box, fill=fill, outline="black", width=2)
            text = "\n".join(words(rng, 3) for _ in range(int((box[3] - box[1]) / 26)))
            draw.text((left + 6, top + 4), text, fill="black", font=font)
            middle = (left + box[2]) / 2
            draw.line([(middle, box[3]), (middle, box[3] + 0.4 * height / rows)], fill="black", width=2)


def _text(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    font = _font(rng)
    for top in range(20, height - 30, rng.randint(20, 34)):
        draw.text((20, top), " ".join(words(rng, 3) for _ in range(width // 160)), fill="black", font=font)


def _table(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    font, rows, columns = _font(rng), rng.randint(5, 18), rng.randint(3, 7)
    for row in range(rows):
        top = 20 + row * (height - 40) / rows
        if row < 2 or rng.random() < 0.3:
            draw.line([20, top, width - 20, top], fill="black", width=1)
        for column in range(columns):
            text = words(rng, 1) if column == 0 else f"{rng.random() * 100:.2f}"
            draw.text((30 + column * (width - 60) / columns, top + 3), text, fill="black", font=font)


def _structures(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    for _ in range(rng.randint(3, 12)):
        x, y, side = rng.randint(60, width - 60), rng.randint(60, height - 60), rng.randint(20, 50)
        ring = [(x + side * math.cos(n * math.pi / 3), y + side * math.sin(n * math.pi / 3)) for n in range(6)]
        draw.polygon(ring, outline="black", width=2)
        draw.text((x + side, y), rng.choice(["OH", "NH", "Cl"]), fill=rng.choice(["black", "red"]), font=_font(rng))


def _tree(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    leaves = rng.randint(8, 40)
    nodes = [(width * 0.7, (n + 0.5) * height / leaves) for n in range(leaves)]
    for x, y in nodes:
        draw.text((x + 5, y - 7), words(rng, 2), fill="black", font=ImageFont.load_default(size=max(8, 300 // leaves)))
    while len(nodes) > 1:
        at = rng.randrange(len(nodes) - 1)
        (x0, y0), (x1, y1) = nodes[at : at + 2]
        x = min(x0, x1) - width * 0.6 / leaves
        draw.line([(x0, y0), (x, y0), (x, y1), (x1, y1)], fill="black", width=2)
        nodes[at : at + 2] = [(x, (y0 + y1) / 2)]


def _network(draw: Any, rng: random.Random) -> None:
    width, height = draw.im.size
    nodes = [(rng.randint(40, width - 40), rng.randint(40, height - 40)) for _ in range(rng.randint(8, 40))]
    for _ in range(2 * len(nodes)):
        draw.line(rng.sample(nodes, 2), fill=_colour(rng, 0, 160), width=rng.randint(1, 3))
    for x, y in nodes:
        side = rng.randint(6, 40)
        draw.ellipse([x - side, y - side, x + side, y + side], fill=_colour(rng, 170, 250), outline="black")
        draw.text((x - side, y - 8), words(rng, 1), fill="black", font=_font(rng))


DIAGRAMS: tuple[Drawer, ...] = (_flow_chart, _flow_chart, _text, _table, _structures, _tree, _network)


def diagram(rng: random.Random) -> Image.Image:
    """A diagram, by Pillow."""
    paper = rng.choice(["white", "white", "white", "white", "#f4f4f0", "#eef3fa"])
    image = Image.new("RGB", (rng.randint(500, 1400), rng.randint(400, 1200)), paper)
    rng.choice(DIAGRAMS)(ImageDraw.Draw(image), rng)
    return image


def compound(paths: list[Path], rng: random.Random) -> Image.Image:
    """One to six real images of one set on white paper, with letters."""
    image = Image.new("RGB", (rng.randint(500, 1000), rng.randint(300, 900)), "white")
    draw, gap = ImageDraw.Draw(image), rng.randint(4, 60)
    columns, rows = rng.choice([(1, 1), (2, 1), (2, 2), (3, 2), (3, 1)])
    width, height = (image.width - gap * (columns + 1)) // columns, (image.height - gap * (rows + 1)) // rows
    for number in range(columns * rows):
        at = (gap + number % columns * (width + gap), gap + number // columns * (height + gap))
        image.paste(Image.open(rng.choice(paths)).convert("RGB").resize((width, height)), at)
        draw.text(at, "ABCDEF"[number], fill="black", font=ImageFont.load_default(size=24))
    return image


def as_published(image: Image.Image, rng: random.Random) -> ArrayHWC:
    """The image at one of several sizes, as PNG or as JPEG of one of several qualities."""
    side = rng.choice([0, 0, 700, 480, 320])
    if side:
        image.thumbnail((side, side))
    quality = rng.choice([0, 60, 75, 85, 95])
    if quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
    return np.asarray(image.convert("RGB"))


def figures(data: Path, drawn: int) -> Iterator[tuple[str, FigureKind, int, ArrayHWC]]:
    """(source, kind, number in the source, pixels) of every figure."""
    folders = {folder.name: folder for folder in sorted((data / "images").iterdir()) if folder.is_dir()}
    folders |= {name: data / "pairs" / name / "images" for name in ("medpix", "medicat_sample")}
    sets = {
        name: sorted(path for path in folder.rglob("*.*") if path.suffix != ".json") for name, folder in folders.items()
    }
    for name, paths in sets.items():
        for number, path in enumerate(paths[:: max(1, len(paths) // PER_SET)]):
            yield name, FigureKind.MEDICAL, number, np.asarray(to_rgb8(Image.open(path)))
    for number, path in enumerate(sorted((data / "pairs" / "elife32671" / "images").iterdir())):
        if "fig1" not in path.name:  # half photographs, half drawings
            yield "elife32671", FigureKind.PLOT, number, np.asarray(to_rgb8(Image.open(path)))
    whole = [paths for name, paths in sets.items() if name not in {"medicat_sample", "modality_medmnist6"}]
    for number in range(drawn):
        rng = random.Random(number)
        yield "compound", FigureKind.MEDICAL, number, as_published(compound(rng.choice(whole), rng), rng)
        yield "diagrams", FigureKind.DIAGRAM, number, as_published(diagram(rng), rng)
        if find_spec("matplotlib"):
            yield "plots", FigureKind.PLOT, number, as_published(plot(rng), rng)


def run(data: Path, drawn: int) -> dict[str, Any]:
    """Return what the rules say of every figure, by source, and measures of either half."""
    rules = open_classifier(KindConfig(method="rules"))
    assert rules is not None
    halves: dict[str, list[tuple[FigureKind, FigureKind]]] = {"tuned_on": [], "held_out": []}
    sources: dict[str, Counter[str]] = {}
    spent = 0.0
    for source, kind, number, pixels in figures(data, drawn):
        started = time.process_time()
        told, _ = rules.kind_of(pixels)
        spent += time.process_time() - started
        halves["held_out" if number % 2 else "tuned_on"].append((kind, told))
        sources.setdefault(source, Counter())[str(told)] += 1
    kinds = list(FigureKind)
    result = {name: measured(confusion_of(pairs, kinds), kinds) for name, pairs in halves.items()}
    count = sum(map(len, halves.values()))
    by_source = {name: dict(counter) for name, counter in sources.items()}
    return {"figures": count, "ms_per_figure": 1e3 * spent / count, "by_source": by_source, **result}


def main() -> None:
    """Run, print the JSON, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of real images")
    parser.add_argument("--drawn", type=int, default=150, help="drawn figures of each source")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    result = run(given.data, given.drawn)
    print(json.dumps(result, indent=2))
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    main()
