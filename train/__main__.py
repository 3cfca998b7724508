"""Command line of training: `python -m train RECIPE [--option value …]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clipmed.configuration import load_yaml, parse_cli
from clipmed.errors import ClipmedError, ConfigError
from clipmed.standard_output import reader_may_leave
from train.config import TrainConfig
from train.recipes import RECIPES, recipe
from train.signals import STOPPED_STATUS, StoppedBySignalError

USAGE = """\
Train a CLIP-style model on shard sets.

usage: python -m train RECIPE [--option value ...]        train, or go on with the run in --out
       python -m train RECIPE --help                      every option of the recipe, with its value
       python -m train plan RECIPE [--option value ...]   what the run would take: memory, tokens, traffic, hours
       python -m train page RUN                           write RUN/run.html anew: curves, mixture, samples
       python -m train list                               the recipes

RECIPE is a name from the list, or the path of a YAML file such as a run's config.yaml. RUN is a run folder.

  python -m train demo --data.sets build/demo/set --out build/demo/run
  python -m train laptop --data.sets build/real/set --optim.lr 3e-4 --tracking.wandb
  torchrun --nproc-per-node 2 -m train demo              two processes, the result of one
  python -m train vit_b16 --data.sets SET --jobs.executor slurm --jobs.nodes 4 --jobs.gpus-per-node 8

A run folder holds config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, model/: a checkpoint that
clipmed and open_clip load. A killed run goes on by the same command and ends with the same weights.

Signals: SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C let the step end, save and stop; a second Ctrl-C stops at once. A Slurm
job that is preempted or near its time limit saves, is requeued and goes on by itself; one that scancel ends saves and
stays ended. This command waits for its job; Ctrl-C leaves the job running.

Exit status: 0 trained, 1 failed, 2 wrong usage, 75 stopped by a signal after saving: the same command goes on.
Under torchrun it is torchrun's: 1 for all but success.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    # Read when torch is loaded, which is later: threads that wait sleep, or one busy neighbour slows every step.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if args is None else args)
    try:
        with reader_may_leave():
            return _run(words)
    except ConfigError as error:
        return _failed(error, 2)
    except StoppedBySignalError as error:
        return _failed(error, STOPPED_STATUS) if _is_first_process() else STOPPED_STATUS
    except ClipmedError as error:
        return _failed(error, 1)


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if words else 2
    command = COMMANDS.get(words[0])
    return _train(words) if command is None else command(words[1:])


def _train(words: Sequence[str]) -> int:
    from train.launch import launch

    model = launch(_config(words, "python -m train"))
    if _is_first_process():
        print(f"{model}: trained; score it with `python -m zeroshot_eval score {model} --suite NAME --sets …`")
    return 0


def _plan(words: Sequence[str]) -> int:
    """Print what a run would take."""
    config = _config(words, "python -m train plan")
    from rich.console import Console
    from rich.table import Table

    from train.estimate import estimate, lines

    table = Table(show_header=False, box=None)
    for name, value in lines(estimate(config)):
        table.add_row(name, value)
    Console().print(table)
    return 0


def _page(words: Sequence[str]) -> int:
    """Write the page of a run folder anew."""
    from train.page import write_page

    if len(words) != 1:
        raise ConfigError(f"page: got {len(words)} folders; give one run folder, such as build/demo/run")
    print(write_page(Path(words[0])))
    return 0


def _list(_words: Sequence[str]) -> int:
    """Print the recipes."""
    for name, function in RECIPES.items():
        print(f"{name:>20}  {(function.__doc__ or '').strip().splitlines()[0]}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"list": _list, "plan": _plan, "page": _page}


def _config(words: Sequence[str], command: str) -> TrainConfig:
    if not words:
        raise ConfigError(f"{command}: got no recipe; `python -m train list` shows them")
    name, options = words[0], words[1:]
    base = load_yaml(TrainConfig, Path(name)) if name.endswith((".yaml", ".yml")) else recipe(name)
    return parse_cli(
        TrainConfig, options, default=base, prog=f"{command} {name}", description=TrainConfig.__doc__ or ""
    )


def _is_first_process() -> bool:
    """Whether this process speaks; torchrun's others say nothing."""
    return int(os.environ.get("RANK", "0")) == 0


def _failed(error: ClipmedError, status: int) -> int:
    print(f"train: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
