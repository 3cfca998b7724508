"""What `benchmarks.eval` starts in processes of their own, in the peer's environment or in ours.

usage: eval_driver.py cli CONFIG.json ARGUMENTS…            CLIP_benchmark's command line, knowing that model config
       eval_driver.py clip_benchmark|clipmed PAIRS.npz      recall at 1, 5 and 10 both ways from embeddings on disk

The latter prints one line of JSON: six recalls, wall and CPU seconds from the file to the recalls without imports, and
the peak resident memory of the whole process. Imports neither ours nor the peer's code unless it runs it.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

KS = (1, 5, 10)
BATCH = 64  # CLIP_benchmark's default

Recalls = dict[str, float]


def run_cli(config: str, arguments: list[str]) -> int:
    """Run CLIP_benchmark's command line, which has no option for a model config of one's own."""
    open_clip: Any = importlib.import_module("open_clip")
    open_clip.add_model_config(config)
    cli: Any = importlib.import_module("clip_benchmark.cli")
    sys.argv[1:] = arguments
    return int(cli.main() or 0)


def clip_benchmark_recalls() -> Callable[[np.ndarray, np.ndarray], Recalls]:
    """Return what its `evaluate` does from the embeddings of images and of texts, (n, D) both, one caption an image."""
    import torch

    peer: Any = importlib.import_module("clip_benchmark.metrics.zeroshot_retrieval")

    def recalls(images: np.ndarray, texts: np.ndarray) -> Recalls:
        scores = torch.from_numpy(texts) @ torch.from_numpy(images).t()
        positive = torch.zeros_like(scores, dtype=torch.bool)
        positive[torch.arange(len(scores)), torch.arange(len(scores))] = True
        found = {}
        for k in KS:
            to_image = peer.batchify(peer.recall_at_k, scores, positive, BATCH, "cpu", k=k)
            to_text = peer.batchify(peer.recall_at_k, scores.T, positive.T, BATCH, "cpu", k=k)
            found[f"text_to_image@{k}"] = (to_image > 0).float().mean().item()
            found[f"image_to_text@{k}"] = (to_text > 0).float().mean().item()
        return found

    return recalls


def clipmed_recalls() -> Callable[[np.ndarray, np.ndarray], Recalls]:
    """Return the same of ours, which finds mean reciprocal and median ranks besides."""
    from zeroshot_eval.retrieval import Pairs, rank_pairs, retrieval_statistic

    def recalls(images: np.ndarray, texts: np.ndarray) -> Recalls:
        ranks = rank_pairs(Pairs(images, texts, np.arange(len(texts))))
        once = np.ones((1, len(texts)))
        metrics = {direction: retrieval_statistic(found)(once) for direction, found in ranks.items()}
        return {f"{direction}@{k}": float(found[f"recall@{k}"][0]) for direction, found in metrics.items() for k in KS}

    return recalls


def measure(name: str, path: str) -> dict[str, float]:
    """Return recalls, seconds and megabytes of one of the two."""
    recalls = {"clip_benchmark": clip_benchmark_recalls, "clipmed": clipmed_recalls}[name]()
    start, cpu_start = time.perf_counter(), time.process_time()
    with np.load(path, allow_pickle=False) as stored:
        found = recalls(stored["images"], stored["texts"])
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_kib * 1024 / 1e6}


if __name__ == "__main__":
    if sys.argv[1] == "cli":
        sys.exit(run_cli(sys.argv[2], sys.argv[3:]))
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
