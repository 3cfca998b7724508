"""Digests of local files, kept beside the embeddings so that a file that has not changed is read once."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipmed.errors import DataError
from clipmed.files import atomic_file, sha256_file
from zeroshot_eval.progress import progress


def confined(root: Path, name: str) -> Path:
    """Return the path of a file below a folder.

    Raises:
        DataError: the name leads out of the folder, by dots, as an absolute path or over a link, or nothing is there.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"{name!r} leads out of {root}; allowed: files below it")
    if not path.is_file():
        raise DataError(f"{root} has no file {name!r}, which its list names; restore it or take it off the list")
    return path


def file_digests(root: Path, names: Sequence[str], cache: Path | None) -> list[str]:
    """Return the hex SHA-256 of every file below a folder, as far as possible from the cache."""
    return [str(digest) for digest in remembered(root, names, sha256_file, cache, "files")]


def remembered(
    root: Path, names: Sequence[str], function: Callable[[Path], Any], cache: Path | None, what: str
) -> list[Any]:
    """Return what a function finds in each file; what it found before where size and time of change are the same.

    Args:
        root: folder of the files.
        names: their paths below it.
        function: maps a path to what JSON can hold.
        cache: folder of the record; None keeps none.
        what: begins the name of the record's file.
    """
    record = None if cache is None else cache / f"{what}-{_digest(str(root.resolve()))[:24]}.json"
    known = _read(record)
    paths = [confined(root, name) for name in names]
    stamps = [f"{stat.st_size}:{stat.st_mtime_ns}" for stat in (path.stat() for path in paths)]
    fresh = [place for place, name in enumerate(names) if known.get(name, ("", ""))[0] != stamps[place]]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(function, [paths[place] for place in fresh])
        with progress(len(fresh), "reading files", "file") as bar:
            for place, value in zip(fresh, found, strict=True):
                known[names[place]] = (stamps[place], value)
                bar.update()
    if fresh and record is not None:
        with atomic_file(record, durable=False) as temporary:  # a damaged record is read anew
            temporary.write_text(json.dumps(known), encoding="utf-8")
    return [known[name][1] for name in names]


def _read(record: Path | None) -> dict[str, tuple[str, Any]]:
    try:
        values = json.loads(record.read_text(encoding="utf-8")) if record is not None and record.is_file() else {}
        return {str(name): (str(stamp), value) for name, (stamp, value) in values.items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # damaged: every file is read again


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
