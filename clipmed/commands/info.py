"""Show what a checkpoint is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from clipmed.commands.output import print_facts, print_json


@dataclass(frozen=True, kw_only=True)
class Command:
    """Show what a checkpoint is: sizes, pixels, digest, licence, data, calibration, parents. Loads no weights."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """folder, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or the URL of a folder"""
    revision: str | None = None
    """branch, tag or commit of a hub repository"""
    offline: bool = False
    """use only what is on this machine"""
    json: bool = False
    """print the facts as JSON"""


def run(command: Command) -> None:
    """Print the checkpoint's facts."""
    from clipmed.description import describe
    from clipmed.hub import resolve

    offline = True if command.offline else None
    facts = describe(resolve(command.checkpoint, revision=command.revision, offline=offline))
    if command.json:
        print_json(facts)
    else:
        print_facts({name: _shown(value) for name, value in facts.items() if value not in (None, [])})


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value)
    return (
        f"{value:,}"
        if isinstance(value, int) and value > 9999
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
