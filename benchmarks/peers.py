"""Peers in environments of their own under build/peers, so that their pins never meet ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clipmed.errors import ConfigError
from clipmed.files import write_text

FOLDER = Path("build/peers")
REQUIREMENTS = {
    "pubmed_parser": ("pubmed_parser==0.5.1", "lxml==6.1.3"),
    # It imports requests without requiring it, and fails on single-label tasks with numpy 2.4.
    "clip_benchmark": ("clip-benchmark==1.6.2", "open_clip_torch==3.3.0", "requests", "numpy<2.4"),
    "open_clip": ("open_clip_torch==3.3.0", "webdataset==0.2.86", "torch", "torchvision", "pandas", "psutil"),
}


def set_up(peer: str) -> Path:
    """Create a peer's environment, if it is not there; return its Python."""
    python = FOLDER / peer / "bin" / "python"
    done = FOLDER / peer / "installed.txt"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / peer)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]], check=True)
        write_text(done, "\n".join(REQUIREMENTS[peer]) + "\n")
    return python


def python_of(peer: str) -> Path:
    """Return the Python of a peer's environment.

    Raises:
        ConfigError: it was not created.
    """
    if not (FOLDER / peer / "installed.txt").exists():
        raise ConfigError(f"{peer} has no environment in {FOLDER}; create it by running this benchmark with --setup")
    return FOLDER / peer / "bin" / "python"
