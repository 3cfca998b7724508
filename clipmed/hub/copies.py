"""Copies of a fetched checkpoint in a folder of the user's own, and links to files of a cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from clipmed.checkpoint_files import CONFIG_FILE
from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import atomic_folder
from clipmed.hub.partials import owner


def copy_checkpoint(folder: Path, out: Path) -> Path:
    """Copy a checkpoint's files, links followed, into `out`, atomically; return it.

    Raises:
        ConfigError: something else than a checkpoint stands at `out`.
        CheckpointError: there is no checkpoint to copy.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: no {CONFIG_FILE} in it")
    if out.resolve() == folder.resolve():
        return out
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CONFIG_FILE).is_file())):
        raise ConfigError(f"out: {out} is there and no checkpoint; remove it first, or give another folder")
    with atomic_folder(out) as partial:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, partial / path.name)
    return out


def link_file(content: Path, path: Path, target: Path) -> None:
    """Let `path` be a link to a file, or a copy of it where the disk has no links; atomically.

    Args:
        content: the file.
        path: where the link shall lie.
        target: what the link shall say: the file's path, absolute or as seen from the link's folder.
    """
    if path.is_symlink() and path.resolve() == content.resolve():
        return
    temporary = path.with_name(f".{path.name}.{owner()}.partial")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
    except OSError:
        shutil.copyfile(content, temporary)
    temporary.replace(path)
