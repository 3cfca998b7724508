"""Panels of compound figures: precision and recall of boxes, letters, figures left whole, and speed.

usage: python -m benchmarks.pmc_panels [--seed 7] [--figures 200] [--real FOLDER] [--save FILE]

Drawn figures of known layout, and with --real the published ones whose panels tests/dataset_builders/panels_real.json
names; FOLDER holds them under the file's names. A box counts at an overlap (IoU) of 0.5, and of 0.75 for the strict
figures; each true box once. `hinted` runs know the letters that the caption names. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pmc_panel_figures import DrawnFigure, FigureDrawer
from clipmed.images import ArrayHWC
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.panel_boxes import Panel, overlap
from dataset_builders.figures.panels import PanelDetector, open_detector

ANNOTATIONS = Path(__file__).resolve().parent.parent / "tests" / "dataset_builders" / "panels_real.json"
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral")
LOOSE, STRICT = 0.5, 0.75


@dataclass(slots=True)
class Tally:
    """What was found of what is there, over figures."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, found: Sequence[Panel], true: Sequence[Panel]) -> None:
        """Count one figure."""
        self.counts["found"] += len(found)
        self.counts["true"] += len(true)
        for level, name in ((LOOSE, "loose"), (STRICT, "strict")):
            matches = match(found, true, level)
            self.counts[name] += len(matches)
            if level == LOOSE:
                lettered = [(one, other) for one, other in matches if true[other].letter]
                self.counts["lettered"] += sum(bool(panel.letter) for panel in true)
                self.counts["read"] += sum(found[one].letter == true[other].letter for one, other in lettered)
                self.counts["misread"] += sum(
                    found[one].letter not in ("", true[other].letter) for one, other in lettered
                )
        self.counts["exact"] += len(found) == len(true) == len(match(found, true, LOOSE))
        self.counts["figures"] += 1

    def figures(self) -> dict[str, float]:
        """Return the shares, rounded."""
        counts = self.counts
        shares = {
            "precision": counts["loose"] / max(counts["found"], 1),
            "recall": counts["loose"] / max(counts["true"], 1),
            "precision_75": counts["strict"] / max(counts["found"], 1),
            "recall_75": counts["strict"] / max(counts["true"], 1),
            "letters": counts["read"] / max(counts["lettered"], 1),
            "letters_wrong": counts["misread"] / max(counts["lettered"], 1),
            "figures_exact": counts["exact"] / max(counts["figures"], 1),
        }
        return {name: round(share, 4) for name, share in shares.items()}


def match(found: Sequence[Panel], true: Sequence[Panel], level: float) -> list[tuple[int, int]]:
    """Return pairs (index found, index true) that overlap by `level` or more, the best first, each box once."""
    pairs = sorted(
        ((overlap(one.box, other.box), i, j) for i, one in enumerate(found) for j, other in enumerate(true)),
        reverse=True,
    )
    matches: dict[int, int] = {}
    for share, i, j in pairs:
        if share >= level and i not in matches and j not in matches.values():
            matches[i] = j
    return list(matches.items())


def measure(detector: PanelDetector, figures: Iterable[tuple[ArrayHWC, list[Panel]]], *, hinted: bool) -> Tally:
    """Run a detector on figures; `hinted` tells it the letters that are there."""
    tally = Tally()
    for image, true in figures:
        expected = [panel.letter for panel in true if panel.letter] if hinted else []
        started = time.perf_counter()
        found = detector.detect(image, expected)
        tally.seconds += time.perf_counter() - started
        tally.add(found, true)
    return tally


def load_real(folder: Path) -> list[tuple[str, ArrayHWC, list[Panel]]]:
    """Return the published figures whose panels are annotated and that are in a folder."""
    rows = json.loads(ANNOTATIONS.read_text(encoding="utf-8"))["figures"]
    figures = []
    for name, panels in rows.items():
        if (folder / name).exists():
            pixels = np.asarray(Image.open(folder / name).convert("RGB"))
            true = [Panel(box=tuple(panel["box"]), letter=panel["letter"]) for panel in panels]
            figures.append((name, pixels, true))
    return figures


def single_kept(detector: PanelDetector, figures: Iterable[ArrayHWC]) -> tuple[float, float]:
    """Return the share of single pictures that stay one panel, and milliseconds a figure."""
    kept = total = 0
    started = time.perf_counter()
    for image in figures:
        kept += len(detector.detect(image)) == 1
        total += 1
    return kept / max(total, 1), (time.perf_counter() - started) / max(total, 1) * 1e3


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--figures", type=int, default=200)
    parser.add_argument("--real", type=Path, help="folder of elife32671/, medicat_sample/ and medpix/")
    parser.add_argument("--save", type=Path, help="file that the JSON is written to as well")
    options = parser.parse_args()
    if options.real and not load_real(options.real):
        sys.exit(f"no annotated figure in {options.real}; give the folder of elife32671/, medicat_sample/ and medpix/")
    detector = open_detector(PanelConfig())
    assert detector is not None
    drawer = FigureDrawer(options.seed, fonts=_fonts())
    compounds = [drawer.compound(number) for number in range(options.figures)]
    result = {"name": "pmc_panels", "seed": options.seed, "figures": options.figures}
    result |= _drawn(detector, compounds)
    kept, single_ms = single_kept(detector, [drawer.single(number).image for number in range(options.figures)])
    result |= {"single_kept": round(kept, 4), "single_ms": round(single_ms, 2)}
    if options.real:
        result |= _real(detector, options.real)
    if options.save:
        options.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def _fonts() -> list[Path]:
    """Return faces that the reader of letters has not seen: matplotlib's, where it is installed."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: letters are drawn in Pillow's face, which the reader of letters knows")
        return []
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"{name}.ttf" for name in FACES]


def _drawn(detector: PanelDetector, compounds: Sequence[DrawnFigure]) -> dict[str, float]:
    detector.detect(compounds[0].image, ["A", "B"])  # draws the fonts, once a process
    for trait in sorted({trait for figure in compounds for trait in figure.traits}):
        chosen = [(figure.image, figure.panels) for figure in compounds if trait in figure.traits]
        _row(trait, measure(detector, chosen, hinted=False))
    everything = [(figure.image, figure.panels) for figure in compounds]
    plain, hinted = (measure(detector, everything, hinted=hinted) for hinted in (False, True))
    _row("all", plain)
    _row("all, hinted", hinted)
    speed = {"figures_per_s": round(len(compounds) / plain.seconds, 1)}
    return plain.figures() | {f"hinted_{name}": share for name, share in hinted.figures().items()} | speed


def _real(detector: PanelDetector, folder: Path) -> dict[str, float]:
    figures = load_real(folder)
    for name, pixels, true in figures:
        _row(name.split("/")[-1], measure(detector, [(pixels, true)], hinted=False))
    pairs = [(pixels, true) for _, pixels, true in figures]
    plain, hinted = (measure(detector, pairs, hinted=hinted) for hinted in (False, True))
    _row("real", plain)
    _row("real, hinted", hinted)
    compound = {name for name, _, _ in figures}
    paths = [
        path for path in sorted(folder.glob("medpix/images/*.jpg")) if str(path.relative_to(folder)) not in compound
    ]
    kept, _ = single_kept(detector, (np.asarray(Image.open(path).convert("RGB")) for path in paths))
    result = {f"real_{name}": share for name, share in plain.figures().items()}
    result |= {f"real_hinted_{name}": share for name, share in hinted.figures().items()}
    return result | {"real_figures": len(figures), "real_single_kept": round(kept, 4), "real_singles": len(paths)}


def _row(name: str, tally: Tally) -> None:
    cells = "  ".join(f"{key} {share:.3f}" for key, share in tally.figures().items())
    print(f"{name:>26}  n={tally.counts['figures']:<4d} {cells}")


if __name__ == "__main__":
    main()
