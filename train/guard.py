"""Which steps may change the weights: losses and gradients that are not finite, and losses far above those before.

The guard sees every step's loss and gradient norm before the optimiser does. It decides from numbers that are equal on
all processes (the batch's loss and the averaged gradients' norm), so that all decide alike. Its memory is saved in
checkpoints, so that a resumed run decides as an uninterrupted one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clipmed.errors import ClipmedError
from clipmed.files import write_json
from train.config import GuardConfig

Action = Literal["keep", "skip", "stop"]
Trouble = Literal["none", "not_finite", "spike"]

# A loss that hardly varies is no spike for varying a little: the deviation counts as at least this part of the mean.
LEAST_DEVIATION = 1e-3
# fp16's loss scaler starts at 2**16 and halves its factor at every overflow: after so many it is below 2**-24, where
# nothing that could be scaled is left.
SCALER_OVERFLOWS = 40


class Verdict(NamedTuple):
    """What to do with a step: `reason` says what was seen and `remedy` what to change; both empty for `keep`."""

    action: Action
    trouble: Trouble = "none"
    reason: str = ""
    remedy: str = ""


class Guard:
    """Judges steps one after the other."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._in_row = 0
        self._overflows = 0
        self._num_skipped = 0

    @property
    def num_skipped(self) -> int:
        """Steps of the run so far that changed nothing, those that the loss scaler skipped among them."""
        return self._num_skipped

    def judge(self, loss: float, grad_norm: float, scaler_active: bool = False) -> Verdict:
        """Return whether the step may change the weights, must not, or ends the run.

        Args:
            loss: the batch's loss.
            grad_norm: norm of its gradients, before clipping.
            scaler_active: under fp16, where a norm that is not finite belongs to the work of the loss scaler: it skips
                the step and lowers its factor, and the step counts as kept.
        """
        verdict = self._look(loss, grad_norm, scaler_active)
        if verdict.action == "keep":
            self._in_row = 0
            self._losses.append(loss)
            self._num_skipped += self._overflows > 0
            return verdict
        self._in_row += 1
        self._num_skipped += 1
        if verdict.action == "skip" and self._in_row >= self._config.max_skipped:
            reason = f"{verdict.reason}; guard.max_skipped: {self._in_row} steps in a row changed nothing"
            return verdict._replace(action="stop", reason=reason)
        return verdict

    def state(self) -> dict[str, Any]:
        """Return what the next verdicts depend on, for JSON, which keeps every bit of it."""
        return {
            "losses": list(self._losses),
            "in_row": self._in_row,
            "overflows": self._overflows,
            "num_skipped": self._num_skipped,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`; of a longer window's losses the last are taken."""
        self._losses = deque(state["losses"], maxlen=self._config.window)
        self._in_row = state["in_row"]
        self._overflows = state["overflows"]
        self._num_skipped = state["num_skipped"]

    def _look(self, loss: float, grad_norm: float, scaler_active: bool) -> Verdict:
        overflow = not math.isfinite(grad_norm)
        self._overflows = self._overflows + 1 if overflow and scaler_active else 0
        if self._overflows >= SCALER_OVERFLOWS:
            return Verdict(
                "stop",
                "not_finite",
                f"the gradients of {self._overflows} steps in a row were not finite, at any factor of the loss scaler",
                "Take precision bf16 or fp32, or lower optim.lr",
            )
        if not math.isfinite(loss) or (overflow and not scaler_active):
            return Verdict(
                self._config.not_finite,
                "not_finite",
                f"loss {loss}, gradient norm {grad_norm}; both must be finite",
                "Lower optim.lr, lengthen optim.warmup_steps or set optim.clip_grad_norm",
            )
        return self._look_for_spike(loss)

    def _look_for_spike(self, loss: float) -> Verdict:
        config = self._config
        if config.spike == "ignore" or len(self._losses) < config.window:
            return Verdict("keep")
        mean = statistics.fmean(self._losses)
        deviation = max(statistics.pstdev(self._losses, mean), LEAST_DEVIATION * abs(mean))
        if loss <= mean + config.spike_deviations * deviation:
            return Verdict("keep")
        return Verdict(
            config.spike,
            "spike",
            f"loss {loss:.4g}, {(loss - mean) / deviation:.1f} standard deviations above the mean {mean:.4g} of the "
            f"{config.window} steps before; allowed: {config.spike_deviations:g}",
            "Lower optim.lr, or raise guard.spike_deviations",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedStep:
    """A step that was not kept, with this process's samples: `keys` (n,) and the part of the loss of each, (n,)."""

    step: int
    rank: int
    loss: float
    grad_norm: float
    verdict: Verdict
    keys: Sequence[str]
    losses: Sequence[float]

    def write(self, folder: Path) -> Path:
        """Write the step and its samples, the largest losses first, to the run folder; return the path."""
        samples = sorted(zip(self.keys, self.losses, strict=True), key=lambda sample: -_rank_of(sample[1]))
        path = folder / f"{self.verdict.trouble}_step_{self.step}_rank_{self.rank}.json"
        content = {
            "step": self.step,
            "action": self.verdict.action,
            "reason": self.verdict.reason,
            "loss": str(self.loss),
            "grad_norm": str(self.grad_norm),
            "keys": [key for key, _ in samples],
            "losses": [str(loss) for _, loss in samples],
        }
        write_json(path, content)
        return path

    def message(self, path: Path) -> str:
        """Return what is said of the step; `path` is where it was written."""
        stops = self.verdict.action == "stop"
        shown = ", ".join(self.keys[:3]) + (" …" if len(self.keys) > 3 else "")
        return (
            f"{'' if stops else 'skipped '}step {self.step}: {self.verdict.reason}. The weights were not changed. "
            f"Samples: {shown} (all {len(self.keys)} keys in {path}). {self.verdict.remedy}, and look at these samples"
            f"{'; the newest checkpoint stands' if stops else ''}"
        )

    def error(self, path: Path) -> ClipmedError:
        """Return the error that ends the run."""
        return ClipmedError(self.message(path))


def _rank_of(loss: float) -> float:
    """Return a loss to sort by; one that is not finite is the largest."""
    return loss if math.isfinite(loss) else math.inf
