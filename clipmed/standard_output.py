"""Standard output whose reader, such as `head`, may have enough before all is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the program quietly, with status 1, where nobody reads its output any more.

    A pipe that breaks elsewhere, as to a worker that died, is an error as before.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _has_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        sys.exit(1)


def _has_left() -> bool:
    try:
        sys.stdout.write("\n")  # a write alone tells
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False
