"""Trainers side by side on the CPU: ours with its gradient cache, OpenCLIP's with --accum-freq.

usage: python -m benchmarks.train --setup     create the peer's environment (some 5 GB under build/peers), then run
       python -m benchmarks.train [--rounds 3] [--steps 16]

The same drawn images, captions of PubMed Central's lengths, model (64 wide, 2 + 2 layers, context 256), batch of 256 in
micro-batches of 64, fp32, one thread and one loader process each. Rounds alternate; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.pairs import make_set
from benchmarks.peers import python_of, set_up
from clipmed.configuration import save_yaml
from clipmed.files import write_json
from clipmed.towers import ModelConfig
from shards.reader import ShardSet
from train.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    GradCacheConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
    ValidateConfig,
)

FOLDER = Path("build/benchmarks/train")
SAMPLES, SIDE = 1500, 256
BATCH, MICRO_BATCH, CONTEXT = 256, 64, 256
SKIP = 4
LR, WARMUP = 1e-3, 4
MODEL = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="create the peer's environment first")
    parser.add_argument("--rounds", type=int, default=3, help="how often each trainer runs")
    parser.add_argument("--steps", type=int, default=16, help="optimiser steps of a run")
    options = parser.parse_args()
    peer = set_up("open_clip") if options.setup else python_of("open_clip")
    data = make_set(FOLDER / "data", SAMPLES, SIDE)
    arms = {
        "clipmed": [sys.executable, *_driver("clipmed"), str(_our_config(data, options.steps))],
        "open_clip": [str(peer.absolute()), *_driver("open_clip"), *_peer_arguments(data, options.steps)],
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(options.rounds):
        for name, command in arms.items():
            rows[name].append(_run(command))
            print(f"round {number + 1}, {name}: {_show(rows[name][-1])}")
    _report(rows)


def _driver(trainer: str) -> list[str]:
    return ["-P", str(Path(__file__).with_name("driver.py")), trainer, str(SKIP)]


def _our_config(data: Path, steps: int) -> Path:
    (FOLDER / "model").mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / "model.json", MODEL)
    never = 10**6
    config = TrainConfig(
        out=FOLDER / "run",
        device="cpu",
        model=ModelConfig(config=str(FOLDER / "model.json")),
        data=DataConfig(sets=(str(data),), batch_size=BATCH, workers=1),
        # OpenCLIP's own augmentation: a crop of nine tenths, and no colours changed.
        augment=AugmentConfig(min_scale=0.9, max_ratio=4 / 3, brightness=0, contrast=0, saturation=0, hue=0),
        optim=OptimConfig(lr=LR, weight_decay=0.1, warmup_steps=WARMUP, steps=steps, clip_grad_norm=None),
        gradcache=GradCacheConfig(image_micro_batch=MICRO_BATCH, text_tokens=MICRO_BATCH * CONTEXT // 4, kept_graphs=1),
        checkpoint=CheckpointConfig(every_steps=never),
        validate=ValidateConfig(samples=0),
        tracking=TrackingConfig(tensorboard=False, page=False),
    )
    save_yaml(config, FOLDER / "config.yaml")
    return FOLDER / "config.yaml"


def _peer_arguments(data: Path, steps: int) -> list[str]:
    model = FOLDER / "open_clip_model"
    write_json(model / "open_clip_config.json", {"model_cfg": MODEL, "preprocess_cfg": {}})
    shards = [str((data / name).absolute()) for name in sorted({*ShardSet(data).column("shard")})]
    return [
        *("--model", f"local-dir:{model.absolute()}", "--train-data", "::".join(shards)),
        *("--dataset-type", "webdataset", "--dataset-resampled", "--train-num-samples", str(steps * BATCH)),
        *("--batch-size", str(MICRO_BATCH), "--accum-freq", str(BATCH // MICRO_BATCH), "--epochs", "1"),
        *("--warmup", str(WARMUP), "--lr", str(LR), "--wd", "0.1", "--precision", "fp32", "--workers", "1"),
        *("--device", "cpu", "--log-every-n-steps", "1000", "--logs", str((FOLDER / "logs").absolute())),
        *("--save-frequency", "0", "--seed", "0"),
    ]


def _run(command: list[str]) -> dict[str, Any]:
    for left in (FOLDER / "run", FOLDER / "logs"):
        shutil.rmtree(left, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} {command[3]} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def _show(row: dict[str, Any]) -> str:
    trainer, loader = (row[name] / BATCH * 1000 for name in ("main_cpu_s", "loader_cpu_s"))
    return (
        f"{BATCH / row['wall_s']:.0f} pairs/s, CPU {trainer + loader:.2f} ms a pair ({trainer:.2f} trainer), "
        f"peak {row['main_bytes'] / 1e6:.0f} MB, {row['tree_bytes'] / 1e6:.0f} MB with its loader"
    )


def _report(rows: dict[str, list[dict[str, Any]]]) -> None:
    medians = {
        name: {key: statistics.median(row[key] for row in several) for key in several[0]}
        for name, several in rows.items()
    }
    for name, median in medians.items():
        print(f"median, {name}: {_show(median)}")
    ours, peer = medians["clipmed"], medians["open_clip"]

    def cpu(row: dict[str, float]) -> float:
        return row["main_cpu_s"] + row["loader_cpu_s"]

    figures = {
        "name": "train",
        "pairs_per_s": BATCH / ours["wall_s"],
        "open_clip_pairs_per_s": BATCH / peer["wall_s"],
        "ratio_pairs_vs_open_clip": peer["wall_s"] / ours["wall_s"],
        "ratio_cpu_vs_open_clip": cpu(peer) / cpu(ours),
        "ratio_peak_memory_vs_open_clip": ours["main_bytes"] / peer["main_bytes"],
        "ratio_peak_memory_with_loader_vs_open_clip": ours["tree_bytes"] / peer["tree_bytes"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
