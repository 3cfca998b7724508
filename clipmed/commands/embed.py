"""Write embeddings of images to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipmed.commands.options import CheckpointOptions, Images, image_files


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions):
    """Write unit-length image embeddings to a NumPy file, with the images' paths beside them."""

    images: Images
    """image files, folders of them, or globs"""
    out: Path
    """the .npz to write: `embeddings` (N, D) float32 and `paths` (N,)"""


def run(command: Command) -> None:
    """Write the embeddings of every image."""
    import numpy as np

    from clipmed.api import load
    from clipmed.files import atomic_file

    paths = image_files(command.images)
    embeddings = load(command.checkpoint, command.device).embed_images(paths).cpu().numpy()
    with atomic_file(command.out) as temporary, temporary.open("wb") as stream:
        np.savez(stream, embeddings=embeddings, paths=np.array([str(path) for path in paths]))
    print(f"{command.out}: {embeddings.shape[0]} embeddings of {embeddings.shape[1]} dimensions")
