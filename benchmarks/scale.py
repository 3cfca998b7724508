"""The plan of docs/scale.md: two models, 5 and 24 million pairs, 8 and 64 H100s, on paper.

usage: python -m benchmarks.scale [--mfu 0.25 0.45] [--batch 32768]

The towers are those of the recipes vit_b16 and unimed_l14_336, of random weights, and captions have PubMed Central's
lengths. Counts and activations are taken from passes on the CPU, and a sample's loading is timed on drawn 512-pixel
JPEGs, by the code behind `python -m train plan`. Speeds, hours and seconds of traffic are arithmetic. Prints a table
and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.pairs import SCALE, SHAPE, make_set
from clipmed.jobs import JobsConfig
from clipmed.towers import TwoTower, assemble, model_config
from train.config import TrainConfig
from train.estimate import Estimate, make_estimate
from train.facts import DataFacts, data_facts, model_facts
from train.flops import PEAKS
from train.recipes import recipe

FOLDER = Path("build/benchmarks/loader")
DRAWN, SIDE = 300, 512
RECIPES = ("vit_b16", "unimed_l14_336")
SETS = ((5_000_000, 32), (24_000_000, 16))  # pairs, and how often each is seen
GPUS_A_NODE, GPUS = 8, (8, 64)
CAPTIONS = 4096
VOCABULARY = 30_522
NVLINK, NETWORK = 450e9, 50e9  # bytes/s that an H100 sends inside a node, and over 400 Gb/s between nodes
GPU_HOURS_A_FAILURE = 16_384 * 54 * 24 / 419  # Llama 3 (arXiv 2407.21783, section 3.3.4)
Row = dict[str, float | str]


def main() -> None:
    """Work out the plan, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mfu", type=float, nargs="+", default=[0.25, 0.45], help="shares of the GPU's peak")
    parser.add_argument("--batch", type=int, default=32_768, help="pairs of a step")
    options = parser.parse_args()
    rows = [row for name in RECIPES for row in _rows(name, options.batch, options.mfu)]
    columns = list(rows[0])
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(value if isinstance(value := row[name], str) else f"{value:.4g}" for name in columns))
    print(json.dumps({"name": "scale", "batch": options.batch, "rows": rows}))


def _rows(name: str, batch: int, mfus: list[float]) -> list[Row]:
    config = recipe(name)
    with tempfile.TemporaryDirectory() as folder:
        two_tower = _two_tower(config, Path(folder))
        data = _data(config, two_tower)
        model = model_facts(config, two_tower)
    rows = []
    for samples, epochs in SETS:
        for gpus in GPUS:
            sized = replace(
                config,
                data=replace(config.data, batch_size=batch),
                optim=replace(config.optim, steps=math.ceil(samples * epochs / batch)),
                jobs=JobsConfig(executor="slurm", nodes=gpus // GPUS_A_NODE, gpus_per_node=GPUS_A_NODE),
            )
            made = make_estimate(sized, model, replace(data, samples=samples))
            rows.append(_row(name, made, mfus))
    return rows


def _row(name: str, made: Estimate, mfus: list[float]) -> Row:
    peak = PEAKS["H100"]
    fastest = made.pairs_per_s(peak, max(mfus))
    seconds_sent = made.sent_bytes / (NVLINK if made.nodes == 1 else NETWORK)
    row: Row = {
        "recipe": name,
        "M pairs": made.samples / 1e6,
        "GPUs": made.processes,
        "batch/GPU": made.local_batch,
        "steps": made.steps,
        "GFLOP/pair": made.step_flops / made.batch_size / 1e9,
        "again": made.done_flops / made.step_flops - 1,
    }
    for mfu in mfus:
        row |= {
            f"h @{mfu:.0%}": made.hours(peak, mfu),
            f"pairs/s @{mfu:.0%}": made.pairs_per_s(peak, mfu),
            f"cores/GPU @{mfu:.0%}": made.loader_cores(made.pairs_per_s(peak, mfu)) / made.processes,
            f"GB/s read @{mfu:.0%}": made.pairs_per_s(peak, mfu) * made.stored_bytes / 1e9,
        }
    hours = made.hours(peak, min(mfus))
    return row | {
        "device GB": made.device_bytes / 1e9,
        "state GB": made.state_bytes / 1e9,
        "image graph GB": made.graph_bytes["image"] / 1e9,
        "text graph GB": made.graph_bytes["text"] / 1e9,
        "loss GB": made.loss_bytes / 1e9,
        "host GB/node": made.host_bytes * min(made.processes, GPUS_A_NODE) / 1e9,
        "checkpoint GB": made.checkpoint_bytes / 1e9,
        "disk GB": made.disk_bytes / 1e9,
        "embeddings GB": made.embeddings_sent / 1e9,
        "gradients GB": made.gradients_sent / 1e9,
        "sending ms": 1000 * seconds_sent,
        "sending share": seconds_sent / (seconds_sent + made.batch_size / fastest),
        "ms/sample": made.sample_ms,
        "KB/sample": made.stored_bytes / 1e3,
        "failures": hours * made.processes / GPU_HOURS_A_FAILURE,
    }


def _two_tower(config: TrainConfig, folder: Path) -> TwoTower:
    """Build the recipe's towers without a download: its BERT-base from a config, and OpenAI's tokenizer."""
    from open_clip import SimpleTokenizer
    from transformers import BertConfig

    BertConfig(vocab_size=VOCABULARY).save_pretrained(folder)
    cfg = model_config(config.model.config) | {"custom_text": True}
    cfg["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": None}
    # The tower's own tokenizer is built and not used: it must be there, with any words.
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    two_tower = assemble(cfg)
    return replace(two_tower, tokenizer=SimpleTokenizer(context_length=two_tower.context_length))


def _data(config: TrainConfig, two_tower: TwoTower) -> DataFacts:
    """Time the loading of drawn images; give captions their lengths."""
    drawn = str(make_set(FOLDER, DRAWN, SIDE))
    timed = data_facts(replace(config, data=replace(config.data, sets=(drawn,))), two_tower)
    drawn_lengths = np.random.default_rng(0).gamma(SHAPE, SCALE, CAPTIONS).round()
    lengths = torch.from_numpy(np.clip(drawn_lengths, 6, two_tower.context_length).astype(np.int64))
    return replace(timed, lengths=lengths)


if __name__ == "__main__":
    main()
