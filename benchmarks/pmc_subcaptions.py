"""Captions into parts, and parts to panels: precision and recall on published and on generated captions.

usage: python -m benchmarks.pmc_subcaptions [--seed 7] [--figures 200] [--real FOLDER] [--save FILE]

FOLDER holds pairs/ and jats/: the captions that tests/dataset_builders/subcaptions_real.json marks, the figures that
panels_real.json marks, and all other captions for coverage. A part counts when its letter is right and its words and
the true ones overlap (IoU) by 0.8. A panel is aligned at a confidence of 0.6 or more; it is right when it overlaps a
true panel by half and has its words. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pmc_panel_figures import DrawnFigure, FigureDrawer
from benchmarks.pmc_panels import _fonts, load_real, match
from clipmed.images import ArrayHWC
from dataset_builders.figures.alignment import align
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.panel_boxes import Panel
from dataset_builders.figures.panels import PanelDetector, open_detector
from dataset_builders.figures.subcaptions import CaptionSplitter, Subcaption, open_splitter
from dataset_builders.pmc.jats import parse_jats

ANNOTATIONS = Path(__file__).resolve().parent.parent / "tests" / "dataset_builders" / "subcaptions_real.json"
OVERLAP = 0.8
MIN_CONFIDENCE = 0.6
PLACES = ("left", "middle", "right", "top", "bottom")
SUBJECTS = ("axial CT", "coronal MRI", "lateral radiograph", "colour Doppler", "fundus photograph", "H&E section")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedCaption:
    """A caption and its true parts: (name, start, end), names of several panels one after the other."""

    name: str
    group: str
    caption: str
    parts: list[tuple[str, int, int]]


def load_captions(folder: Path) -> dict[str, str]:
    """Return the captions below a folder, by roco/<id>, jats/<file>#<figure> or the path of the image."""
    pairs = folder / "pairs"
    found = {
        f"roco/{row['id']}": str(row["caption"]) for row in _rows(pairs / "roco_captions_textonly" / "pairs.jsonl")
    }
    for name in ("elife32671", "medicat_sample"):
        found |= {f"{name}/{row['image']}": str(row["caption"]) for row in _rows(pairs / name / "pairs.jsonl")}
    corpus = folder / "jats" / "corpus"
    for row in _rows(corpus / "index.jsonl"):
        figures = parse_jats((corpus / row["file"]).read_bytes()).figures
        found |= {f"jats/{row['file']}#{figure.id}": figure.caption for figure in figures}
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load_marked(captions: dict[str, str]) -> list[MarkedCaption]:
    """Return the captions that were marked by hand, with the spans of their parts."""
    marked = []
    for row in json.loads(ANNOTATIONS.read_text(encoding="utf-8"))["captions"]:
        caption, at, parts = captions[row["caption"]], 0, []
        for name, words in row["parts"].items():
            start, end = _find(words, caption, at)
            parts.append((name, start, end))
            at = start
        marked.append(MarkedCaption(name=row["caption"], group=row["set"], caption=caption, parts=parts))
    return marked


def _find(words: str, caption: str, at: int) -> tuple[int, int]:
    """Return the span of "first words … last words" in a caption."""
    first, _, last = words.partition(" … ")
    begin = _pattern(first).search(caption, at)
    assert begin is not None, f"not in the caption: {first!r}"
    end = _pattern(last).search(caption, begin.end()) if last else begin
    assert end is not None, f"not in the caption: {last!r}"
    return begin.start(), end.end()


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(map(re.escape, words.split())))


def _words(caption: str, start: int, end: int) -> set[int]:
    """Return where the words of a span begin; single letters, which markers are, left out."""
    return {found.start() for found in re.finditer(r"\w{2,}|\d", caption) if start <= found.start() < end}


def score(splitter: CaptionSplitter, marked: Iterable[MarkedCaption]) -> Counter[str]:
    """Count parts found, true and right, letter by letter, and captions without parts that stay whole."""
    counts: Counter[str] = Counter()
    for item in marked:
        found = splitter.split(item.caption)
        guessed = {name: _words(item.caption, part.start, part.end) for part in found for name in _names(part)}
        true = {name: _words(item.caption, start, end) for names, start, end in item.parts for name in _each(names)}
        right = sum(_iou(guessed[name], true[name]) >= OVERLAP for name in guessed.keys() & true.keys())
        counts.update(found=len(guessed), true=len(true), right=right, named=len(guessed.keys() & true.keys()))
        counts.update(whole=not item.parts, kept=not item.parts and not found)
    return counts


def _names(part: Subcaption) -> tuple[str, ...]:
    return part.letters or (part.place,)


def _each(names: str) -> Sequence[str]:
    """Return the panels of "ABC", "A1+A2" or "left"."""
    return [names] if names in PLACES else names.split("+") if "+" in names or names[-1].isdigit() else list(names)


def _iou(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(len(one | other), 1)


def caption_for(figure: DrawnFigure, number: int, seed: int) -> tuple[str, list[str]]:
    """Write a caption for a drawn figure; return it with what it says of each panel."""
    rng = np.random.default_rng([seed, 3, number])
    count = len(figure.panels)
    phrases = [f"{rng.choice(SUBJECTS)} of patient {10 + n}" for n in range(count)]
    lettered = bool(figure.panels[0].letter)
    if count == 2 and rng.random() < 0.3:
        (left, top, *_), (right, bottom, *_) = (panel.box for panel in figure.panels)
        first, second = ("left", "right") if right - left > bottom - top else ("top", "bottom")
        form = "{} ({}) and {} ({})." if rng.random() < 0.5 else "{1}: {0}. {3}: {2}."
        return "Findings. " + form.format(phrases[0], first, phrases[1], second), phrases
    if not lettered and rng.random() < 0.2:  # authors who count down the columns
        order = np.lexsort(([panel.box[1] for panel in figure.panels], [panel.box[0] for panel in figure.panels]))
        phrases = [phrases[position] for position in np.argsort(order)]
        said = [phrases[position] for position in order]
    else:
        said = phrases
    letters = list((string.ascii_uppercase if rng.random() < 0.6 else string.ascii_lowercase)[:count])
    if rng.random() < 0.1 and count > 2:  # a panel that the caption leaves out
        gone = int(rng.integers(1, count - 1))
        phrases = ["" if words == said[gone] else words for words in phrases]
        said, letters = said[:gone] + said[gone + 1 :], letters[:gone] + letters[gone + 1 :]
    style = int(rng.integers(5))
    if style == 4:
        middle = ", ".join(f"{words} ({letter})" for letter, words in zip(letters[:-1], said[:-1], strict=True))
        return f"Findings at admission. Shown are {middle} and {said[-1]} ({letters[-1]}).", phrases
    form = ("({}) {}. ", "{}) {}. ", "{}. {}. ", "{}: {}; ")[style]
    body = "".join(
        form.format(letter, words[0].upper() + words[1:]) for letter, words in zip(letters, said, strict=True)
    )
    return f"Findings at admission. {body}Scale bar, 10 mm.", phrases


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A figure with its true panels, its caption, and the words that each text must hold; none is right for ""."""

    image: ArrayHWC
    panels: list[Panel]
    caption: str
    words: list[str]


def drawn_cases(seed: int, count: int) -> Iterator[Case]:
    """Yield drawn figures with generated captions."""
    drawer = FigureDrawer(seed, fonts=_fonts())
    for number in range(count):
        figure = drawer.compound(number)
        caption, phrases = caption_for(figure, number, seed)
        yield Case(image=figure.image, panels=figure.panels, caption=caption, words=phrases)


def real_cases(folder: Path, captions: dict[str, str], splitter: CaptionSplitter) -> Iterator[Case]:
    """Yield published figures whose panels and captions are there; a panel's words are those of its letter's part."""
    for name, image, panels in load_real(folder / "pairs"):
        caption = captions.get(name)
        if caption is not None:
            texts = {letter: part.text for part in splitter.split(caption) for letter in part.letters}
            words = [texts.get(panel.letter.upper(), "") for panel in panels]
            yield Case(image=image, panels=panels, caption=caption, words=words)


def score_alignment(
    detector: PanelDetector, splitter: CaptionSplitter, cases: Iterable[Case]
) -> list[tuple[float, bool]]:
    """Return (confidence, right) of every panel found; the last row is (-1, …) for each true panel that has words."""
    rows: list[tuple[float, bool]] = []
    for case in cases:
        parts = splitter.split(case.caption)
        letters = [letter for part in parts for letter in part.letters]
        height, width = case.image.shape[:2]
        found = detector.detect(case.image, letters) if len(parts) > 1 else []
        aligned = align(found, parts, (width, height)) if len(found) > 1 else []
        true = dict(match([item.panel for item in aligned], case.panels, 0.5))
        for index, item in enumerate(aligned):
            words = case.words[true[index]].lower() if index in true else ""
            rows.append((item.confidence, bool(words) and words in item.text.lower()))
        rows += [(-1.0, False)] * sum(bool(words) for words in case.words)
    return rows


def _alignment_figures(rows: Sequence[tuple[float, bool]], prefix: str) -> dict[str, float]:
    taken = [right for confidence, right in rows if confidence >= MIN_CONFIDENCE]
    true = sum(confidence < 0 for confidence, _ in rows)
    return {
        f"{prefix}aligned_precision": round(sum(taken) / max(len(taken), 1), 4),
        f"{prefix}aligned_recall": round(sum(taken) / max(true, 1), 4),
        f"{prefix}aligned_panels": true,
    }


def _table(rows: Sequence[tuple[float, bool]]) -> None:
    for low in (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        high = {0.0: 0.3, 0.3: 0.5}.get(low, low + 0.1)
        inside = [right for confidence, right in rows if low < confidence <= high]
        if inside:
            print(f"  confidence {low:.1f}-{high:.1f}: {len(inside):5d} panels, {sum(inside) / len(inside):.3f} right")


def _captions_figures(counts: Counter[str], prefix: str) -> dict[str, float]:
    figures = {
        f"{prefix}precision": counts["right"] / max(counts["found"], 1),
        f"{prefix}recall": counts["right"] / max(counts["true"], 1),
        f"{prefix}letters_precision": counts["named"] / max(counts["found"], 1),
        f"{prefix}letters_recall": counts["named"] / max(counts["true"], 1),
        f"{prefix}kept_whole": counts["kept"] / max(counts["whole"], 1),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _real(folder: Path, detector: PanelDetector, splitter: CaptionSplitter) -> dict[str, float]:
    captions = load_captions(folder)
    marked = load_marked(captions)
    result: dict[str, float] = {}
    for group in ("tuned", "held out"):
        chosen = [item for item in marked if item.group == group]
        result |= _captions_figures(score(splitter, chosen), f"{group.replace(' ', '_')}_")
        result[f"{group.replace(' ', '_')}_captions"] = len(chosen)
    for name in ("roco", "jats"):
        texts = [caption for key, caption in captions.items() if key.startswith(f"{name}/")]
        started = time.perf_counter()
        split = [parts for parts in map(splitter.split, texts) if parts]
        seconds = time.perf_counter() - started
        result |= {f"{name}_captions": len(texts), f"{name}_split": len(split)}
        result[f"{name}_mean_parts"] = round(sum(map(len, split)) / max(len(split), 1), 3)
        result[f"{name}_captions_per_s"] = round(len(texts) / seconds)
    rows = score_alignment(detector, splitter, real_cases(folder, captions, splitter))
    return result | _alignment_figures(rows, "real_")


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--figures", type=int, default=200)
    parser.add_argument("--real", type=Path, help="folder of pairs/ and jats/")
    parser.add_argument("--save", type=Path, help="file that the JSON is written to as well")
    options = parser.parse_args()
    detector, splitter = open_detector(PanelConfig()), open_splitter(PanelConfig())
    assert detector is not None
    rows = score_alignment(detector, splitter, drawn_cases(options.seed, options.figures))
    _table(rows)
    result = {"name": "pmc_subcaptions", "seed": options.seed, "figures": options.figures}
    result |= _alignment_figures(rows, "")
    if options.real:
        result |= _real(options.real, detector, splitter)
    for name, value in result.items():
        print(f"{name:>28}  {value}")
    if options.save:
        options.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
