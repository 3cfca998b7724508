"""Profiler traces by a setting: where the time of a few steps goes, operator by operator."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from clipmed.files import atomic_file, write_text

FOLDER = "profile"
TRACE_FILE = "trace.json.gz"
OPERATORS_FILE = "operators.txt"
STEPS_BEFORE = 3  # the first steps allocate, compile and fill caches; the last of them warms the profiler up
TOP_OPERATORS = 40


class StepProfiler(Protocol):
    """Is told where steps end."""

    def step(self) -> None:
        """Take note that a step has ended."""


class _Off:
    def step(self) -> None:
        """Do nothing."""


@contextmanager
def profiler(num_steps: int, out: Path, rank: int) -> Iterator[StepProfiler]:
    """Trace `num_steps` steps of rank 0, after the third of this process; `step()` is called at the end of each step.

    Writes profile/trace.json.gz (for chrome://tracing or ui.perfetto.dev) and profile/operators.txt, the operators that
    take the most time. A run that ends earlier leaves the trace of the steps that it did. 0 steps trace nothing.
    """
    if num_steps == 0 or rank != 0:
        yield _Off()
        return
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(
        activities=activities,
        schedule=schedule(wait=STEPS_BEFORE - 1, warmup=1, active=num_steps, repeat=1),
        on_trace_ready=lambda traced: _write(traced, out / FOLDER),
        profile_memory=True,
        acc_events=True,
    ) as tracer:
        yield tracer


def _write(traced: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / ".trace.json"
    traced.export_chrome_trace(str(plain))
    with atomic_file(folder / TRACE_FILE) as partial, plain.open("rb") as source, gzip.open(partial, "wb") as target:
        shutil.copyfileobj(source, target)
    plain.unlink()
    averages = traced.key_averages()
    device = any(event.self_device_time_total for event in averages)
    order = "self_device_time_total" if device else "self_cpu_time_total"
    write_text(folder / OPERATORS_FILE, averages.table(sort_by=order, row_limit=TOP_OPERATORS))
