"""`clipmed serve` as a process of its own, in which writing to disk is an error once it serves."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file

REPOSITORY = Path(__file__).parents[3]
# An audit hook sees every file that Python opens, wherever: what would write fails from the first answer on.
PROGRAM = """
import os, sys, threading

def end_with_the_tests():
    while os.read(0, 1):
        pass
    os._exit(1)

threading.Thread(target=end_with_the_tests, daemon=True).start()  # however they end: then standard input does
from clipmed.__main__ import main
from clipmed.serve import server

CHANGES = {"os.mkdir", "os.rename", "os.truncate", "os.link", "os.symlink", "tempfile.mkstemp", "tempfile.mkdtemp"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, args):
    if event in CHANGES or event == "open" and args[0] != os.devnull and (args[2] or 0) & WRITING:
        sys.stderr.write(f"WRITES {event} {args[0]}\\n")
        raise PermissionError(f"{event} {args}")

run = server.run
def watched(application, listener):
    sys.addaudithook(watch)
    run(application, listener)

server.run = watched
main(sys.argv[1:])
"""


@dataclass
class Server:
    """A server that runs."""

    url: str
    checkpoints: list[str]
    process: subprocess.Popen[str]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port

    def post(self, path: str, image: bytes, *, name: str = "image.png", **fields: object) -> httpx.Response:
        return httpx.post(self.url + path, files={"image": (name, image)}, data=fields, timeout=60)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def serving(log: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Server]:
    """Serve on a free port, with standard error in the file `log`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*prefix, sys.executable, "-c", PROGRAM, "serve", *arguments, "--port", "0", "--json", "--device", "cpu"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Server(**json.loads(line), process=process, log=log)
        finally:
            process.kill()


def noise(width: int = 70, height: int = 50, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def dicom(name: str) -> bytes:
    """The bytes of a file that pydicom brings."""
    return Path(str(get_testdata_file(name))).read_bytes()


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()
