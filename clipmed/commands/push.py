"""Publish a checkpoint on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clipmed.commands.output import print_facts, print_json


@dataclass(frozen=True, kw_only=True)
class Command:
    """Publish a checkpoint on the Hugging Face hub, in one commit, with a card that says what a stranger must know.

    Refused are a folder that does not load, a calibration of other weights, and a card without data, licences, training
    configuration, scores or limits of use: the message says what fills each. Nothing is sent twice. The token is that
    of HF_TOKEN or `hf auth login`.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """the checkpoint: a run's model/ folder, a merge, or an import"""
    repository: Annotated[str, tyro.conf.Positional]
    """org/name; made if it is not there"""
    private: bool = False
    """make the repository private, if it is to be made"""
    branch: str = "main"
    """the branch to commit to; made if it is not there"""
    tag: str | None = None
    """name the commit, so that others can pin it: hf-hub:org/name@TAG"""
    scores: tuple[Path, ...] = ()
    """scores.json of evaluations of this folder; they fill the card's section and the hub's table"""
    no_scores: bool = False
    """publish without scores"""
    license: str | None = None
    """of the weights, as the hub names it: apache-2.0, mit, cc-by-nc-4.0, other …"""
    dry_run: bool = False
    """check everything and print what would be sent, with the card; send nothing"""
    json: bool = False
    """print the result as JSON"""


def run(command: Command) -> None:
    """Push, and print what was sent."""
    from dataclasses import asdict

    from clipmed.hub.publishing import Push, push

    wanted = Push(
        folder=command.folder,
        repository=command.repository,
        private=command.private,
        branch=command.branch,
        tag=command.tag,
        scores=command.scores,
        no_scores=command.no_scores,
        license=command.license,
    )
    done = push(wanted, dry_run=command.dry_run)
    if command.json:
        print_json({"dry_run": command.dry_run, **asdict(done)})
        return
    facts = {
        "repository": done.repository,
        "commit": done.commit or "none: a dry run",
        "sent" if done.commit else "to send": ", ".join(done.sent) or "nothing: all of it is there",
        "removed": ", ".join(done.removed),
        "left out": ", ".join(done.left_out),
        "to pin it": f"hf-hub:{done.repository}@{done.commit}" if done.commit else "",
    }
    print_facts({name: value for name, value in facts.items() if value})
    if command.dry_run:
        print(f"\n{done.card}")
