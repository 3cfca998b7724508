"""Command line of the library: `clipmed classify | embed | info`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from clipmed.errors import ClipmedError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
Paths = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Score images against labels, zero-shot."""

    images: Paths
    """image files, or folders of them"""
    labels: tuple[str, ...]
    """two or more labels, such as --labels "normal chest" pneumonia"""
    checkpoint: str = "build/demo/run/model"
    """checkpoint folder or hf-hub:org/name"""
    device: str = "cpu"
    """where to run: cpu, cuda, …"""
    json: bool = False
    """print JSON lines instead of a table"""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write unit-length image embeddings to a NumPy file, with the images' paths beside them."""

    images: Paths
    """image files, or folders of them"""
    out: Path
    """the .npz to write: `embeddings` (N, D) float32 and `paths` (N,)"""
    checkpoint: str = "build/demo/run/model"
    """checkpoint folder or hf-hub:org/name"""
    device: str = "cpu"
    """where to run: cpu, cuda, …"""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show what a checkpoint is."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "build/demo/run/model"
    """checkpoint folder or hf-hub:org/name"""


def classify(config: Classify) -> None:
    """Print the probabilities of every image."""
    from clipmed.api import load

    paths = _image_files(config.images)
    results = load(config.checkpoint, config.device).classify(paths, config.labels)
    if config.json:
        for path, result in zip(paths, results, strict=True):
            print(json.dumps({"image": str(path), "label": result.label, "probabilities": result.probabilities}))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("image", overflow="fold"),
        *config.labels,
        title=f"Probabilities by {config.checkpoint}",
        caption="Research use only.",
    )
    for path, result in zip(paths, results, strict=True):
        cells = [
            f"[bold green]{value:.3f}[/]" if label == result.label else f"{value:.3f}"
            for label, value in result.probabilities.items()
        ]
        table.add_row(str(path), *cells)
    Console().print(table)


def embed(config: Embed) -> None:
    """Write the embeddings of every image."""
    import numpy as np

    from clipmed.api import load
    from clipmed.files import atomic_file

    paths = _image_files(config.images)
    embeddings = load(config.checkpoint, config.device).embed_images(paths).cpu().numpy()
    with atomic_file(config.out) as temporary, temporary.open("wb") as stream:
        np.savez(stream, embeddings=embeddings, paths=np.array([str(path) for path in paths]))
    print(f"{config.out}: {embeddings.shape[0]} embeddings of {embeddings.shape[1]} dimensions")


def info(config: Info) -> None:
    """Print the checkpoint's sizes and statistics."""
    from clipmed.checkpoints import load_checkpoint

    tower = load_checkpoint(config.checkpoint)
    facts = {
        "checkpoint": config.checkpoint,
        "parameters": sum(parameter.numel() for parameter in tower.model.parameters()),
        "embedding dimensions": tower.model_cfg["embed_dim"],
        "image size": tower.image_size,
        "context length": tower.context_length,
        "pixel mean": [round(value, 4) for value in tower.mean],
        "pixel std": [round(value, 4) for value in tower.std],
    }
    for name, value in facts.items():
        print(f"{name:>22}  {value}")


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "classify": (Classify, classify),
    "embed": (Embed, embed),
    "info": (Info, info),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; errors of the input go to standard error with exit status 1."""
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: config_class for name, (config_class, _) in COMMANDS.items()},
        prog="clipmed",
        description="Zero-shot use of medical CLIP checkpoints. For research; not a medical device.",
        args=args,
    )
    try:
        next(run for config_class, run in COMMANDS.values() if isinstance(parsed, config_class))(parsed)
    except ClipmedError as error:
        sys.exit(f"clipmed: {error}")


def _image_files(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the image files in them, sorted."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in IMAGE_SUFFIXES)
        files.extend(inside if path.is_dir() else [path])
    if not files:
        shown = ", ".join(map(str, paths)) or "nothing"
        raise ClipmedError(f"no images in {shown}; allowed endings in a folder: {' '.join(IMAGE_SUFFIXES)}")
    return files


if __name__ == "__main__":
    main()
