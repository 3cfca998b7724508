"""What becomes of a Slurm job whose run stopped by a signal: it waits in the queue again, or it has ended.

Slurm leaves that to the job more often than not. What it does, as seen from inside the job:

    before the time limit     SIGUSR2 (or the signal that sbatch --signal names); the job has to requeue itself
    preempted, grace time     SIGTERM while the job is RUNNING with a PreemptTime; one that ends within its grace time
                              counts as completed, so it has to requeue itself
    preempted, no grace time  SIGTERM, and the job is COMPLETING and requeued already: its restarts have gone up
    scancel                   SIGTERM, and the job is COMPLETING; it has ended
    scancel --signal=TERM     SIGTERM while the job is RUNNING without a PreemptTime; it has ended
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import warnings
from typing import Literal

Fate = Literal["requeue", "requeued", "ended"]
TIMEOUT_S = 60


def fate_of_job(signal_name: str, job: str, restarts: int) -> Fate:
    """Return what a stopped run's job has to do: requeue itself, nothing since Slurm requeued it, or nothing at all.

    Args:
        signal_name: what stopped the run, such as SIGTERM.
        job: what `scontrol show job` says about the job.
        restarts: how often the job had been requeued when it started.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", job))
    if int(fields.get("Restarts", 0)) > restarts:
        return "requeued"
    is_preempted = fields.get("PreemptTime", "None") != "None"
    if fields.get("JobState") == "RUNNING" and (is_preempted or signal_name in ("SIGUSR1", "SIGUSR2")):
        return "requeue"
    return "ended"


def requeue_stopped_job(signal_name: str) -> bool:
    """See to it that the Slurm job around this process runs again, if it should; return whether it does.

    A signal that asks for a requeue where Slurm refuses it is a warning.
    """
    number = os.environ["SLURM_JOB_ID"]
    try:
        job = _scontrol("--oneliner", "show", "job", number)
        fate = fate_of_job(signal_name, job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
        if fate == "requeue":
            _scontrol("requeue", number)
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip()
        warnings.warn(f"Slurm job {number} is not requeued after {signal_name}: {reason}", stacklevel=2)
        return False
    return fate != "ended"


def _scontrol(*words: str) -> str:
    """Run scontrol, deaf to SIGTERM: as a process of the job it would be ended by the requeue that it asks for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which it inherits
    try:
        done = subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return done.stdout
