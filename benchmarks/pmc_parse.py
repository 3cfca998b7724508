"""Articles a second of the JATS parser on one core, beside pubmed_parser 0.5.1 and a bare lxml parse of the same files.

  python -m benchmarks.pmc_parse --setup [--files FOLDER] [--rounds 5]

Ours is the full extraction: captions, every graphic, mentions with panels, licence, ids. pubmed_parser's are its
captions alone (`parse_pubmed_caption`), and those of its calls in sequence that give the same fields (captions, all
paragraphs with their references, article: `parse_pubmed_caption`, `parse_pubmed_paragraph(all_paragraph=True)`,
`parse_pubmed_xml`). The limit is lxml's parse of the whole file and nothing else. All run in processes of their own, on
one core, and take turns at every few files, so that a slow minute of the machine is slow for all. Rates are medians of
rounds; ratios are taken within each round, and are medians with the lowest and highest beside them.

Without --files the articles are written by this program: 40 of about 90 KB, as large as the real mean.
--files takes a folder of real articles (*.xml, *.nxml, at any depth). Words and links are counted against a plain
recursive reader: the words of captions, and the pairs of figure and paragraph that references make.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lxml import etree

from benchmarks.peers import python_of, set_up
from benchmarks.pmc_build import article_xml
from clipmed.errors import ItemRejectedError
from clipmed.files import write_json
from dataset_builders.pmc.jats import JatsArticle, parse_jats

NUM_WRITTEN = 40
FILES_A_TURN = 16
MODES = ("ours", "lxml", "captions", "fields")
RATIOS = {
    "fraction_of_lxml_parse": "lxml",
    "ratio_vs_pubmed_parser_captions": "captions",
    "ratio_vs_pubmed_parser_fields": "fields",
}
_NOT_PROSE = frozenset({"tex-math", "annotation", "supplementary-material", "table-wrap", "fig", "media", "object-id"})
_BLOCKS = frozenset({"p", "title", "list", "list-item", "disp-formula", "break", "label"})


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="create pubmed_parser's environment first")
    parser.add_argument("--files", type=Path, help="folder of real articles, in place of written ones")
    parser.add_argument("--rounds", type=int, default=5, help="how often each parser runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pmc_parse.json"))
    options = parser.parse_args()
    peer = set_up("pubmed_parser") if options.setup else python_of("pubmed_parser")
    with tempfile.TemporaryDirectory() as folder:
        paths = collect(Path(folder), options.files)
        result = measure(paths, peer.absolute(), options.rounds)
        result |= {"name": "pmc_parse", "written": options.files is None}
    for name, value in result.items():
        print(f"{name:40} {value:.3f}" if isinstance(value, float) else f"{name:40} {value}")
    write_json(options.out, result)
    print(json.dumps(result))


def collect(folder: Path, files: Path | None) -> list[Path]:
    """Put the articles into one folder, under names that pubmed_parser takes for PubMed Central's."""
    paths = []
    if files is None:
        for number in range(NUM_WRITTEN):
            paths.append(folder / f"{number:04d}.nxml")
            paths[-1].write_bytes(article_xml(number))
        return paths
    found = sorted(path for path in files.rglob("*") if path.suffix in {".xml", ".nxml"} and path.is_file())
    for number, path in enumerate(found):
        paths.append(folder / f"{number:04d}.nxml")
        shutil.copyfile(path, paths[-1])
    return paths


def measure(paths: Sequence[Path], peer: Path, rounds: int) -> dict[str, Any]:
    """Return rates, ratios, and what each parser found."""
    found, seconds = _race(paths, peer, rounds)
    rate = {mode: len(paths) / statistics.median(times) for mode, times in seconds.items()}
    truth = [read_plainly(path) for path in paths]
    articles = [_parsed(path) for path in paths]
    words = sum((words for words, _ in truth), Counter())
    links = sum(len(links) for _, links in truth)
    ours = sum((_words_of(article) for article in articles if article), Counter())
    theirs = Counter(found["captions"]["words"])
    ratios = {
        f"{name}{suffix}": pick([theirs / ours for ours, theirs in zip(seconds["ours"], seconds[mode], strict=True)])
        for name, mode in RATIOS.items()
        for suffix, pick in (("", statistics.median), ("_lowest", min), ("_highest", max))
    }
    return {
        "articles": len(paths),
        "megabytes": sum(path.stat().st_size for path in paths) / 1e6,
        "articles_per_s": rate["ours"],
        "lxml_articles_per_s": rate["lxml"],
        "pubmed_parser_captions_per_s": rate["captions"],
        "pubmed_parser_fields_per_s": rate["fields"],
        "rounds": rounds,
        **ratios,
        "lost": sum(article is None for article in articles),
        "lost_pubmed_parser": found["captions"]["lost"],
        "figures": sum(len(article.figures) for article in articles if article),
        "words_kept": (words & ours).total() / max(words.total(), 1),
        "words_kept_pubmed_parser": (words & theirs).total() / max(words.total(), 1),
        "true_links": links,
        "links": sum(
            len(true & _links_of(article)) for (_, true), article in zip(truth, articles, strict=True) if article
        ),
    }


def read_plainly(path: Path) -> tuple[Counter[str], set[tuple[str, str]]]:
    """Return the words of the captions of a file, and its links: (figure id, the paragraph's first words)."""
    root = etree.parse(
        path, etree.XMLParser(huge_tree=True, recover=True, resolve_entities=False, no_network=True)
    ).getroot()
    words: Counter[str] = Counter()
    if root is None:
        return words, set()
    figures = [figure for figure in root.iter("{*}fig") if next(figure.iterancestors("{*}sub-article"), None) is None]
    for figure in figures:
        for caption in figure.iterchildren("{*}caption"):
            words.update(_plain_words(caption))
    ids = {figure.get("id") for figure in figures}
    links = set()
    for xref in root.iter("{*}xref"):
        paragraph = next(xref.iterancestors("{*}p", "{*}fig", "{*}td", "{*}th"), None)
        if paragraph is None or etree.QName(paragraph).localname != "p":
            continue
        own = next(paragraph.iterancestors("{*}fig"), None)
        for rid in xref.get("rid", "").split():
            if rid in ids and (own is None or own.get("id") != rid):
                links.add((rid, " ".join(_plain_words(paragraph)[:6])))
    return words, links


def _plain_words(element: etree._Element) -> list[str]:
    parts: list[str] = []

    def walk(node: etree._Element) -> None:
        parts.append(node.text or "")
        for child in node:
            name = etree.QName(child).localname if isinstance(child.tag, str) else "comment"
            if name not in _NOT_PROSE and isinstance(child.tag, str):
                space = " " if name in _BLOCKS else ""
                parts.append(space)
                walk(child)
                parts.append(space)
            parts.append(child.tail or "")

    walk(element)
    return re.findall(r"\w+", "".join(parts))


def _parsed(path: Path) -> JatsArticle | None:
    try:
        return parse_jats(path.read_bytes())
    except ItemRejectedError:
        return None


def _words_of(article: JatsArticle) -> Counter[str]:
    return Counter(word for figure in article.figures for word in re.findall(r"\w+", figure.caption))


def _links_of(article: JatsArticle) -> set[tuple[str, str]]:
    return {
        (figure.id, " ".join(re.findall(r"\w+", mention.text)[:6]))
        for figure in article.figures
        for mention in figure.mentions
    }


def _race(paths: Sequence[Path], peer: Path, rounds: int) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Return what each parser found and lost, and the CPU seconds that it took in each round over all files."""
    with contextlib.ExitStack() as stack:
        drivers = {
            mode: stack.enter_context(_start(Path(sys.executable) if mode == "ours" else peer, mode, paths))
            for mode in MODES
        }
        found = {mode: json.loads(_answer(driver)) for mode, driver in drivers.items()}
        seconds = {mode: [0.0] * rounds for mode in MODES}
        for number in range(rounds):
            for first in range(0, len(paths), FILES_A_TURN):
                for mode, driver in drivers.items():
                    seconds[mode][number] += float(_answer(driver, f"{first} {first + FILES_A_TURN}"))
        for driver in drivers.values():
            driver.communicate()
    return found, seconds


def _start(python: Path, mode: str, paths: Sequence[Path]) -> subprocess.Popen[str]:
    driver = Path(__file__).with_name("pmc_parse_driver.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [str(python), "-P", str(driver), mode, *map(str, paths)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _answer(driver: subprocess.Popen[str], question: str = "") -> str:
    """Ask a driver for a slice of the files, or for nothing but its first line."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    if question:
        print(question, file=driver.stdin, flush=True)
    answer = driver.stdout.readline()
    if not answer:
        raise RuntimeError(f"the driver ended early: {driver.args!r:.200}; run it by itself to see why")
    return answer


if __name__ == "__main__":
    main()
