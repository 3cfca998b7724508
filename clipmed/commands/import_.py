"""Convert a published checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clipmed.commands.output import print_facts, print_json
from clipmed.importing.published import Layout


@dataclass(frozen=True, kw_only=True)
class Command:
    """Convert a published checkpoint, a pickle or of another layout, into one that everything here reads.

    Pickles are read by PyTorch's restricted unpickler: a file that asks for more than tensors is refused, and nothing
    of it runs. Missing and unexpected tensors are errors. The folder is complete, with the text tower's config and
    tokenizer, and its card names the source, its hash, its licence where that is known, and this command.
    """

    source: Annotated[str, tyro.conf.Positional]
    """a file of weights, a folder that holds one, or hf-hub:org/name[@revision]; each may end in #sha256=…"""
    out: Path
    """the checkpoint folder to write"""
    layout: Layout = "auto"
    """auto: by the names of the tensors; openclip: OpenCLIP's own, with --model or a config beside it; biomedclip,
    unimed, bmc-clip: as published; transformers: a CLIPModel, such as PubMedCLIP"""
    model: str | None = None
    """the architecture, where no config lies beside the weights: OpenCLIP's name, one of clipmed's, or a JSON file"""
    tokenizer: str | None = None
    """the text tower's config and tokenizer: a folder, or org/name of the hub; what the config names if not given"""
    license: str | None = None
    """of the weights, as the hub names it; that of a published checkpoint is known"""
    sha256: str | None = None
    """what the file of weights must hash to, in hex; it is not read otherwise"""
    offline: bool = False
    """use only what is on this machine"""
    json: bool = False
    """print the result as JSON"""


def run(command: Command) -> None:
    """Convert, and print what came of it."""
    from clipmed.checkpoint_files import checkpoint_digest
    from clipmed.importing import Import, import_checkpoint

    done = import_checkpoint(
        Import(
            source=command.source,
            out=command.out,
            layout=command.layout,
            model=command.model,
            tokenizer=command.tokenizer,
            license=command.license,
            sha256=command.sha256,
            offline=True if command.offline else None,
        )
    )
    facts = {
        "folder": str(done.folder),
        "layout": done.layout,
        "from": done.weights,
        "sha256": done.sha256,
        "tensors": done.tensors,
        "left out": list(done.left_out),
        "digest": checkpoint_digest(done.folder),
    }
    if command.json:
        print_json(facts)
    else:
        print_facts(facts | {"left out": ", ".join(done.left_out) or "none"})
