"""Command line of training: `python -m train RECIPE [--option value …]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clipmed.configuration import load_yaml, parse_cli
from clipmed.errors import ClipmedError, ConfigError
from train.config import TrainConfig
from train.recipes import RECIPES, recipe

USAGE = """\
Train a CLIP-style model on shard sets.

usage: python -m train RECIPE [--option value ...]     train, or go on with the run in --out
       python -m train RECIPE --help                   every option of the recipe, with its value
       python -m train list                            the recipes

RECIPE is a name from the list, or the path of a YAML file such as a run's config.yaml.

  python -m train demo --data.sets build/demo/set --out build/demo/run
  python -m train laptop --data.sets build/real/set --optim.lr 3e-4 --tracking.wandb
  torchrun --nproc-per-node 2 -m train demo           two processes, the result of one
  python -m train vit_b16 --data.sets SET --jobs.executor slurm --jobs.gpus-per-node 8

A run folder holds config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, model/: a checkpoint that
clipmed and open_clip load. A killed run goes on by the same command and ends with the same weights.
Exit status: 0 trained, 1 failed, 2 wrong usage.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    # Read when torch is loaded, which is later: threads that wait sleep, or one busy neighbour slows every step.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if words else 2
    if words[0] == "list":
        for name, function in RECIPES.items():
            print(f"{name:>14}  {(function.__doc__ or '').strip()}")
        return 0
    try:
        config = _config(words[0], words[1:])
    except ConfigError as error:
        return _failed(error, 2)
    try:
        return _run(config)
    except ConfigError as error:
        return _failed(error, 2)
    except ClipmedError as error:
        return _failed(error, 1)


def _config(name: str, options: Sequence[str]) -> TrainConfig:
    base = load_yaml(TrainConfig, Path(name)) if name.endswith((".yaml", ".yml")) else recipe(name)
    return parse_cli(
        TrainConfig, options, default=base, prog=f"python -m train {name}", description=TrainConfig.__doc__ or ""
    )


def _run(config: TrainConfig) -> int:
    from train.launch import launch

    model = launch(config)
    if int(os.environ.get("RANK", "0")) == 0:  # torchrun's other processes say nothing
        print(f"{model}: trained; score it with `python -m zeroshot_eval {model} SUITE --sets …`")
    return 0


def _failed(error: ClipmedError, status: int) -> int:
    print(f"train: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
