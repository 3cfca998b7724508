"""Files and folders on their way: written by one process each, and what a dead one left is taken over.

    NAME.clipmed-partial                     nobody's: left by a download that failed, or was stopped
    NAME.HOST-PID-THREAD.clipmed-partial     being written, or left by a process that was killed

Locks keep processes apart where a disk knows them. Some network disks say yes to every lock; there, two processes that
wrote one file would spoil it for both. So each writes under a name of its own. Renaming is how an old one is taken: of
several that try, one succeeds.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".clipmed-partial"
QUIET_S = 120.0  # longer than a download waits for its server, all its tries together
_OWNER = re.compile(r"\.([A-Za-z0-9_]+)-(\d+)-\d+" + re.escape(SUFFIX) + "$")


def owner() -> str:
    """Return a name of this thread that no other has, on any machine that shares a disk."""
    return f"{_host()}-{os.getpid()}-{threading.get_ident()}"


@contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Yield where to write what shall become `path`; what an earlier process left of it is there already.

    Whoever is done renames it. What is there at the end of the block is kept for the next one; what others left is
    removed once `path` is there.
    """
    own = path.with_name(f"{path.name}.{owner()}{SUFFIX}")
    for left in left_overs(path.parent, f"{path.name}."):
        if _renamed(left, own):
            break
    try:
        yield own
    finally:
        if path.exists():
            for left in (own, *left_overs(path.parent, f"{path.name}.")):
                remove(left)
        else:
            _renamed(own, path.with_name(path.name + SUFFIX))


def write_shared(path: Path, text: str) -> None:
    """Write a small text file atomically where several processes may write it at once; the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(path) as own:
        own.write_text(text, encoding="utf-8")
        own.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def left_overs(folder: Path, prefix: str = "") -> list[Path]:
    """Return what lies in a folder and nobody writes any more, the largest first; what is so called, or all."""
    entries = [entry for entry in folder.iterdir() if entry.name.startswith(prefix) and entry.name.endswith(SUFFIX)]
    return sorted(filter(_is_left, entries), key=_num_bytes, reverse=True)


def _is_left(entry: Path) -> bool:
    owned = _OWNER.search(entry.name)
    if owned is None or (owned[1] == _host() and not _is_running(int(owned[2]))):
        return True
    return time.time() - max((status.st_mtime for status in _statuses(entry)), default=math.inf) > QUIET_S


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return True  # Windows would send a signal
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of another user, or nobody can say
    return True


def _statuses(entry: Path) -> list[os.stat_result]:
    """Return the status of a file, or of a folder and what is in it; less where another process removes it just now."""
    found = []
    with suppress(OSError):
        found.append(entry.stat())
        found.extend(path.stat() for path in (entry.iterdir() if entry.is_dir() else ()))
    return found


def _num_bytes(entry: Path) -> int:
    return sum(status.st_size for status in _statuses(entry) if stat.S_ISREG(status.st_mode))


def _renamed(old: Path, new: Path) -> bool:
    """Rename; whether that was done: another process may have been first."""
    try:
        if old.is_dir():
            remove(new)
        old.replace(new)
    except OSError:
        return False
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:60] or "host"
