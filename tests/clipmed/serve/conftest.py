"""Two tiny checkpoints, an index by the first, and a server of them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clipmed
from clipmed.search import build_index
from tests.clipmed.serve.serving import Server, noise, serving
from tests.clipmed.tiny import tiny_checkpoint

KINDS = ["a lung", "a skull"]
INDEXED = 11
UPLOAD_MB = 6


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints that differ, the second one calibrated."""
    folder = tmp_path_factory.mktemp("checkpoints")
    first = tiny_checkpoint(folder / "first", logit_scale=20.0)
    second = tiny_checkpoint(folder / "second", logit_scale=30.0)
    model = clipmed.load(second, "cpu")
    pictures = [noise(seed=seed) for seed in range(40)]
    told = [answer.label for answer in model.classify(pictures, KINDS)]
    truths = [label if number % 3 else KINDS[number % 2] for number, label in enumerate(told)]
    model.calibrate(pictures, truths, KINDS).save(second)
    return {"first": first, "second": second}


@pytest.fixture(scope="session")
def models(checkpoints: dict[str, Path]) -> dict[str, clipmed.ClipModel]:
    return {name: clipmed.load(folder, "cpu") for name, folder in checkpoints.items()}


@pytest.fixture(scope="session")
def index_folder(models: dict[str, clipmed.ClipModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    paths = [str(folder / f"{number}.png") for number in range(INDEXED)]
    for number, path in enumerate(paths):
        noise(seed=number).save(path)
    captions = {path: f"picture {number}" for number, path in enumerate(paths) if number}
    build_index(models["first"], paths, folder / "index", captions=captions)
    return folder / "index"


@pytest.fixture(scope="session")
def server(
    checkpoints: dict[str, Path], index_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    folders = map(str, checkpoints.values())
    arguments = ("--index", str(index_folder), "--max-upload-mb", str(UPLOAD_MB), "--queue", "1")
    with serving(log, *folders, *arguments) as running:
        yield running
        assert running.end() == 0
    assert log.read_text() == ""  # nothing written to disk, nothing logged, no matter what the tests sent
