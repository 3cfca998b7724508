"""Fetch a checkpoint, so that it can be used without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clipmed.commands.output import print_facts, print_json


@dataclass(frozen=True, kw_only=True)
class Command:
    """Fetch a checkpoint into the cache ($HF_HOME), or into a folder, and print the line that pins it in code.

    A download that was cut is continued by the next pull. On a cluster, pull on a node with a network, and set
    HF_HUB_OFFLINE=1 in jobs.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or the URL of a folder"""
    out: Path | None = None
    """copy it into this folder, too"""
    revision: str | None = None
    """branch, tag or commit of a hub repository; a commit's full hash pins every byte"""
    sha256: str | None = None
    """what the weights must hash to, in hex"""
    offline: bool = False
    """look only at what is on this machine"""
    json: bool = False
    """print the facts as JSON"""


def run(command: Command) -> None:
    """Fetch, check and print where it is."""
    from clipmed.checkpoint_files import WEIGHTS_FILE, check_sums, file_sha256
    from clipmed.hub import pinned, resolve
    from clipmed.hub.copies import copy_checkpoint

    found = resolve(
        command.checkpoint,
        revision=command.revision,
        sha256=command.sha256,
        offline=True if command.offline else None,
    )
    checked = check_sums(found.folder)
    folder = copy_checkpoint(found.folder, command.out) if command.out else found.folder
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    facts = {
        "folder": str(folder),
        "commit": found.commit,
        "sha256": sha256,
        "files checked": len(checked),
        "to use it": pinned(found, sha256),
    }
    if command.json:
        print_json(facts)
    else:
        print_facts({name: value for name, value in facts.items() if value is not None})
