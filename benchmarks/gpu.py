"""Large batches on one GPU: our cached step beside OpenCLIP's --accum-freq, and how far the batch grows.

usage: python -m benchmarks.gpu [--batches 32768 65536 131072 262144] [--peer-batch 32768]
       python -m benchmarks.gpu --smoke       the same on a CPU with tiny towers, to see that it runs

ViT-B/16 and a BERT-base of random weights, context 256, captions of PubMed Central's lengths, bf16, AdamW. Steps are
timed on batches that lie in host memory, so that no loader is measured. Utilisation counts each real patch's and
token's forward and backward pass once. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.open_clip_step import open_clip_epoch
from benchmarks.pairs import SCALE, SHAPE
from clipmed.towers import TwoTower, assemble
from train.config import GradCacheConfig, LossConfig
from train.dataset import Batch
from train.flops import ModelFlops, count_flops, device_peak
from train.losses import Embeddings, contrastive_loss
from train.memory import GraphBudget
from train.parallel import Towers
from train.step import Encoders, StepSettings, StepTools, contrastive_backward

CONTEXT, END_TOKEN, VOCABULARY = 256, 102, 30_522
TIMED_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is."""

    batches: tuple[int, ...]
    peer_batch: int
    image_micro_batch: int
    text_tokens: int
    peer_micro_batch: int
    image_side: int
    width: int
    layers: int


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32_768, 65_536, 131_072, 262_144])
    parser.add_argument("--peer-batch", type=int, default=32_768)
    parser.add_argument("--smoke", action="store_true", help="tiny towers and batches, on any device")
    options = parser.parse_args()
    scale = Scale(
        batches=tuple(options.batches), peer_batch=options.peer_batch, image_micro_batch=512, text_tokens=65_536,
        peer_micro_batch=256, image_side=224, width=768, layers=12,
    )  # fmt: skip
    if options.smoke:
        scale = Scale(
            batches=(32, 64), peer_batch=32, image_micro_batch=8, text_tokens=2048, peer_micro_batch=8,
            image_side=32, width=32, layers=1,
        )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.smoke:
        parser.error("this machine has no CUDA device; --smoke runs anywhere")
    figures = _measure(scale, device)
    print(json.dumps(figures))


def _measure(scale: Scale, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        two_tower = _two_tower(scale, Path(folder))
    flops = count_flops(two_tower, {"image", "text"})
    two_tower.model.to(device).train()
    rows = [row for size in scale.batches if (row := _ours(two_tower, size, scale, flops, device)) is not None]
    peer = _peer(two_tower, scale, device)
    same = next((row for row in rows if row["batch"] == scale.peer_batch), None)
    return {
        "name": "gpu",
        "device": name,
        "rows": rows,
        "largest_batch": max((row["batch"] for row in rows), default=None),
        "loss_gb": {str(size): _loss_gb(size, device) for size in scale.batches},
        "open_clip": peer,
        "ratio_pairs_vs_open_clip": same["pairs_per_s"] / peer["pairs_per_s"] if same and peer else None,
    }


def _two_tower(scale: Scale, folder: Path) -> TwoTower:
    from transformers import BertConfig

    heads = scale.width // 64 or 1
    BertConfig(
        vocab_size=VOCABULARY, hidden_size=scale.width, num_hidden_layers=scale.layers, num_attention_heads=heads,
        intermediate_size=4 * scale.width,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    vision = {"image_size": scale.image_side, "patch_size": 16, "width": scale.width, "layers": scale.layers,
              "head_width": scale.width // heads}  # fmt: skip
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": CONTEXT}  # fmt: skip
    two_tower = assemble({"embed_dim": 512, "custom_text": True, "vision_cfg": vision, "text_cfg": text})
    two_tower.model.output_dict = True  # type: ignore[assignment]
    return two_tower


def _batch(size: int, side: int) -> Batch:
    """Random pixels, and tokens of PubMed Central's lengths."""
    generator = np.random.default_rng(size)
    lengths = np.clip(generator.gamma(SHAPE, SCALE, size).round(), 6, CONTEXT).astype(np.int64)
    tokens = generator.integers(1000, VOCABULARY, (size, CONTEXT))
    tokens[np.arange(CONTEXT) >= lengths[:, None]] = 0
    tokens[np.arange(size), lengths - 1] = END_TOKEN
    pixels = torch.from_numpy(generator.integers(0, 256, (size, side, side, 3), dtype=np.uint8))
    return Batch(
        step=0,
        pixels=pixels.pin_memory() if torch.cuda.is_available() else pixels,
        tokens=torch.from_numpy(tokens),
        meanings=torch.arange(size),
        sources=torch.zeros(size, dtype=torch.int64),
    )


def _ours(
    two_tower: TwoTower, size: int, scale: Scale, flops: ModelFlops, device: torch.device
) -> dict[str, Any] | None:
    """Time our step; None where the batch does not fit."""
    _reset(device)
    try:
        batch = _batch(size, scale.image_side)
        step = _our_step(two_tower, batch, scale, device)
        seconds = _seconds_of(step, device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        print(f"ours, batch {size:,}: does not fit ({str(error).splitlines()[0]})")
        return None
    lengths = Encoders(two_tower, nullcontext).text_tower.lengths(batch.tokens)
    peak = device_peak(device)
    mfu = None if peak is None else flops.step(size, lengths) / seconds / peak
    row = {"batch": size, "pairs_per_s": size / seconds, "us_a_pair": seconds / size * 1e6, "mfu": mfu,
           "peak_gb": _peak_gb(device)}  # fmt: skip
    print(f"ours, batch {size:,}: {row}")
    return row


def _our_step(two_tower: TwoTower, batch: Batch, scale: Scale, device: torch.device) -> Any:
    model: Any = two_tower.model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=device.type == "cuda")
    encoders = Encoders(two_tower, lambda: torch.autocast(device.type, torch.bfloat16))
    cache = GradCacheConfig(image_micro_batch=scale.image_micro_batch, text_tokens=scale.text_tokens)
    settings = StepSettings(loss=LossConfig(), gradcache=cache, seed=0)
    tools = StepTools(budget=GraphBudget(None, device, model.parameters()), towers=Towers(model, {}, 1))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        contrastive_backward(encoders, model, batch, settings, tools, torch.Tensor.backward)
        optimizer.step()

    return step


def _peer(two_tower: TwoTower, scale: Scale, device: torch.device) -> dict[str, Any] | None:
    """Time OpenCLIP's loop with --accum-freq on one batch; None where it does not fit."""
    _reset(device)
    model = two_tower.model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=device.type == "cuda")
    try:
        batch = _batch(scale.peer_batch, scale.image_side)
        parts = range(0, scale.peer_batch, scale.peer_micro_batch)
        micro_batches = [_floats(batch, slice(start, start + scale.peer_micro_batch)) for start in parts]
        seconds = _seconds_of(
            lambda: open_clip_epoch(model, optimizer, micro_batches, len(micro_batches), "amp_bf16"), device
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        print(f"OpenCLIP, batch {scale.peer_batch:,}: does not fit ({str(error).splitlines()[0]})")
        return None
    row = {"batch": scale.peer_batch, "pairs_per_s": scale.peer_batch / seconds, "peak_gb": _peak_gb(device)}
    print(f"OpenCLIP, batch {scale.peer_batch:,}: {row}")
    return row


def _floats(batch: Batch, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels as OpenCLIP's loader gives them, on the host."""
    return batch.pixels[rows].permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.25), batch.tokens[rows]


def _seconds_of(step: Any, device: torch.device) -> float:
    """Return the mean seconds of a step, after two: the first measures memory, the second uses it."""
    for _ in range(2):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    _wait(device)
    return (time.perf_counter() - started) / TIMED_STEPS


def _loss_gb(size: int, device: torch.device) -> float | None:
    """Return the peak memory that the loss adds to its embeddings, forward and backward, in GB."""
    if device.type != "cuda":
        return None
    _reset(device)
    image, text = (
        torch.nn.functional.normalize(torch.randn(size, 512, device=device), dim=-1).requires_grad_() for _ in range(2)
    )
    scale = torch.tensor(100.0, device=device, requires_grad=True)
    before = torch.cuda.memory_allocated(device)
    embeddings = Embeddings(image=image, text=text, all_images=image, all_texts=text)
    torch.autograd.backward(contrastive_loss(LossConfig(), embeddings, scale, None).value)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


if __name__ == "__main__":
    main()
