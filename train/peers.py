"""What the processes of a run agree on while they write files together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")

# Longer than the slowest process takes to write its part.
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Result]):
    """What an action gave in one process; with `error`, that it failed, and how the system calls it if it does."""

    result: Result | None = None
    error: str | None = None
    number: int | None = None
    file: str | None = None


class Peers:
    """The processes of one run, over a gloo group of their own: a thread may use it while training uses another.

    Every process makes one at the same point, and calls `all_do` equally often.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self._world_size = world_size
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if world_size > 1 else None

    def all_do(self, action: Callable[[], Result]) -> list[Result]:
        """Return what `action` gave in every process, by rank; where it failed in one, it fails in all.

        Raises:
            OSError: with the error number of the first process that met one.
            RuntimeError: where another process failed for another reason.
        """
        if self._world_size == 1:
            return [action()]
        failure: Exception | None = None
        try:
            own = _Outcome(result=action())
        except OSError as error:
            failure = error
            own = _Outcome(error=error.strerror or str(error), number=error.errno, file=error.filename)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others wait to hear of it
            failure = error
            own = _Outcome(error=f"{type(error).__name__}: {error}")
        outcomes: list[Any] = [None] * self._world_size
        dist.all_gather_object(outcomes, own, group=self._group)
        _raise_first(outcomes, failure)
        return [outcome.result for outcome in outcomes]

    def first_does(self, action: Callable[[], Result]) -> Result:
        """Return in every process what `action` gave in the process of rank 0, the only one that calls it."""
        return self.all_do(lambda: action() if self.rank == 0 else None)[0]  # type: ignore[return-value]


def _raise_first(outcomes: list[_Outcome[Any]], own_failure: Exception | None) -> None:
    failed = [(rank, outcome) for rank, outcome in enumerate(outcomes) if outcome.error is not None]
    if not failed:
        return
    rank, first = failed[0]
    if first.number is not None:
        raise OSError(first.number, f"{first.error} (process {rank})", first.file) from own_failure
    if own_failure is not None and not isinstance(own_failure, OSError):
        raise own_failure
    raise RuntimeError(f"process {rank}: {first.error}") from own_failure
