"""Runs one trainer in this process and measures its steady steps; started by `benchmarks.train` in either environment.

usage: driver.py open_clip SKIP arguments of open_clip_train.main
       driver.py clipmed SKIP config.yaml

Counts from the SKIP-th optimiser step to the last: wall time, CPU time of the trainer and of its loader processes, and
the peak memory of both over the whole run. Prints one line of JSON. Imports neither room nor peer unless it runs it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import psutil
from torch.optim.optimizer import register_optimizer_step_post_hook

POLL_DELAY_S = 0.1


def _children_cpu() -> float:
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


class _Peak(threading.Thread):
    """Samples the resident memory of the process, and with its children by proportional share."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.main = self.tree = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            try:
                family = [process, *process.children(recursive=True)]
                self.main = max(self.main, process.memory_info().rss)
                self.tree = max(self.tree, sum(each.memory_full_info().pss for each in family))
            except psutil.Error:
                pass
            time.sleep(POLL_DELAY_S)


def _train(trainer: str, arguments: list[str]) -> None:
    if trainer == "open_clip":
        from open_clip_train.main import main

        main(arguments)
    else:
        from pathlib import Path

        from clipmed.configuration import load_yaml
        from train.config import TrainConfig
        from train.loop import train

        train(load_yaml(TrainConfig, Path(arguments[0])))


def measure(trainer: str, skip: int, arguments: list[str]) -> dict[str, Any]:
    """Run the trainer; return seconds a step and peak bytes."""
    moments: list[tuple[float, float, float]] = []
    register_optimizer_step_post_hook(
        lambda *_: moments.append((time.perf_counter(), time.process_time(), _children_cpu()))
    )
    peak = _Peak()
    peak.start()
    _train(trainer, arguments)
    first, last, steps = moments[skip - 1], moments[-1], len(moments) - skip
    names = ("wall_s", "main_cpu_s", "loader_cpu_s")
    seconds = {name: (after - before) / steps for name, before, after in zip(names, first, last)}  # noqa: B905
    return {"steps": steps, **seconds, "main_bytes": peak.main, "tree_bytes": peak.tree}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
