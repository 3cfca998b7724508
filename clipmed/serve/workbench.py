"""The work of the models: a few requests at once, in threads, so that the page answers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from clipmed.serve.limits import Limits, RefusedError

T = TypeVar("T")
RETRY_AFTER_S = 2


class Workbench:
    """Admits so many requests, before their uploads are read; works on a few of them at once."""

    def __init__(self, limits: Limits) -> None:
        self._places = limits.working + limits.waiting
        self._threads = ThreadPoolExecutor(limits.working, thread_name_prefix="clipmed-work")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place; places bound the memory that uploads take.

        Raises:
            RefusedError: 503, all are taken.
        """
        if self._places <= 0:
            raise RefusedError(
                503, "the server is busy: all its places are taken; try again in a moment", retry_after_s=RETRY_AFTER_S
            )
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, from a thread; if this is cancelled before its turn, it is not begun."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
