"""Parses files in one way on one core; started by `benchmarks.pmc_parse` in its environments and driven by its lines.

usage: pmc_parse_driver.py ours|lxml|captions|fields FILE…

First parses every file once, so that all of them are in the page cache, and prints a line of JSON with what it lost and
found. Then, for each line `FIRST END` that it reads, parses that slice of the files and prints the CPU seconds it took.
Imports our parser or the peer's only where it runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Parse = Callable[[str], Any]


def main(mode: str, paths: Sequence[str]) -> None:
    """Parse all files once, and then what is asked for against the clock."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    parse = PARSERS[mode]()
    lost = 0
    words: Counter[str] = Counter()
    for path in paths:
        try:
            found = parse(path)
        except Exception:  # noqa: BLE001 (whatever a parser raises, it has lost the article)
            lost += 1
            continue
        if mode == "captions":
            for figure in found or ():
                words.update(re.findall(r"\w+", figure["fig_caption"]))
    print(json.dumps({"lost": lost, "words": words}), flush=True)
    for line in sys.stdin:
        first, end = map(int, line.split())
        start = time.process_time()
        for path in paths[first:end]:
            with contextlib.suppress(Exception):  # counted above
                parse(path)
        print(time.process_time() - start, flush=True)


def _ours() -> Parse:
    from dataset_builders.pmc.jats import parse_jats

    def parse(path: str) -> Any:
        with open(path, "rb") as file:  # noqa: PTH123
            return parse_jats(file.read())

    return parse


def _lxml() -> Parse:
    from lxml import etree

    return lambda path: etree.parse(path, etree.XMLParser(huge_tree=True, no_network=True))


def _captions() -> Parse:
    import pubmed_parser

    return pubmed_parser.parse_pubmed_caption  # type: ignore[no-any-return]


def _fields() -> Parse:
    import pubmed_parser

    def parse(path: str) -> Any:
        captions = pubmed_parser.parse_pubmed_caption(path)
        paragraphs = pubmed_parser.parse_pubmed_paragraph(path, all_paragraph=True)
        return captions, paragraphs, pubmed_parser.parse_pubmed_xml(path)

    return parse


PARSERS: dict[str, Callable[[], Parse]] = {"ours": _ours, "lxml": _lxml, "captions": _captions, "fields": _fields}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
