"""Queries of a search index: ours, PyTorch's product and topk, and Faiss, over the same embeddings on the same cores.

usage: python -m benchmarks.search [--rows 1000 100000 1000000] [--rounds 7] [--threads 1] [--hnsw] [--out FILE]

Embeddings are synthetic: unit vectors of 512 numbers around 4000 topics in a cone, and queries of two kinds, held-out
images and texts, the latter in a cone of their own (`benchmarks.search_data`). The same ten hits are asked for:

  exact       ours, compared with every image; in its rounds also PyTorch's product and topk, and Faiss's knn, over the
              same array. `limit` is the time of a sum over the array: who reads all of it needs about that
  clustered   ours, looking into the nearest clusters, as many as reach a recall of 0.95 for images and for texts
  faiss_ivf   Faiss's IVFFlat over the same clusters, looking into as many
  faiss_hnsw  Faiss's HNSW with 32 links, and the least breadth that reaches it; with --hnsw and up to 100 000 rows,
              since building it takes long

Times are in ms, of one query (the mean of 16) and of 64 at once, texts, in a process that holds the index already: of
each query the least of all rounds, since on a machine that is shared others make the rest. Each contestant but those of
exact runs in a process of its own. Prints a table and one line of JSON, and saves that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from clipmed.files import write_json

RESULTS = Path("benchmarks/results/search.json")
HNSW_ROWS = 100_000
CLUSTERED_ROWS = 10_000  # below, nobody clusters
TIMES = ("limit", "exact", "torch", "faiss_knn", "clustered", "faiss_ivf", "faiss_hnsw")


def main() -> None:
    """Measure every size, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000, 1_000_000], help="sizes of the index")
    parser.add_argument("--rounds", type=int, default=7, help="how often each searches")
    parser.add_argument("--threads", type=int, default=1, help="of each library; one is steady on a shared machine")
    parser.add_argument("--hnsw", action="store_true", help="build Faiss's HNSW too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures are saved")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "name": "search",
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load_before": os.getloadavg()[0],
    }
    for rows in options.rows:
        figures[str(rows)] = _measured(rows, options)
        _print(rows, figures[str(rows)])
    figures["load_after"] = os.getloadavg()[0]
    write_json(options.out, figures)
    print(json.dumps(figures))


def _measured(rows: int, options: argparse.Namespace) -> dict[str, float]:
    names = ["exact"]
    if rows >= CLUSTERED_ROWS:
        names += ["clustered", "faiss_ivf"] + (["faiss_hnsw"] if options.hnsw and rows <= HNSW_ROWS else [])
    figures: dict[str, float] = {}
    for name in names:
        figures |= _run(name, (rows, options.rounds), options.threads)
    for queries in ("1", "64"):
        ours, limit = figures[f"exact_{queries}_ms"], figures[f"limit_{queries}_ms"]
        figures[f"ratio_{queries}_vs_torch"] = figures[f"torch_{queries}_ms"] / ours
        figures[f"share_of_limit_{queries}"] = limit / ours
        if "clustered" in names:
            ours = figures[f"clustered_{queries}_ms"]
            figures[f"ratio_clustered_{queries}_vs_faiss_ivf"] = figures[f"faiss_ivf_{queries}_ms"] / ours
    return figures


def _run(name: str, size: tuple[int, int], threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.search_driver", name, *map(str, size)]
    counts = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=os.environ | counts, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    row: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def _print(rows: int, figures: dict[str, float]) -> None:
    print(f"\n{rows} embeddings of 512 numbers      1 query    64 queries    recall images, texts")
    for name in TIMES:
        if f"{name}_1_ms" not in figures:
            continue
        recalls = [figures.get(f"{name}_recall_{kind}", 1.0) for kind in ("images", "texts")]
        shown = "" if name == "limit" else f"{recalls[0]:16.3f} {recalls[1]:8.3f}"
        print(f"{name:>28} {figures[f'{name}_1_ms']:10.2f} ms {figures[f'{name}_64_ms']:10.1f} ms {shown}")


if __name__ == "__main__":
    main()
