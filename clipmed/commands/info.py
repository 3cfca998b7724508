"""Show what a checkpoint is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from clipmed.commands.output import print_facts


@dataclass(frozen=True, kw_only=True)
class Command:
    """Show what a checkpoint is."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """folder, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or the URL of a folder"""


def run(command: Command) -> None:
    """Print the checkpoint's sizes and statistics."""
    from clipmed.checkpoints import load_checkpoint

    tower = load_checkpoint(command.checkpoint)
    print_facts(
        {
            "checkpoint": command.checkpoint,
            "parameters": sum(parameter.numel() for parameter in tower.model.parameters()),
            "embedding dimensions": tower.model_cfg["embed_dim"],
            "image size": tower.image_size,
            "context length": tower.context_length,
            "pixel mean": [round(value, 4) for value in tower.mean],
            "pixel std": [round(value, 4) for value in tower.std],
        }
    )
