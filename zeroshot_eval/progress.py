"""A progress bar for work that may be over at once: what draws it is imported when there is something to show."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

DELAY_S = 2.0


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts what is done of a total; a bar on standard error shows it from the second second on."""

    total: int
    what: str
    unit: str
    done: int = 0
    _start: float = field(default_factory=time.monotonic)
    _bar: Any = None

    def update(self, count: int = 1) -> None:
        """Add what is done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._start > DELAY_S:
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.what, unit=self.unit, initial=self.done, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(total: int, what: str, unit: str) -> Iterator[Progress]:
    """Yield what counts the work of the block."""
    counted = Progress(total=total, what=what, unit=unit)
    try:
        yield counted
    finally:
        counted.close()
