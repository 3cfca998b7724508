"""Signals that ask a run to stop: taken note of at once, answered at the end of the step, by all processes alike."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from clipmed.errors import ClipmedError

# In the order of precedence where processes got different ones: to be ended outweighs to be requeued.
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGINT", "SIGTERM")


# Exit status of a stopped run: BSD's EX_TEMPFAIL, "try again later".
STOPPED_STATUS = 75


class StoppedBySignalError(ClipmedError):
    """A run that saved its state and stopped because a signal asked for it; the same command goes on."""

    def __init__(self, name: str, step: int, out: Path) -> None:
        super().__init__(f"stopped by {name}: {out} is saved at step {step}; the same command goes on from there")
        self.name = name
        self.step = step

    @classmethod
    def read_from(cls, text: str, out: Path) -> StoppedBySignalError | None:
        """Return the error whose message a job left in `text`, or None where there is none."""
        found = re.search(r"stopped by (SIG\w+): .* is saved at step (\d+);", text)
        return None if found is None else cls(found[1], int(found[2]), out)


class StopSignals:
    """Installs handlers for SIGTERM, SIGUSR1, SIGUSR2 and SIGINT while it is entered; a second SIGINT interrupts.

    A scheduler's signal may reach one process or all. `code` is a number that processes can exchange: 0 without a
    signal, else one more than its place in `SIGNALS`. Entered inside another, it begins with what that one took.
    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._code = 0
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The strongest signal so far, 0 for none."""
        return self._code

    @staticmethod
    def name_of(code: int) -> str:
        """Return the name of a code's signal."""
        return SIGNALS[code - 1]

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = signal.Signals[name]
                self._before[number] = signal.signal(number, self._take)
            outer = {getattr(handler, "__self__", None) for handler in self._before.values()}
            self._code = max((other.code for other in outer if isinstance(other, StopSignals)), default=0)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self._code:
            raise KeyboardInterrupt
        if not self._code:  # print() could be in the middle of a print() here
            os.write(2, f"\ntrain: {name}: stops when the state is saved, after this step\n".encode())
        self._code = max(self._code, SIGNALS.index(name) + 1)
