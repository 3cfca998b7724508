"""One contestant of `benchmarks.search` in a process of its own: searches, and prints one line of JSON.

usage: search_driver.py exact|clustered|faiss_ivf|faiss_hnsw ROWS ROUNDS
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.search_data import CHUNK, DIMENSION, FOLDER, RECALL, Drawn, Singles, index_folder, queries_of
from clipmed.search import SearchIndex

K, BATCH, SINGLES = 10, 64, 16
HNSW_LINKS = 32
Rows = npt.NDArray[np.int64]
Search = Callable[[Singles], Any]


def timed(contestants: dict[str, Search], queries: Singles, rounds: int) -> dict[str, float]:
    """Return the ms of one query, the mean of 16, and of 64 at once: of each the least of the alternating rounds."""
    asked = {f"1:{number}": queries[number][None] for number in range(SINGLES)} | {str(BATCH): queries[:BATCH]}
    least: dict[str, dict[str, float]] = {name: {} for name in contestants}
    for _ in range(rounds):
        for name, search in contestants.items():
            for label, some in asked.items():
                begin = time.perf_counter()
                search(some)
                spent = 1e3 * (time.perf_counter() - begin)
                least[name][label] = min(spent, least[name].get(label, spent))
    figures = {f"{name}_{BATCH}_ms": times[str(BATCH)] for name, times in least.items()}
    for name, times in least.items():
        figures[f"{name}_1_ms"] = statistics.mean(spent for label, spent in times.items() if label.startswith("1:"))
    return figures


def run_exact(rows: int, rounds: int) -> dict[str, Any]:
    """Compare with everything: ours, PyTorch's topk, Faiss's knn, and a sum over the matrix."""
    index = SearchIndex.open(index_folder(rows, "exact"), check_digests=False)
    matrix = index._arrays.embeddings  # the same pages of the file for all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to
        tensor = torch.from_numpy(matrix)
    images, texts = queries_of(Drawn())
    truth = {
        name: np.array([[hit.row for hit in hits] for hits in index.search(some, K)])
        for name, some in (("images", images), ("texts", texts))
    }
    peak = peak_mb()  # with nothing of the others
    np.savez(FOLDER / f"truth-{rows}.npz", images=truth["images"], texts=truth["texts"])
    contestants: dict[str, Search] = {
        "exact": lambda some: index.search(some, K),
        "torch": lambda some: torch.topk(torch.from_numpy(some) @ tensor.T, K),
        "faiss_knn": lambda some: faiss.knn(some, matrix, K, metric=faiss.METRIC_INNER_PRODUCT),
        "limit": lambda _: tensor.sum(),
    }
    figures = timed(contestants, texts, rounds)
    theirs = torch.topk(torch.from_numpy(texts) @ tensor.T, K).indices.numpy()
    return figures | {"exact_peak_mb": peak, "torch_same_hits": float((theirs == truth["texts"]).mean())}


def run_clustered(rows: int, rounds: int) -> dict[str, Any]:
    """Look into the nearest clusters."""
    folder = index_folder(rows, "clustered")
    begin = time.perf_counter()
    SearchIndex.open(folder)
    open_s = time.perf_counter() - begin
    index = SearchIndex.open(folder, check_digests=False)
    clusters = index.facts.clusters
    assert clusters is not None
    recalls = recall_of(lambda some: rows_of(index.search(some, K)), rows)
    figures: dict[str, Any] = timed({"clustered": lambda some: index.search(some, K)}, queries_of(Drawn())[1], rounds)
    figures |= {f"clustered_recall_{name}": value for name, value in recalls.items()}
    figures |= {"clusters": clusters.count, "probes": clusters.probes, "open_checked_s": open_s}
    return figures | {"cluster_s": json.loads(folder.with_suffix(".json").read_text())["cluster_s"]}


def run_faiss_ivf(rows: int, rounds: int) -> dict[str, Any]:
    """IVFFlat with our centroids and probes: the same clusters, searched by Faiss."""
    index = SearchIndex.open(index_folder(rows, "clustered"), check_digests=False)
    found, facts = index._arrays.clusters, index.facts.clusters
    assert found is not None
    assert facts is not None
    quantizer = faiss.IndexFlatIP(DIMENSION)
    quantizer.add(found.centroids)
    ivf = faiss.IndexIVFFlat(quantizer, DIMENSION, facts.count, faiss.METRIC_INNER_PRODUCT)
    ivf.is_trained, ivf.nprobe = True, facts.probes
    fill(ivf, rows, Drawn())
    recalls = recall_of(lambda some: ivf.search(some, K)[1], rows)
    figures: dict[str, Any] = timed({"faiss_ivf": lambda some: ivf.search(some, K)}, queries_of(Drawn())[1], rounds)
    return figures | {f"faiss_ivf_recall_{name}": value for name, value in recalls.items()}


def run_faiss_hnsw(rows: int, rounds: int) -> dict[str, Any]:
    """HNSW with 32 links, the breadth of construction as Faiss has it."""
    begin = time.perf_counter()
    hnsw = faiss.IndexHNSWFlat(DIMENSION, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    fill(hnsw, rows, Drawn())
    figures: dict[str, Any] = {"faiss_hnsw_build_s": time.perf_counter() - begin}

    def set_breadth(value: int) -> None:
        hnsw.hnsw.efSearch = max(value, K)

    return figures | tuned("faiss_hnsw", hnsw, set_breadth, (rows, rounds))


def fill(index: Any, rows: int, drawn: Drawn) -> None:
    """Add the embeddings of all rows."""
    for seed in range(-(-rows // CHUNK)):
        index.add(drawn.images(seed, CHUNK)[: rows - seed * CHUNK])


def tuned(name: str, index: Any, set_effort: Callable[[int], None], size: tuple[int, int]) -> dict[str, Any]:
    """Raise the effort until both recalls are reached, then time."""
    rows, rounds = size
    for effort in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024):
        set_effort(effort)
        recalls = recall_of(lambda some: index.search(some, K)[1], rows)
        if min(recalls.values()) >= RECALL:
            break
    figures: dict[str, Any] = timed({name: lambda some: index.search(some, K)}, queries_of(Drawn())[1], rounds)
    return figures | {f"{name}_effort": effort} | {f"{name}_recall_{kind}": value for kind, value in recalls.items()}


def recall_of(search: Callable[[Singles], Rows], rows: int) -> dict[str, float]:
    """Return the share of the ten nearest that a search finds, for images and for texts."""
    images, texts = queries_of(Drawn())
    truth = np.load(FOLDER / f"truth-{rows}.npz")
    return {
        name: float(np.mean([np.isin(one, other).mean() for one, other in zip(truth[name], search(some), strict=True)]))
        for name, some in (("images", images), ("texts", texts))
    }


def peak_mb() -> float:
    """Return the most memory that this process has held; pages of mapped files count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows_of(hits: list[list[Any]]) -> Rows:
    """Return the rows of hits, shape (Q, K)."""
    return np.array([[hit.row for hit in some] for some in hits])


if __name__ == "__main__":
    run = {
        "exact": run_exact,
        "clustered": run_clustered,
        "faiss_ivf": run_faiss_ivf,
        "faiss_hnsw": run_faiss_hnsw,
    }[sys.argv[1]]
    row = run(int(sys.argv[2]), int(sys.argv[3]))
    row.setdefault(f"{sys.argv[1]}_peak_mb", peak_mb())
    print(json.dumps(row))
