"""One thread for the work of one process, where processes are what runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the threads of NumPy's linear algebra and of OpenCV to one inside the block.

    They share out work on single images, which costs more than it saves: waiting threads take the cores of other
    processes. The order of sums is then also the same on every machine.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)
