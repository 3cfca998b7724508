"""Write a checkpoint in the format of another library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clipmed.commands.output import print_facts, print_json
from clipmed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write a checkpoint as a folder for Hugging Face transformers, or as ONNX graphs of both towers.

    The folder's embeddings are compared with the checkpoint's first; one that differs is not written. The checkpoint's
    card and calibration go along, and probabilities have the calibrated scale. OpenCLIP itself needs no export:
    open_clip.create_model_from_pretrained("local-dir:FOLDER") loads a checkpoint as it is; one with a Hugging Face text
    tower from inside its folder, as "local-dir:.", or by its name once it is on the hub.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """folder, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or the URL of a folder"""
    format: Literal["transformers", "onnx"]
    """transformers: AutoModel and AutoProcessor load it, without code of its own; onnx: needs clipmed[onnx]"""
    out: Path
    """the folder to write; another export that is there is replaced"""
    half: bool = False
    """onnx only: store weights in float16, for half the size; results change by about 1e-4"""
    json: bool = False
    """print the report as JSON"""

    def __post_init__(self) -> None:
        if self.half and self.format != "onnx":
            raise ConfigError("half: only ONNX graphs are stored in float16; drop --half or give --format onnx")


def run(command: Command) -> None:
    """Write the folder and print the report."""
    from clipmed.api import load
    from clipmed.description import read_card
    from clipmed.exporting.carried import Carried
    from clipmed.exporting.onnx_export import export_onnx
    from clipmed.exporting.transformers_export import export_transformers
    from clipmed.hub import fetch

    model = load(command.checkpoint, "cpu")
    two_tower = model.two_tower
    source = {"checkpoint": command.checkpoint, "checkpoint_digest": model.digest}
    card = read_card(fetch(command.checkpoint, offline=True))  # it has been fetched a moment ago
    carried = Carried(card=card, calibration=model.calibration)
    if command.format == "onnx":
        report = export_onnx(two_tower, command.out, source, carried, half=command.half)
    else:
        report = export_transformers(two_tower, command.out, source, carried)
    if command.json:
        print_json(report)
    else:
        print_facts({"folder": command.out, **report})
