"""Serve a local page and JSON API to try checkpoints on images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from clipmed.commands.output import print_json
from clipmed.devices import DType
from clipmed.errors import ConfigError

if TYPE_CHECKING:
    from clipmed.api import ClipModel
    from clipmed.search import SearchIndex

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Command:
    """Serve a local page to try checkpoints: drop an image, type labels, see each checkpoint's probabilities.

    With an index of images (`clipmed index`) it shows similar ones and their captions too. The page needs no network.
    Images are held in memory while they are worked on; neither they nor labels are written to disk or logged.
    Ctrl-C ends it. Research only, not a medical device.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """one or more, shown side by side: folders, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or folders' URLs"""
    index: Path | None = None
    """folder of an index, built by one of the checkpoints, to show similar images from"""
    host: str = "127.0.0.1"
    """address to listen on; another than this machine's own loopback needs --allow-remote"""
    port: int = 8000
    """port to listen on; 0 takes any that is free"""
    allow_remote: bool = False
    """let other machines in: everybody who reaches the port can use the page and see the index's thumbnails"""
    open: bool = False
    """open the page in a browser"""
    max_upload_mb: float = 20.0
    """the largest image taken, in megabytes"""
    workers: int = 1
    """requests that the models work on at once; each uses all the threads that PyTorch does"""
    queue: int = 8
    """requests that may wait besides; a further one gets status 503"""
    device: str = "auto"
    """where to run: auto (a GPU where there is one), cpu, cuda, cuda:1, mps"""
    dtype: DType = "float32"
    """numbers to compute in: float32, bfloat16 or float16"""
    json: bool = False
    """print the address and the checkpoints as a line of JSON instead of text"""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ConfigError("checkpoints: got none; give one or more, such as build/demo/run/model")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port: got {self.port}; allowed: 0 to 65535")


def run(command: Command) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from clipmed.extras import require

    require("fastapi", "serve")
    require("python_multipart", "serve")
    require("uvicorn", "serve")
    from clipmed.serve import guard, server
    from clipmed.serve.app import app
    from clipmed.serve.limits import Limits

    limits = Limits(upload_bytes=int(command.max_upload_mb * MEGABYTE), working=command.workers, waiting=command.queue)
    is_remote = not guard.is_loopback(command.host)
    _check_remote(command, is_remote=is_remote)
    listener = server.listen(command.host, command.port)
    with listener:
        models = _load(command)
        index = _open_index(command.index)
        application = app(models, index, limits=limits, names=guard.own_names(command.host), any_address=is_remote)
        url = server.url_of(listener)
        _announce(command, url, list(models))
        if command.open:
            import webbrowser

            webbrowser.open(url)
        server.run(application, listener)


def _check_remote(command: Command, *, is_remote: bool) -> None:
    if is_remote and not command.allow_remote:
        raise ConfigError(
            f"--host {command.host} would let other machines in; add --allow-remote if you want that, or leave --host "
            "at 127.0.0.1 and reach it through an SSH tunnel (ssh -L 8000:localhost:8000 MACHINE)"
        )
    if is_remote:
        print(
            f"clipmed: warning: listening on {command.host}: everybody who reaches the port can use this server. There "
            "are no passwords and no encryption",
            file=sys.stderr,
        )


def _load(command: Command) -> dict[str, ClipModel]:
    """Return the checkpoints by their names."""
    from clipmed.api import load
    from clipmed.serve.naming import short_names

    names = short_names(command.checkpoints)
    return {
        name: load(location, command.device, dtype=command.dtype)
        for name, location in zip(names, command.checkpoints, strict=True)
    }


def _open_index(folder: Path | None) -> SearchIndex | None:
    if folder is None:
        return None
    from clipmed.search import SearchIndex

    return SearchIndex.open(folder)


def _announce(command: Command, url: str, names: list[str]) -> None:
    if command.json:
        print_json({"url": url, "checkpoints": names})
    else:
        print(f"{url}  serves {', '.join(names)}; Ctrl-C ends it")
    sys.stdout.flush()
