"""Locks between processes: one waits for another, or says which other is at work."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clipmed.errors import ConfigError

_TRIED_S = 0.1


def locked(path: Path, timeout_s: float | None = None) -> AbstractContextManager[Any]:
    """Return a lock that one process holds at a time, on disks that know locks.

    Entering it waits for another that holds it: for ever, or raises TimeoutError after `timeout_s`, above 0.
    """
    from huggingface_hub import utils

    lock: AbstractContextManager[Any] = utils.WeakFileLock(path, timeout=timeout_s)  # type: ignore[attr-defined]
    return lock


@contextlib.contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Hold a lock beside what is written, `.NAME.lock`; the file stays, as removing it would let two in at once.

    Raises:
        ConfigError: another run holds it; the message says which.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path, _TRIED_S))
        except TimeoutError as error:
            raise ConfigError(
                f"{target} is being written by {_holder(path)}; wait until it has ended, or give another --out"
            ) from error
        mine = f"{os.getpid()}\n"
        if not path.read_bytes().startswith(mine.encode()):  # where disks know no locks, the file is the lock
            path.write_text(f"{mine}{socket.gethostname()}\n", encoding="utf-8")
        yield


def _holder(path: Path) -> str:
    """Return what a lock's file says of the run that holds it."""
    try:
        process, host = path.read_text(encoding="utf-8").split("\n")[:2]
    except (OSError, ValueError):  # it has not been written yet, or the system locks it against reading, too
        return "another run"
    return f"another run, process {process} on {host}"
