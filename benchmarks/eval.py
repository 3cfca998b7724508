"""Zero-shot scoring beside CLIP_benchmark 1.6.2: two models on five tasks, cold and from the cache; a large retrieval.

usage: python -m benchmarks.eval --setup     create the peer's environment (some 5 GB under build/peers), then run
       python -m benchmarks.eval [--bench FOLDER] [--rounds 5] [--threads 1] [--pairs 5000]

Tasks. The five datasets and two checkpoints of `benchmarks.eval_data`, or those of a folder with the same layout.
Timed are whole processes, imports included, as a user waits for them:

  clip_benchmark   two calls of its command line: classification on three datasets and retrieval on two, both models
                   each. It takes no model config of one's own, so a line of `eval_driver` registers it. Its third call,
                   `build`, which makes a table of the results, is timed apart and enters no ratio
  cold             one `python -m zeroshot_eval score` with an empty cache, 95 % intervals from 1,000 resamples, and the
                   table of scores; CLIP_benchmark computes no intervals
  warm             the same command again
  warm_values      the same with `--bootstrap-samples 0`, which leaves the intervals out

All in single precision, batches of 32, as many threads, no loader processes (CLIP_benchmark's --num_workers 0: with
workers it fails on shards fewer than they), and no report. Every value of CLIP_benchmark must be ours too to 1e-4, or
lie between the best and worst order where scores tie.

Retrieval. Recall at 1, 5 and 10 both ways on pairs of 512 dimensions from the same file, each in a process of its own;
timed from the file to the recalls, without imports. Peak memory is that of the process.

Rounds alternate. Times are medians, wall and CPU; ratios are of wall times within each round, as median, lowest and
highest. Prints a table, ends with one line of JSON and saves it as benchmarks/results/eval.json; exit status 1 where
values differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import python_of, set_up
from clipmed.files import write_json

FOLDER = Path("build/benchmarks/eval")
RESULTS = Path("benchmarks/results/eval.json")
DRIVER = Path(__file__).with_name("eval_driver.py")
WEIGHTS = ("random", "trained")
CLASSIFICATION = ("modality6", "finding4", "multilabel10")
RETRIEVAL = ("retrieval90", "retrieval48_1to1")
BATCH = "32"
DIMENSIONS = 512
TOLERANCE = 1e-4
CLASS_METRICS = {
    "acc1": "accuracy",
    "acc5": "top5_accuracy",
    "mean_per_class_recall": "balanced_accuracy",
    "mean_average_precision": "average_precision",
}
DIRECTIONS = {"image_retrieval_": "text_to_image/", "text_retrieval_": "image_to_text/"}

Key = tuple[str, str, str]
Bounds = dict[Key, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What processes took."""

    wall_s: float
    cpu_s: float
    peak_mb: float

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of one process after the other."""
        peak_mb = max(self.peak_mb, other.peak_mb)
        return Cost(wall_s=self.wall_s + other.wall_s, cpu_s=self.cpu_s + other.cpu_s, peak_mb=peak_mb)


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="create the peer's environment first")
    parser.add_argument("--bench", type=Path, help="folder with the bench, in place of one that is made here")
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--pairs", type=int, default=5000, help="pairs of the large retrieval")
    options = parser.parse_args()
    peer = set_up("clip_benchmark") if options.setup else python_of("clip_benchmark")
    races = Races(python=str(peer.absolute()), rounds=options.rounds, threads=options.threads)
    load = os.getloadavg()[0]
    tasks, apart = races.tasks((options.bench or _made()).resolve())
    result: dict[str, Any] = {"name": "eval", "bench": "made here" if options.bench is None else "given"}
    result |= tasks | races.retrieval(options.pairs)
    result |= {"rounds": options.rounds, "threads": options.threads, "cores": os.cpu_count() or 1}
    result |= {"processor": platform.machine(), "load_before": load, "load_after": os.getloadavg()[0]}
    for name, value in result.items():
        print(f"{name:45} {value:.3f}" if isinstance(value, float) else f"{name:45} {value}")
    write_json(RESULTS, result)
    print(json.dumps(result))
    if apart:
        sys.exit("values differ:\n" + "\n".join(apart))


@dataclass(frozen=True, slots=True, kw_only=True)
class Races:
    """Runs peer and product in turn."""

    python: str
    rounds: int
    threads: int

    def tasks(self, bench: Path) -> tuple[dict[str, Any], list[str]]:
        """Return figures of the five tasks, and what the two disagree on."""
        out, theirs = FOLDER.absolute() / "scores", FOLDER.absolute() / "clip_benchmark"
        ours = our_command(bench, out)
        costs: dict[str, list[Cost]] = {}
        for number in range(self.rounds):
            for folder in (out, theirs):
                shutil.rmtree(folder, ignore_errors=True)
            theirs.mkdir(parents=True)
            classes, searches, table = (self.run([self.python, *call], bench) for call in peer_calls(bench, theirs))
            round_costs = {"clip_benchmark": classes + searches, "clip_benchmark_table": table}
            round_costs |= {"cold": self.run(ours, Path.cwd()), "warm": self.run(ours, Path.cwd())}
            scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
            round_costs["warm_values"] = self.run([*ours, "--bootstrap-samples", "0"], Path.cwd())
            for name, cost in round_costs.items():
                costs.setdefault(name, []).append(cost)
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {cost.wall_s:.2f} s" for name, cost in round_costs.items())
            )
        expected = peer_values(theirs)
        return {
            **costs_of(costs),
            **ratios("cold", costs["clip_benchmark"], costs["cold"]),
            **ratios("warm", costs["clip_benchmark"], costs["warm"]),
            **ratios("warm_values", costs["clip_benchmark"], costs["warm_values"]),
            "values_compared": len(expected),
            "values_apart": len(apart := differing(expected, our_values(scores))),
        }, apart

    def retrieval(self, pairs: int) -> dict[str, Any]:
        """Return figures of the large retrieval.

        Raises:
            SystemExit: the two disagree.
        """
        path = write_pairs(FOLDER.absolute() / f"pairs_{pairs}.npz", pairs)
        pythons = {"clip_benchmark": self.python, "clipmed": sys.executable}
        costs: dict[str, list[Cost]] = {name: [] for name in pythons}
        recalls: dict[str, dict[str, float]] = {}
        for number in range(self.rounds):
            for name, python in pythons.items():
                row = json.loads(self.output([python, "-P", str(DRIVER), name, str(path)]).splitlines()[-1])
                costs[name].append(Cost(**{cost.name: row.pop(cost.name) for cost in fields(Cost)}))
                recalls[name] = row
                print(f"round {number + 1}, retrieval, {name}: {costs[name][-1].wall_s:.2f} s")
        theirs, ours = recalls.values()
        if apart := [name for name in theirs if abs(theirs[name] - ours[name]) > TOLERANCE]:
            sys.exit(f"retrieval: {', '.join(apart)} differ: {recalls}")
        measured = costs_of({"retrieval_clip_benchmark": costs["clip_benchmark"], "retrieval": costs["clipmed"]})
        return {"retrieval_pairs": pairs, "retrieval_recalls_compared": len(theirs)} | {
            **measured,
            **ratios("retrieval", costs["clip_benchmark"], costs["clipmed"]),
        }

    def run(self, command: Sequence[str], folder: Path) -> Cost:
        """Run a command to its end; return what the whole process took.

        Raises:
            SystemExit: it failed.
        """
        with tempfile.TemporaryFile() as log:
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, env=self._environment(), stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                log.seek(0)
                sys.exit(f"{' '.join(command[:6])} … failed:\n{log.read().decode(errors='replace')[-3000:]}")
        return Cost(wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, peak_mb=used.ru_maxrss * 1024 / 1e6)

    def output(self, command: Sequence[str]) -> str:
        """Run a command; return what it prints.

        Raises:
            SystemExit: it failed.
        """
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command[:4])} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        threads = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
        return os.environ | offline | threads | {"PYTHONPATH": str(Path(__file__).parents[1])}


def peer_calls(bench: Path, out: Path) -> list[list[str]]:
    """Return CLIP_benchmark's calls after its Python: classification, retrieval, and the table of both."""
    cli = [
        "-P",
        str(DRIVER.absolute()),
        "cli",
        str(next(bench.glob("*.json"))),
    ]
    evaluate = [*cli, "eval", "--quiet", "--no_amp", "--batch_size", BATCH, "--num_workers", "0"]
    evaluate += [
        "--model",
        next(bench.glob("*.json")).stem,
        "--pretrained",
        *(f"{name}.safetensors" for name in WEIGHTS),
    ]
    evaluate += ["--dataset_root", "data/wds_{dataset}", "--output", str(out / "{dataset}_{pretrained}.json")]
    classes = ["--task", "zeroshot_classification", "--dataset", *(f"wds/{name}" for name in CLASSIFICATION)]
    searches = ["--task", "zeroshot_retrieval", "--dataset", *(f"wds/{name}" for name in RETRIEVAL)]
    files = [
        str(out / f"{name}_{weights}.safetensors.json") for name in (*CLASSIFICATION, *RETRIEVAL) for weights in WEIGHTS
    ]
    table = [*cli, "build", *files, "--output", str(out / "table.csv")]
    return [[*evaluate, *classes], [*evaluate, *searches, "--recall_k", "1", "5", "10"], table]


def our_command(bench: Path, out: Path) -> list[str]:
    """Return our command for all tasks, after making checkpoint folders of the bench's weights."""
    folders = []
    config = json.loads(next(bench.glob("*.json")).read_text(encoding="utf-8"))
    for name in WEIGHTS:
        folder = FOLDER.absolute() / name
        write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {}})
        shutil.copyfile(bench / f"{name}.safetensors", folder / "open_clip_model.safetensors")
        folders.append(str(folder))
    sets = [str(bench / "data" / f"wds_{name}") for name in (*CLASSIFICATION, *RETRIEVAL)]
    words = [sys.executable, "-m", "zeroshot_eval", "score", *folders, "--sets", *sets, "--out", str(out)]
    return [*words, "--batch-size", BATCH, "--no-report"]


def peer_values(folder: Path) -> dict[Key, float]:
    """Return what CLIP_benchmark's result files say, by (dataset, weights, our name of the metric)."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        dataset, weights = result["dataset"].removeprefix("wds/"), Path(result["pretrained"]).stem
        for metric, value in result["metrics"].items():
            if not np.isnan(value):  # acc5 of four classes
                found[dataset, weights, our_metric(metric)] = float(value)
    return found


def our_metric(metric: str) -> str:
    """Return our name of one of CLIP_benchmark's metrics."""
    for theirs, ours in DIRECTIONS.items():
        if metric.startswith(theirs):
            return ours + metric.removeprefix(theirs)
    return CLASS_METRICS[metric]


def our_values(scores: Mapping[str, Any]) -> Bounds:
    """Return our values by the same keys, each with the bounds that the order of equal scores leaves it.

    Where captions repeat, CLIP_benchmark's rule is that only an image's own captions are right: our `own_` metrics.
    """
    found: Bounds = {}
    repeating = {row["task"] for row in scores["rows"] if "/own_" in row["metric"]}
    for row in scores["rows"]:
        task, metric = row["task"], row["metric"]
        if row["level"] != "task" or (task in repeating and "/own_" not in metric):
            continue
        ties = scores["details"][row["checkpoint"]][task].get("ties", {})
        key = (task.removeprefix("captions_"), row["checkpoint"], metric.replace("/own_", "/"))
        found[key] = tuple(ties.get(metric, (row["value"], row["value"])))
    return found


def differing(theirs: Mapping[Key, float], ours: Bounds) -> list[str]:
    """Return a line for every value of theirs that ours lacks or does not allow."""
    lines = []
    for key, value in theirs.items():
        low, high = ours.get(key, (np.nan, np.nan))
        if not low - TOLERANCE <= value <= high + TOLERANCE:
            lines.append(f"{' '.join(key)}: CLIP_benchmark {value:.6f}, ours {low:.6f} to {high:.6f}")
    return lines


def costs_of(costs: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    """Return median seconds and the highest memory of everything that ran."""
    found = {}
    for name, many in costs.items():
        found[f"{name}_s"] = statistics.median(cost.wall_s for cost in many)
        found[f"{name}_cpu_s"] = statistics.median(cost.cpu_s for cost in many)
        found[f"{name}_peak_mb"] = max(cost.peak_mb for cost in many)
    return found


def ratios(name: str, theirs: Sequence[Cost], ours: Sequence[Cost]) -> dict[str, float]:
    """Return how many times as long theirs took, round by round: wall time, and the median of CPU time."""
    pairs = list(zip(theirs, ours, strict=True))
    cpu = statistics.median(one.cpu_s / other.cpu_s for one, other in pairs)
    wall = spread(f"ratio_{name}_vs_clip_benchmark", [one.wall_s / other.wall_s for one, other in pairs])
    return {**wall, f"ratio_{name}_cpu_vs_clip_benchmark": cpu}


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {name: statistics.median(values), f"{name}_lowest": min(values), f"{name}_highest": max(values)}


def write_pairs(path: Path, pairs: int) -> Path:
    """Write unit-length embeddings of images and their captions, which are the images' with noise."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((pairs, DIMENSIONS), dtype=np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = images + 0.08 * rng.standard_normal((pairs, DIMENSIONS), dtype=np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, texts=texts)
    return path


def _made() -> Path:
    """Make the bench in a process of its own, so that this one stays small."""
    folder = FOLDER / "bench"
    subprocess.run([sys.executable, "-m", "benchmarks.eval_data", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


if __name__ == "__main__":
    main()
