"""Do captions help? The same images, steps and seeds under five kinds of captions, scored zero-shot on held-out images.

usage: python -m benchmarks.caption_variants --spools build/real/spools/* --llm-store captions.sqlite [--seeds 3]

The kinds, each a caption store or none:
  words     the label's words alone, such as "glioma"
  template  one sentence a class: "A {modality} showing {finding}."
  bank      the spools' own captions: several sentences an image out of a template bank
  llm       captions of a language model that the guard accepted (--llm-store); the bank serves classes that have none
  bank_llm  both together

Packs one set of each kind; images, splits and order are the same. Trains the demo's towers from random weights on each
and scores the suite, whose prompts may stand in none of the sets as a caption: that is checked first. Runs resume.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import yaml

from benchmarks.small_runs import METRICS, call, train_and_score
from clipmed.configuration import to_dict
from clipmed.files import write_json, write_text
from dataset_builders.captions.bank import load_bank
from shards.reader import ShardSet
from zeroshot_eval.suite_files import load_suite

FOLDER = Path("build/benchmarks/caption_variants")
KINDS = ("words", "template", "bank", "llm", "bank_llm")


def main() -> None:
    """Pack, train and score every kind and seed; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spools", type=Path, nargs="+", required=True, help="spools of labelled images")
    parser.add_argument(
        "--llm-store", type=Path, required=True, help="made by: python -m dataset_builders captions make"
    )
    parser.add_argument("--suite", default="real", help="suite of zeroshot_eval to score with")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=120, help="steps of each run, of 256 pairs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/caption_variants.json"))
    options = parser.parse_args()
    sets = {kind: pack(kind, options.spools, options.llm_store) for kind in KINDS}
    check_prompts(options.suite, sets)
    values: dict[str, dict[str, list[float]]] = {kind: {metric: [] for metric in METRICS} for kind in KINDS}
    for seed in range(options.seeds):
        for kind in KINDS:
            run = FOLDER / f"{kind}_{seed}_{options.steps}"
            settings = ["--loss.equals", "masked", "--optim.steps", str(options.steps)]
            scores = train_and_score(run, sets[kind], options.suite, seed, settings)
            for metric in METRICS:
                values[kind][metric].append(scores[metric])
            print(f"seed {seed}, {kind}: " + ", ".join(f"{name} {scores[name]:.3f}" for name in METRICS), flush=True)
    report(values, options.out)


def pack(kind: str, spools: list[Path], llm_store: Path) -> Path:
    """Return the set of a kind; packs it if it is not there."""
    shard_set = FOLDER / f"set_{kind}"
    if not (shard_set / "manifest.json").exists():
        words = [*map(str, spools), "--out", str(shard_set), "--val-fraction", "0.1", "--test-fraction", "0.25"]
        words += ["--license-groups", "commercial", "noncommercial", "other"]
        if kind != "bank":
            words += ["--captions", str(llm_store if "llm" in kind else make_store(kind, spools))]
            words += ["--caption-join", "add" if kind == "bank_llm" else "replace"]
        call("shards", "pack", *words)
    return shard_set


def make_store(kind: str, spools: list[Path]) -> Path:
    """Return the caption store of the label's words, or of one template."""
    store = FOLDER / f"{kind}.sqlite"
    words = ["make", *map(str, spools), "--store", str(store), "--captions", "1"]
    if kind == "words":
        words += ["--captioner", "words"]
    else:
        words += ["--captioner", "templates", "--bank", str(write_bank(FOLDER / "single.yaml"))]
    call("dataset_builders", "captions", *words)
    return store


def write_bank(path: Path) -> Path:
    """Write the bank of one template: one name a modality, the display names, one sentence."""
    general = to_dict(load_bank("general"))
    bank = {
        "name": path.stem,
        "version": 1,
        "modality_phrases": {name: phrases[:1] for name, phrases in general["modality_phrases"].items()},
        "templates": {"default": ["A {modality} showing {finding}"], "plain": ["A {modality}"]},
    }
    write_text(path, yaml.safe_dump(bank, sort_keys=False))
    return path


def check_prompts(suite: str, sets: dict[str, Path]) -> None:
    """Raise ValueError if a prompt of the suite is a caption of one of the sets."""
    prompts = {
        _plain(prompt)
        for task in load_suite(suite).tasks
        for prompts_of_class in task.all_prompts().values()
        for prompt in prompts_of_class
    }
    for kind, path in sets.items():
        captions = ShardSet(path).table["captions"].to_pylist()
        seen = {_plain(caption["text"]) for row in captions for caption in row}
        if both := sorted(prompts & seen):
            raise ValueError(f"the set of {kind} holds the prompt {both[0]!r} as a caption; word the suite otherwise")
        print(f"{kind}: {len(captions):,} samples, {len(seen):,} different captions, none of them a prompt", flush=True)


def _plain(text: str) -> str:
    return text.lower().strip(" .")


def report(values: dict[str, dict[str, list[float]]], out: Path) -> None:
    """Print means, deviations and gains over the label's words of the same seed."""
    for kind, metrics in values.items():
        cells = [
            f"{metric} {statistics.mean(found):.3f} ± {statistics.stdev(found) if len(found) > 1 else 0.0:.3f}"
            for metric, found in metrics.items()
        ]
        print(f"{kind:>10}: {', '.join(cells)} (mean ± standard deviation over seeds)")
    words = values["words"]["accuracy"]
    gains = {
        kind: [own - other for own, other in zip(values[kind]["accuracy"], words, strict=True)] for kind in KINDS[1:]
    }
    result = {"name": "caption_variants", "values": values, "accuracy_gain_vs_words": gains}
    write_json(out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
