"""Images a second of an exported image tower in onnxruntime, beside the same tower in PyTorch, on the CPU.

  python -m benchmarks.export [--rounds 5] [--batch-size 8] [--threads 1] [--config ViT-B-16]

A tower of random weights, pixels in memory, so that nothing is decoded. The two run in turns in one process, a batch
each, so that a slow minute of the machine is slow for both. Rates are medians of rounds; the ratio is taken within each
round, and is the median with the lowest and highest beside it. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clipmed.exporting.onnx_export import export_onnx
from clipmed.files import write_json
from clipmed.towers import TwoTower, assemble, model_config
from clipmed.zeroshot import embed_images


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs a batch")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--config", default="ViT-B-16", help="model config: one of clipmed's or OpenCLIP's")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/export.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    two_tower = assemble(model_config(options.config))
    two_tower.model.eval()
    with tempfile.TemporaryDirectory() as folder:
        report = export_onnx(two_tower, Path(folder) / "onnx", {})
        session = _session(Path(folder) / "onnx" / "image.onnx", options.threads)
        result = measure(two_tower, session, options.batch_size, options.rounds)
    result |= {name: report[name] for name in ("image_embeddings_differ_by", "onnxruntime", "torch", "opset")}
    result |= {"name": "export", "config": options.config, "threads": options.threads}
    for name, value in result.items():
        print(f"{name:40} {value:.3g}" if isinstance(value, float) else f"{name:40} {value}")
    write_json(options.out, result)
    print(json.dumps(result))


def measure(two_tower: TwoTower, session: Any, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return rates and the ratio of the two."""
    pixels = torch.randn(batch_size, 3, *two_tower.pixels.size, generator=torch.Generator().manual_seed(0))
    given = {"pixels": pixels.numpy()}
    runs: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: session.run(None, given),
        "torch": lambda: embed_images(two_tower, pixels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms both up
                seconds[name].append(time.perf_counter() - started)
    ratios = [theirs / ours for ours, theirs in zip(seconds["onnxruntime"], seconds["torch"], strict=True)]
    return {
        "onnxruntime_images_per_s": batch_size / statistics.median(seconds["onnxruntime"]),
        "torch_images_per_s": batch_size / statistics.median(seconds["torch"]),
        "ratio_vs_torch": statistics.median(ratios),
        "ratio_vs_torch_lowest": min(ratios),
        "ratio_vs_torch_highest": max(ratios),
        "rounds": rounds,
        "batch_size": batch_size,
    }


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
