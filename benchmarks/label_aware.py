"""Label-aware losses against plain InfoNCE: equal model, data and steps, several seeds, zero-shot on held-out images.

usage: python -m benchmarks.label_aware --set build/real/set [--suite real] [--seeds 3] [--steps 120]

Captions made from labels repeat: at a batch of 256 nearly every image meets negatives that say the same of it. Trains
the demo's towers from random weights (72 px) with InfoNCE whose equal captions are negatives, masked or positives, and
scores each model with the suite. Runs resume; finished ones are not repeated. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.small_runs import METRICS, train_and_score

FOLDER = Path("build/benchmarks/label_aware")
ARMS = ("negatives", "masked", "positives")


def main() -> None:
    """Train and score every arm and seed; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True, help="a shard set with labelled images")
    parser.add_argument("--suite", default="real", help="suite of zeroshot_eval to score with")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each loss")
    parser.add_argument("--steps", type=int, default=120, help="steps of each run, of 256 pairs")
    options = parser.parse_args()
    values: dict[str, dict[str, list[float]]] = {arm: {metric: [] for metric in METRICS} for arm in ARMS}
    for seed in range(options.seeds):
        for arm in ARMS:
            settings = ["--loss.equals", arm, "--optim.steps", str(options.steps)]
            run = FOLDER / f"{arm}_{seed}_{options.steps}"
            scores = train_and_score(run, options.set, options.suite, seed, settings)
            for metric in METRICS:
                values[arm][metric].append(scores[metric])
            print(f"seed {seed}, {arm}: " + ", ".join(f"{name} {scores[name]:.3f}" for name in METRICS), flush=True)
    _report(values)


def _report(values: dict[str, dict[str, list[float]]]) -> None:
    for arm, metrics in values.items():
        cells = [
            f"{metric} {statistics.mean(found):.3f} ± {statistics.stdev(found) if len(found) > 1 else 0.0:.3f}"
            for metric, found in metrics.items()
        ]
        print(f"{arm:>10}: {', '.join(cells)} (mean ± standard deviation over seeds)")
    plain = values["negatives"]["accuracy"]
    gains = {arm: [own - other for own, other in zip(values[arm]["accuracy"], plain, strict=True)] for arm in ARMS[1:]}
    print(json.dumps({"name": "label_aware", "values": values, "accuracy_gain_vs_negatives": gains}))


if __name__ == "__main__":
    main()
