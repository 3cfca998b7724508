"""Small models trained from random weights and scored zero-shot: what the benchmarks of losses and captions repeat."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BATCH = 256
METRICS = ("accuracy", "balanced_accuracy", "auroc")


def train_and_score(run: Path, shard_set: Path, suite: str, seed: int, settings: Sequence[str]) -> dict[str, float]:
    """Train the demo's towers (72 px) on a set and return the suite's means over modalities, by metric.

    Runs resume; a finished one is not repeated.

    Args:
        run: the run's folder; its scores lie beside it.
        shard_set: the set to train on and to score with.
        suite: a suite of zeroshot_eval.
        seed: of the weights and of the stream.
        settings: further options of `python -m train`.
    """
    scores = run.with_name(f"{run.name}_scores")
    if not (scores / "scores.json").exists():
        train = [
            *("demo", "--out", str(run), "--data.sets", str(shard_set), "--seed", str(seed)),
            *("--data.stream.seed", str(seed), "--data.batch-size", str(BATCH)),
            *("--optim.warmup-steps", "20", "--validate.samples", "0"),
            *("--tracking.no-tensorboard", "--model.context-length", "64", "--gradcache.text-tokens", "4096"),
        ]
        call("train", *train, *settings)
        score = ["score", str(run / "model"), "--suite", suite, "--sets", str(shard_set), "--out", str(scores)]
        call("zeroshot_eval", *score)
    rows = json.loads((scores / "scores.json").read_text(encoding="utf-8"))["rows"]
    return {
        metric: next(row["value"] for row in rows if row["level"] == "overall" and row["metric"] == metric)
        for metric in METRICS
    }


def call(module: str, *words: str) -> None:
    """Run a stage of clipmed; end with its errors where it fails."""
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{module} {' '.join(words)} failed:\n{done.stderr[-3000:]}")
